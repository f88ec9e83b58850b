"""SAM-2's two-way transformer and its upscaling, with the weights and the results of the stock modules and less work.

What the prompts of an image share is computed once: without mask prompts the first layer projects the image's tokens
for the image, not for each prompt. Image tokens stay rows of a matrix to the end: a transposed convolution whose stride
is its kernel is a linear layer, its normalization one over the last dimension, and only the finished masks are put into
the order of pixels.

Shapes: B images, P prompts, N = s x s image tokens, T prompt tokens, D = width, C = D / 2, H heads.
Next in the tour: `bfloat16_kernels.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from unsam_lightning.cross_attention import image_to_prompts, of_prompts, prompts_to_image


def two_way(
    transformer: Any, image: Tensor, index: Tensor, dense: Tensor, image_pe: Tensor, tokens: Tensor, wanted: slice
) -> tuple[Tensor, Tensor]:
    """Return the wanted ones of the prompt tokens (P, W, D), and the image tokens (P, N, D), after the transformer.

    Args:
        transformer: Stock `TwoWayTransformer`, with or without LoRA on its projections.
        image: Embeddings of the images, (B, D, s, s).
        index: int64 (P,), which image each prompt belongs to; not looked at for one image.
        dense: Mask prompts, (P, D, s, s); expanded from one where they are all the same.
        image_pe: Positions of the image's tokens, (1, D, s, s).
        tokens: Prompt tokens, (P, T, D).
        wanted: Which of them are read: the last attention is theirs alone.

    Differs: the result of `TwoWayTransformer` differs by rounding (a test holds it to 1e-5). In training with dropout
        in LoRA, the prompts of an image share its draw on the image's tokens in the first layer; the official code
        draws for each.
    """
    positions = rows_of(image_pe)  # (1, N, D)
    same_for_all = is_same_for_all(dense)
    keys = rows_of(image + dense[:1]) if same_for_all else rows_of(of_prompts(image, index) + dense)
    shared: Tensor | None = index if same_for_all else None  # until the prompts' own tokens have changed the keys
    queries = tokens
    for layer in transformer.layers:
        placed = keys + positions
        queries = _attend_to_prompts(layer, queries, tokens)
        attended = prompts_to_image(layer.cross_attn_token_to_image, queries + tokens, placed, keys, shared)
        queries = layer.norm2(queries + attended)
        queries = layer.norm3(queries + layer.mlp(queries))
        attended = image_to_prompts(layer.cross_attn_image_to_token, placed, queries + tokens, queries, shared)
        before = keys if shared is None else of_prompts(keys, shared)
        keys, shared = _normalized(layer.norm4, before + attended), None
    last = transformer.final_attn_token_to_image
    queries, tokens = queries[:, wanted], tokens[:, wanted]
    attended = prompts_to_image(last, queries + tokens, keys + positions, keys, shared)
    return transformer.norm_final_attn(queries + attended), keys


def upscaled(sam_decoder: Any, keys: Tensor, high_res: tuple[Tensor, Tensor], index: Tensor) -> Tensor:
    """Return the pixel embeddings (P, N, 16, D/8): for each image token those of its 4 x 4 pixels at stride 4.

    Args:
        sam_decoder: The stock mask decoder, for its `output_upscaling`.
        keys: Image tokens after the transformer, (P, N, D).
        high_res: Features of the images, (B, D/8, 4s, 4s) and (B, D/4, 2s, 2s).
        index: See `two_way`.
    """
    up1, norm, act1, up2, act2 = sam_decoder.output_upscaling
    fine, middle = (cells_of(each, steps) for each, steps in zip(high_res, (2, 1), strict=True))
    stride8 = _linear_of(up1, keys) + of_prompts(middle, index)  # (P, N, 4, D/4)
    stride8 = act1(_normalized(norm, stride8))
    stride4 = _linear_of(up2, stride8).flatten(2, 3) + of_prompts(fine, index)  # (P, N, 16, D/8)
    result: Tensor = act2(stride4)
    return result


def mask_logits(sam_decoder: Any, keys: Tensor, high_res: tuple[Tensor, Tensor], index: Tensor, rows: Tensor) -> Tensor:
    """Return mask logits (P, M, 4s, 4s), the products of the pixels' embeddings and the masks' rows (P, M, D/8)."""
    return logits_of(upscaled(sam_decoder, keys, high_res, index), rows)


def logits_of(embeddings: Tensor, rows: Tensor) -> Tensor:
    """Return mask logits (P, M, 4s, 4s) from what `upscaled` gives and rows (P, M, D/8)."""
    logits = embeddings.flatten(1, 2) @ rows.transpose(1, 2)
    return in_pixel_order(logits.view(*embeddings.shape[:3], rows.shape[1]))


class Arithmetic(NamedTuple):
    """How the two heavy steps of a decoder pass are computed: functions like `two_way` and `mask_logits` here."""

    two_way: Callable[[Any, Tensor, Tensor, Tensor, Tensor, Tensor, slice], tuple[Tensor, Tensor]]
    mask_logits: Callable[[Any, Tensor, tuple[Tensor, Tensor], Tensor, Tensor], Tensor]


#: Plain PyTorch: any dtype and device, differentiable.
PLAIN = Arithmetic(two_way, mask_logits)


def in_pixel_order(embeddings: Tensor) -> Tensor:
    """Return maps (P, M, 4s, 4s) from values (P, N, 16, M) in the order of `upscaled`."""
    count, tokens, _, channels = embeddings.shape
    side = round(tokens**0.5)
    # (token row, token column), then (row, column) at stride 8, then (row, column) at stride 4
    apart = embeddings.reshape(count, side, side, 2, 2, 2, 2, channels)
    return apart.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(count, channels, 4 * side, 4 * side)


def cells_of(features: Tensor, steps: int) -> Tensor:
    """Return features (B, M, 2^k s, 2^k s), k = `steps`, as (B, N, 4^k, M): the inverse of `in_pixel_order`."""
    batch, channels, side, _ = features.shape
    halves = [2] * steps
    apart = features.reshape(batch, channels, side // 2**steps, *halves, side // 2**steps, *halves)
    rows, columns = list(range(2, 3 + steps)), list(range(3 + steps, 4 + 2 * steps))
    order = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    return apart.permute(0, *order, 1).reshape(batch, (side // 2**steps) ** 2, 4**steps, channels)


def _linear_of(up: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Apply a transposed convolution of kernel 2 and stride 2 to rows (..., in) and return (..., 4, out)."""
    assert up.bias is not None
    rows: Tensor = linear(x, matrix_of(up), up.bias.repeat(4)).unflatten(-1, (4, up.out_channels))
    return rows


