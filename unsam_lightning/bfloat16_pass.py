"""The pass of `two_way.py` over many prompts of one image in bfloat16, on a CPU and without gradients.

Attention between few prompt tokens and many image tokens needs no projection of the image: q (W x) = (q W) x, so every
head's weights go to the prompt's side, and two products with the plain image tokens remain. A bias of keys adds the
same to every image token's score, which a softmax along these does not see. The products are torch's, in bfloat16;
between them are the kernels of `bfloat16_kernels.py`.

On a processor without instructions for bfloat16 (AVX512_BF16, AMX) it is right but slow.
Shapes: see `two_way.py`, with B = 1. Next in the tour: `decoder.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import linear

from unsam_lightning import bfloat16_kernels as kernels
from unsam_lightning.two_way import Arithmetic, cells_of, is_same_for_all, matrix_of, rows_of

_LOG2_E = 1.4426950408889634


def two_way(
    transformer: Any, image: Tensor, index: Tensor, dense: Tensor, image_pe: Tensor, tokens: Tensor, wanted: slice
) -> tuple[Tensor, Tensor]:
    """Return the wanted prompt tokens (P, W, D) and the image tokens (P, N, D) after the transformer, in bfloat16.

    Args:
        transformer: Stock `TwoWayTransformer`, its weights in bfloat16.
        image: Embedding of one image, (1, D, s, s), bfloat16 like all that follow.
        index: Not looked at.
        dense: See `two_way.two_way`.
        image_pe: Positions of the image's tokens, (1, D, s, s).
        tokens: Prompt tokens, (P, T, D).
        wanted: Which of them are read.
    """
    keys = rows_of(image + (dense[:1] if is_same_for_all(dense) else dense)).contiguous()
    positions = rows_of(image_pe)
    placed, positions_f32 = keys + positions, _floats(positions[0])
    queries = tokens
    for layer in transformer.layers:
        asking = queries if layer.skip_first_layer_pe else queries + tokens
        attended = _among_prompts(layer.self_attn, asking, queries)
        queries = layer.norm1(attended if layer.skip_first_layer_pe else queries + attended)
        queries = layer.norm2(queries + _of_image(layer.cross_attn_token_to_image, queries + tokens, placed, keys))
        queries = layer.norm3(queries + layer.mlp(queries))
        attention, norm = layer.cross_attn_image_to_token, layer.norm4
        before, keys = keys, _of_prompts(attention, placed, queries + tokens, queries)
        placed = torch.empty_like(keys)
        shift = _floats(attention.out_proj.bias)
        kernels.add_and_normalize(_bits(keys), _bits(before), shift, *_affine(norm), positions_f32, _bits(placed))
    queries, tokens = queries[:, wanted], tokens[:, wanted]
    attended = _of_image(transformer.final_attn_token_to_image, queries + tokens, placed, keys)
    return transformer.norm_final_attn(queries + attended), keys


def mask_logits(sam_decoder: Any, keys: Tensor, high_res: tuple[Tensor, Tensor], index: Tensor, rows: Tensor) -> Tensor:
    """Return mask logits float32 (P, M, 4s, 4s) from rows (P, M, D/8); see `two_way.mask_logits`."""
    up1, norm, _, up2, _ = sam_decoder.output_upscaling
    features = zip((up2, up1), high_res, (2, 1), strict=True)
    fine, middle = (_floats(cells_of(each, steps)[0].float() + up.bias.float()) for up, each, steps in features)
    num_prompts, num_tokens, _ = keys.shape
    stride8 = linear(keys, matrix_of(up1)).reshape(num_prompts, 4 * num_tokens, up1.out_channels)
    kernels.finish_stride_8(_bits(stride8), middle.reshape(-1, up1.out_channels), *_affine(norm))
    stride4 = linear(stride8, matrix_of(up2)).reshape(num_prompts, num_tokens, 16 * up2.out_channels)
    side = 4 * round(num_tokens**0.5)
    logits = torch.empty(*rows.shape[:2], side, side)
    kernels.masks_at_stride_4(_bits(stride4), fine.reshape(len(fine), -1), _floats(rows), logits.numpy())
    return logits


#: What a decoder pass is given to be computed in this way.
BFLOAT16 = Arithmetic(two_way, mask_logits)


def _bits(x: Tensor) -> npt.NDArray[np.uint16]:
    bits: npt.NDArray[np.uint16] = x.view(torch.int16).numpy().view(np.uint16)
    return bits


def _floats(x: Tensor) -> npt.NDArray[np.float32]:
    floats: npt.NDArray[np.float32] = x.float().contiguous().numpy()
    return floats


def _affine(norm: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]:
    return _floats(norm.weight), _floats(norm.bias), float(norm.eps)


def _among_prompts(attention: Any, asking: Tensor, values: Tensor) -> Tensor:
    """Return the self-attention of prompt tokens (P, T, D): too few for torch's own attention to pay."""
    heads = attention.num_heads
    q, k, v = attention.q_proj(asking), attention.k_proj(asking), attention.v_proj(values)
    count, length, channels = q.shape
    each = channels // heads
    q, k, v = (x.view(count, length, heads, each).transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (P H, T, c)
    shares = torch.bmm(q * (_LOG2_E * each**-0.5), k.transpose(1, 2))
    kernels.softmax_in_rows(_bits(shares).reshape(-1, length))
    found = torch.bmm(shares, v).view(count, heads, length, each).transpose(1, 2).reshape(count, length, channels)
    result: Tensor = attention.out_proj(found)
    return result


def _into_image(x: Tensor, weight: Tensor, heads: int) -> Tensor:
    """Return, head by head, x (P, T, C) times weight (C, D) as (P, H T, D)."""
    count, length, channels = x.shape
    width = weight.shape[1]
    by_head = x.reshape(count * length, heads, channels // heads).transpose(0, 1)
    product = torch.bmm(by_head, weight.reshape(heads, channels // heads, width))  # (H, P T, D)
    return product.view(heads, count, length, width).transpose(0, 1).reshape(count, heads * length, width)


def _of_image(attention: Any, queries: Tensor, placed: Tensor, keys: Tensor) -> Tensor:
    """Return the attention of prompt tokens (P, T, D) to image tokens, (P, N, D) or (1, N, D) for all prompts."""
    heads, into = attention.num_heads, attention.v_proj
    q = attention.q_proj(queries)
    q = _into_image(q * (_LOG2_E * (q.shape[-1] // heads) ** -0.5), attention.k_proj.weight, heads)  # (P, H T, D)
    if len(placed) == 1:
        scores = linear(q.flatten(0, 1), placed[0])  # (P H T, N)
        kernels.softmax_in_rows(_bits(scores))
        found = scores @ keys[0]
    else:
        scores = torch.bmm(q, placed.transpose(1, 2))
        kernels.softmax_in_rows(_bits(scores).reshape(-1, placed.shape[1]))
        found = torch.bmm(scores, keys)
    count, length, width = queries.shape
    by_head = found.view(count, heads, length, width).transpose(0, 1).reshape(heads, count * length, width)
    values = torch.bmm(by_head, into.weight.view(heads, -1, width).transpose(1, 2))  # (H, P T, c)
    values = values.transpose(0, 1).reshape(count, length, into.out_features)
    result: Tensor = attention.out_proj(values + into.bias)
    return result


def _of_prompts(attention: Any, placed: Tensor, queries: Tensor, values: Tensor) -> Tensor:
    """Return the attention of image tokens to prompt tokens (P, T, D) as (P, N, D), without the last bias."""
    heads = attention.num_heads
    k, v = attention.k_proj(queries), attention.v_proj(values)
    count, length, channels = k.shape
    k = k * (_LOG2_E * (channels // heads) ** -0.5)
    bias = (k.float() * attention.q_proj.bias.float()).view(count, length, heads, channels // heads).sum(-1)
    k = _into_image(k, attention.q_proj.weight, heads)  # (P, H T, D)
    v = _into_image(v, attention.out_proj.weight.T, heads)
    scores = linear(k.flatten(0, 1), placed[0]) if len(placed) == 1 else torch.bmm(k, placed.transpose(1, 2))
    num_tokens = placed.shape[1]
    scores = scores.view(count, heads * length, num_tokens)
    by_head = _bits(scores).reshape(count * heads, length, num_tokens)
    kernels.softmax_over_prompt(by_head, _floats(bias.transpose(1, 2)).reshape(count * heads, length))
    return torch.bmm(scores.transpose(1, 2), v)
