"""The bfloat16 pass of the decoder against torch's own numbers and against the pass in float32."""

import math

import numpy as np
import pytest
import torch
from shaken_model import shaken
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from unsam_lightning import bfloat16_kernels as kernels
from unsam_lightning.benchmarks.interactive import evaluate_interactive
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.whole_image import propose_masks
from unsam_lightning.bfloat16_pass import _bits
from unsam_lightning.one_image import _OneImage, prompt_decoder
from unsam_lightning.two_way import in_pixel_order

#: Half of bfloat16's last place, relative.
HALF_PLACE = 2.0**-8


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_softmax_over_the_image() -> None:
    scores = random(7, 256, scale=20.0).bfloat16()
    expected = (scores.float() * math.log(2)).softmax(-1)
    kernels.softmax_in_rows(_bits(scores))
    torch.testing.assert_close(scores.float(), expected, rtol=HALF_PLACE, atol=1e-20)


def test_softmax_over_the_prompt() -> None:
    scores, bias = random(6, 5, 64, scale=20.0).bfloat16(), random(6, 5, seed=1)
    expected = ((scores.float() + bias[..., None]) * math.log(2)).softmax(1)
    kernels.softmax_over_prompt(_bits(scores), bias.numpy())
    torch.testing.assert_close(scores.float(), expected, rtol=HALF_PLACE, atol=1e-20)


@pytest.mark.parametrize("before_for_all", [True, False])
def test_add_and_normalize(before_for_all: bool) -> None:
    added, before = random(3, 16, 24).bfloat16(), random(1 if before_for_all else 3, 16, 24, seed=1).bfloat16()
    shift, weight, bias = random(3, 24, seed=2)
    positions, placed = random(16, 24, seed=3), torch.empty_like(added)
    expected = layer_norm(added.float() + before.float() + shift, (24,), weight, bias)
    numbers = [each.numpy() for each in (shift, weight, bias)]
    kernels.add_and_normalize(_bits(added), _bits(before), *numbers, 1e-5, positions.numpy(), _bits(placed))
    torch.testing.assert_close(added.float(), expected, rtol=HALF_PLACE, atol=1e-4)
    torch.testing.assert_close(placed.float(), expected + positions, rtol=HALF_PLACE, atol=1e-4)


def test_finish_stride_8() -> None:
    x, features = random(2, 8, 24).bfloat16(), random(8, 24, seed=1)
    weight, bias = random(2, 24, seed=2)
    expected = gelu(layer_norm(x.float() + features, (24,), weight, bias))
    kernels.finish_stride_8(_bits(x), features.numpy(), weight.numpy(), bias.numpy(), 1e-5)
    torch.testing.assert_close(x.float(), expected, rtol=HALF_PLACE, atol=3e-4)


def test_masks_at_stride_4() -> None:
    x, features, rows = random(2, 9, 16 * 5, scale=3.0).bfloat16(), random(9, 16 * 5, seed=1), random(2, 4, 5, seed=2)
    pixels = in_pixel_order(gelu(x.float() + features).view(2, 9, 16, 5))  # (P, C, 12, 12)
    masks = torch.empty(2, 4, 12, 12)
    kernels.masks_at_stride_4(_bits(x), features.numpy(), rows.numpy(), masks.numpy())
    torch.testing.assert_close(masks, torch.einsum("pchw,pmc->pmhw", pixels, rows), rtol=0, atol=5e-3)


@pytest.mark.parametrize("adapter", ["default", "official", "compact"])
@pytest.mark.parametrize("num_clicks", [1, 4])
def test_answers_are_near_those_of_float32(adapter: str, num_clicks: int) -> None:
    model, embedding = shaken(adapter)
    exact, near = prompt_decoder(model, embedding), prompt_decoder(model, embedding, "bfloat16")
    generator = torch.Generator().manual_seed(2)
    points = 256 * torch.rand(5, num_clicks, 2, generator=generator)
    labels = (torch.rand(5, num_clicks, generator=generator) < 0.7).float()
    granularity = torch.linspace(0.1, 1.0, 5)
    previous = 5 * torch.randn(5, 1, 64, 64, generator=generator)
    for wanted, multimask in ((granularity, False), (None, False), (None, True)):
        for masks in (None, previous):
            expected = exact(points, labels, wanted, masks, multimask)
            found = near(points, labels, wanted, masks, multimask)
            assert found.masks.dtype == found.iou.dtype == torch.float32
            assert float((found.masks - expected.masks).abs().mean() / expected.masks.abs().mean()) < 0.03
            torch.testing.assert_close(found.iou, expected.iou, atol=0.02, rtol=0)


def test_granularities_are_encoded_in_float32() -> None:
    model, embedding = shaken("default")
    decode = prompt_decoder(model, embedding, "bfloat16")
    assert isinstance(decode, _OneImage)
    mine, theirs = decode.adapter.granularity_encoder, model.decoder.granularity_encoder
    asked = torch.linspace(0.1, 1.0, 10)
    assert torch.equal(mine(asked), theirs(asked))
    assert next(model.decoder.parameters()).dtype == torch.float32


@pytest.mark.parametrize("wanted", [torch.zeros(0), None])
def test_no_prompts_have_no_masks(wanted: Tensor | None) -> None:
    model, embedding = shaken("default")
    decode = prompt_decoder(model, embedding, "bfloat16")
    for masks in (None, torch.zeros(0, 1, 64, 64)):
        found = decode(torch.zeros(0, 1, 2), torch.zeros(0, 1), wanted, masks, False)
        assert found.masks.shape == (0, 1, 64, 64)


def test_what_cannot_be_done_in_bfloat16_is_said() -> None:
    model, embedding = shaken("default")
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.warns(UserWarning, match="precision bfloat16"):
        prompt_decoder(model, embedding, "bfloat16")


def test_sessions_do_not_depend_on_the_number_of_threads() -> None:
    model, embedding = shaken("default")
    masks = np.zeros((2, 60, 80), np.int8)
    masks[0, 10:40, 5:50], masks[1, 30:55, 40:75] = 1, 1
    sample = EvalSample(key="one", image=np.zeros((60, 80, 3), np.uint8), masks=masks, ids=["a", "b"])
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(evaluate_interactive(model, embedding, sample, max_clicks=3, precision="bfloat16"))
    finally:
        torch.set_num_threads(before)
    assert [one.ious for one in found[0]] == [one.ious for one in found[1]]


def test_proposals_do_not_depend_on_the_number_of_threads() -> None:
    model, embedding = shaken("default")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = propose_masks(model, embedding, points_per_side=4, precision="bfloat16")
        torch.set_num_threads(3)
        three = propose_masks(model, embedding, points_per_side=4, precision="bfloat16")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one.logits, three.logits)
    assert torch.equal(one.scores, three.scores)
    exact = propose_masks(model, embedding, points_per_side=4)
    agree = np.mean(((exact.logits > 0) == (one.logits > 0)).numpy())
    assert agree > 0.98
