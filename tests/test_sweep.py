"""Prompts x granularities in passes of bounded size."""

from __future__ import annotations

import pytest
import torch

from unsam_lightning.decoder import Embedding
from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM
from unsam_lightning.sweep import decode_in_passes, decode_sweep


@pytest.fixture(scope="module")
def nano() -> UnSAM:
    model = UnSAM.from_pretrained("nano", seed=1)
    with torch.no_grad():
        model.decoder.granularity_encoder.mlp[-1].weight.mul_(30)  # so that the granularity matters
    return model


@pytest.fixture(scope="module")
def embedding(nano: UnSAM) -> Embedding:
    return nano.encode(torch.randint(0, 256, (2, 3, 256, 256), generator=torch.Generator().manual_seed(0)).byte())


def prompts(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(count, 2, 2, generator=generator) * 256
    masks = torch.randn(count, 1, 64, 64, generator=generator)
    return points, torch.tensor([[1, 0]]).expand(count, -1), masks, torch.arange(count) % 2


@torch.no_grad()
def test_sweep_equals_one_call_for_each_pair_and_stays_within_its_passes(
    nano: UnSAM, embedding: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, labels, masks, image = prompts(5)
    asked = [0.1, 0.4, 1.0]
    expected = [
        [
            nano.decode(
                embedding, points[p : p + 1], labels[p : p + 1], g, masks=masks[p : p + 1], image_index=image[p : p + 1]
            )
            for g in asked
        ]
        for p in range(5)
    ]
    sizes: list[int] = []
    decode = nano.decode

    def watched(embedding: Embedding, points: torch.Tensor, *rest: object) -> object:
        sizes.append(len(points))
        return decode(embedding, points, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(nano, "decode", watched)
    out = decode_sweep(nano, embedding, points, labels, asked, masks=masks, image_index=image, prompts_per_pass=4)
    assert sizes == [4, 4, 4, 3]
    assert (out.masks.shape, out.iou.shape, out.object_score.shape) == ((5, 3, 64, 64), (5, 3), (5, 3))
    assert out.tokens.shape == (5, 3, 96)
    assert out.pixels is None
    for p in range(5):
        for k in range(3):
            one = expected[p][k]
            torch.testing.assert_close(out.masks[p, k], one.masks[0, 0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(out.iou[p, k], one.iou[0, 0])
            torch.testing.assert_close(out.tokens[p, k], one.tokens[0, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(out.masks[:, 0], out.masks[:, 2], atol=0.1)


@torch.no_grad()
def test_prompt_i_is_on_image_i_at_every_granularity(nano: UnSAM, embedding: Embedding) -> None:
    points, labels, _, _ = prompts(2)
    by_default = decode_sweep(nano, embedding, points, labels, [0.2, 0.9], prompts_per_pass=3)
    by_index = decode_sweep(nano, embedding, points, labels, [0.2, 0.9], image_index=torch.arange(2))
    torch.testing.assert_close(by_default.masks, by_index.masks, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_passes_give_stock_sam_too(nano: UnSAM, embedding: Embedding) -> None:
    points, labels, _, _ = prompts(5)
    one = Embedding(embedding.image[:1], (embedding.high_res[0][:1], embedding.high_res[1][:1]))
    out = decode_in_passes(nano, one, points, labels, multimask=True, prompts_per_pass=2)
    whole = nano.decode(one, points, labels, multimask=True)
    torch.testing.assert_close(out.masks, whole.masks, atol=1e-4, rtol=1e-4)
    assert out.masks.shape == (5, 3, 64, 64)


def test_bad_requests_are_named(nano: UnSAM, embedding: Embedding) -> None:
    points, labels, _, image = prompts(4)
    with pytest.raises(UserError, match="one prompt for each of 2 images; found 4 prompts"):
        decode_in_passes(nano, embedding, points, labels)
    # Passes of two would never see what is too much.
    with pytest.raises(UserError, match=r"image_index int64 \(4,\), one for each prompt; found int64 \(5,\)"):
        decode_in_passes(nano, embedding, points, labels, image_index=torch.zeros(5).long(), prompts_per_pass=2)
    with pytest.raises(UserError, match=r"one for each of 4 prompts; found a shape of \(5,\)"):
        decode_in_passes(nano, embedding, points, labels, torch.ones(5), image_index=image, prompts_per_pass=2)
    with pytest.raises(UserError, match="prompts_per_pass >= 1; found 0"):
        decode_in_passes(nano, embedding, points, labels, image_index=image, prompts_per_pass=0)
    with pytest.raises(UserError, match="at least one granularity"):
        decode_sweep(nano, embedding, points, labels, [], image_index=image)
    with pytest.raises(UserError, match=r"labels int64 \(4, 2\), boxes float32 \(3, 4\)"):
        decode_in_passes(nano, embedding, points, labels, boxes=torch.zeros(3, 4), image_index=image)
    with pytest.raises(UserError, match="found none of them"):
        decode_in_passes(nano, embedding, None, None)
    with pytest.raises(UserError, match="at least one prompt; found none"):
        decode_in_passes(nano, embedding, points[:0], labels[:0], image_index=image[:0])