def is_same_for_all(dense: Tensor) -> bool:
    """Return whether mask prompts (P, D, s, s) are one, alone or expanded, and need not be told apart."""
    return len(dense) == 1 or (len(dense) > 1 and dense.stride(0) == 0)


def matrix_of(up: nn.ConvTranspose2d) -> Tensor:
    """Return a transposed convolution of kernel 2 and stride 2 as the matrix of a linear layer, (4 out, in)."""
    return up.weight.permute(2, 3, 1, 0).flatten(0, 2)


def rows_of(maps: Tensor) -> Tensor:
    """Return maps (B, D, s, s) as rows (B, N, D)."""
    return maps.flatten(2).transpose(1, 2)


def _normalized(norm: Any, x: Tensor) -> Tensor:
    """Normalize over the last dimension in x's own type: autocast would make float32 of the image's many tokens."""
    weight, bias = (each.to(x.dtype) for each in (norm.weight, norm.bias))
    with torch.autocast(x.device.type, enabled=False):
        normalized: Tensor = layer_norm(x, x.shape[-1:], weight, bias, norm.eps)
    return normalized


def _attend_to_prompts(layer: Any, queries: Tensor, tokens: Tensor) -> Tensor:
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + tokens
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    normalized: Tensor = layer.norm1(queries)
    return normalized
