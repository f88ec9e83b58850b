"""The arranged transformer and upscaling against SAM-2's own modules."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.backbone import build_sam
from unsam_lightning.lora import LoRALinear, share_with_lora
from unsam_lightning.two_way import in_pixel_order, two_way, upscaled

SIDE, NUM_TOKENS = 6, 11


# Eleven prompt tokens are too many for nano's narrow decoder to spare the projections of the image's tokens.
@pytest.fixture(scope="module", params=["nano", "tiny"])
def sam_decoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return build_sam(request.param).sam_mask_decoder.eval()


def inputs(sam_decoder: Any, images: int, index: list[int], masks: bool) -> dict[str, Any]:
    torch.manual_seed(1)
    dim, prompts = sam_decoder.transformer_dim, len(index)
    one = torch.randn(1, dim, 1, 1).expand(prompts, -1, SIDE, SIDE)  # as the prompt encoder gives it without masks
    return {
        "image": torch.randn(images, dim, SIDE, SIDE),
        "index": torch.tensor(index),
        "dense": torch.randn(prompts, dim, SIDE, SIDE) if masks else one,
        "image_pe": torch.randn(1, dim, SIDE, SIDE),
        "tokens": torch.randn(prompts, NUM_TOKENS, dim),
        "wanted": slice(1, 4),
    }


def stock(transformer: Any, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    image = given["image"][given["index"]] + given["dense"]
    queries, keys = transformer(image, given["image_pe"].expand_as(image), given["tokens"])
    return queries[:, given["wanted"]], keys


CASES = [(1, [0, 0, 0], False), (1, [0, 0, 0], True), (2, [1, 0, 1], False), (2, [1, 0, 1], True), (1, [0], False)]


@pytest.mark.parametrize(("images", "index", "masks"), CASES)
@torch.no_grad()
def test_equals_the_stock_transformer(sam_decoder: Any, images: int, index: list[int], masks: bool) -> None:
    given = inputs(sam_decoder, images, index, masks)
    for mine, theirs in zip(
        two_way(sam_decoder.transformer, **given), stock(sam_decoder.transformer, given), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


# So small a dropout drops nothing, and the image's tokens are projected, as dropout needs it.
@pytest.mark.parametrize("dropout", [0.0, 1e-9, 0.5])
def test_lora_and_its_dropout_act_as_in_the_stock_order(sam_decoder: Any, dropout: float) -> None:
    config = AdapterConfig(lora_dropout=dropout)
    transformer = share_with_lora(sam_decoder.transformer, config).train()
    layers = [module for module in transformer.modules() if isinstance(module, LoRALinear)]
    assert layers
    with torch.no_grad():
        for layer in layers:
            layer.lora_b.normal_(std=0.1)
    given = inputs(sam_decoder, 1, [0, 0], masks=dropout == 0)
    if dropout < 0.1:
        for mine, theirs in zip(two_way(transformer, **given), stock(transformer, given), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    else:  # other numbers are dropped in another order: it must act, and stop acting in eval mode
        assert not torch.equal(two_way(transformer, **given)[1], two_way(transformer, **given)[1])
        transformer.eval()
        assert torch.equal(two_way(transformer, **given)[1], two_way(transformer, **given)[1])


@pytest.mark.parametrize(("images", "index", "masks"), CASES[:4])
def test_gradients_equal_the_stock_ones(sam_decoder: Any, images: int, index: list[int], masks: bool) -> None:
    given = inputs(sam_decoder, images, index, masks)
    gradients = []
    for forward in (lambda: two_way(sam_decoder.transformer, **given), lambda: stock(sam_decoder.transformer, given)):
        leaves = [given["image"].requires_grad_(), given["tokens"].requires_grad_()]
        leaves += [p for name, p in sam_decoder.transformer.named_parameters() if "k_proj.bias" not in name]
        queries, keys = forward()
        torch.manual_seed(3)
        loss = (queries * torch.randn(queries.shape)).sum() + (keys * torch.randn(keys.shape)).sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=1e-3)


@pytest.mark.parametrize(("images", "index"), [(1, [0, 0]), (3, [2, 0, 2, 1])])
@torch.no_grad()
def test_upscaling_equals_the_transposed_convolutions(sam_decoder: Any, images: int, index: list[int]) -> None:
    torch.manual_seed(2)
    dim, prompts = sam_decoder.transformer_dim, len(index)
    keys = torch.randn(prompts, SIDE**2, dim)
    fine = torch.randn(images, dim // 8, 4 * SIDE, 4 * SIDE)
    middle = torch.randn(images, dim // 4, 2 * SIDE, 2 * SIDE)
    up1, norm, act1, up2, act2 = sam_decoder.output_upscaling
    maps = keys.transpose(1, 2).reshape(prompts, dim, SIDE, SIDE)
    expected = act2(up2(act1(norm(up1(maps) + middle[index]))) + fine[index])
    found = in_pixel_order(upscaled(sam_decoder, keys, (fine, middle), torch.tensor(index)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_half_precision_stays_half_for_the_many_image_tokens(sam_decoder: Any) -> None:
    given = inputs(sam_decoder, 1, [0, 0], masks=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        floats = {name: value.bfloat16() for name, value in given.items() if name not in ("index", "wanted")}
        half = {**given, **floats}
        _, keys = two_way(sam_decoder.transformer, **half)
    assert keys.dtype == torch.bfloat16
    _, exact = two_way(sam_decoder.transformer, **given)
    assert float((keys.float() - exact).abs().mean()) < 0.03
