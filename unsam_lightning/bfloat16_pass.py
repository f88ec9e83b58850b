"""The pass of `two_way.py` over many prompts of one image in bfloat16, on a CPU and without gradients.

No image token is projected, see `cross_attention.py`. The products are torch's, in bfloat16; between them are the
kernels of `bfloat16_kernels.py`.

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
from unsam_lightning.cross_attention import into_image, of_image, scores_of_prompts
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
        attended = of_image(layer.cross_attn_token_to_image, queries + tokens, placed, keys, _softmax, _LOG2_E)
        queries = layer.norm2(queries + attended)
        queries = layer.norm3(queries + layer.mlp(queries))
        attention, norm = layer.cross_attn_image_to_token, layer.norm4
        before, keys = keys, _of_prompts(attention, placed, queries + tokens, queries)
        placed = torch.empty_like(keys)
        shift = _floats(attention.out_proj.bias)
        kernels.add_and_normalize(_bits(keys), _bits(before), shift, *_affine(norm), positions_f32, _bits(placed))
    queries, tokens = queries[:, wanted], tokens[:, wanted]
    attended = of_image(transformer.final_attn_token_to_image, queries + tokens, placed, keys, _softmax, _LOG2_E)
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


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax along N of scores (R, N) in units of log 2, in their place."""
    kernels.softmax_in_rows(_bits(scores))
    return scores


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


def _of_prompts(attention: Any, placed: Tensor, queries: Tensor, values: Tensor) -> Tensor:
    """Return the attention of image tokens to prompt tokens (P, T, D) as (P, N, D), without the last bias."""
    heads = attention.num_heads
    k, v = attention.k_proj(queries), attention.v_proj(values)
    k = k * (_LOG2_E * (k.shape[-1] // heads) ** -0.5)
    scores, bias = scores_of_prompts(k, placed, attention.q_proj, heads)
    kernels.softmax_over_prompt(_bits(scores), _floats(bias))
    return torch.bmm(
        scores.view(len(k), heads * k.shape[1], placed.shape[1]).transpose(1, 2),
        into_image(v, attention.out_proj.weight.T, heads),
    )
