"""Attention between few prompt tokens and many image tokens, with SAM-2's own weights and less work.

No image token need be projected: q (W x) = (q W) x, so each head's weights can go to the prompt's side, and products
with the plain image tokens remain. That costs T H D multiplications for each image token instead of C (D + T): less
for few prompt tokens, and by far for the last attention, of which our masks read one token or two.

Shapes: B images, P prompts, N image tokens, T prompt tokens, D = width, C = D / 2 = H c, H heads.
Next in the tour: `two_way.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from unsam_lightning.lora import LoRALinear


def prompts_to_image(attention: Any, queries: Tensor, placed: Tensor, keys: Tensor, shared: Tensor | None) -> Tensor:
    """Return the attention of prompt tokens to image tokens, (P, T, D).

    Args:
        attention: Stock `Attention`, with or without LoRA on its projections.
        queries: Prompt tokens with their positions, (P, T, D).
        placed: Image tokens with their positions, (P, N, D), or (B, N, D) with `shared`.
        keys: Image tokens without positions, the values of the attention, in the same shape.
        shared: int64 (P,), the image of each prompt, whose prompts share its tokens.
    """
    unprojected = not _drops(attention.k_proj, attention.v_proj) and _pays_unprojected(attention, queries)
    if shared is None and unprojected:
        return of_image(attention, queries, placed, keys, lambda scores: scores.softmax(-1))
    q, k, v = attention.q_proj(queries), attention.k_proj(placed), attention.v_proj(keys)
    if shared is not None and len(k) == 1:
        found = _attention(q.flatten(0, 1)[None], k, v, attention.num_heads).view(q.shape)
    else:
        k, v = (k, v) if shared is None else (k[shared], v[shared])
        found = _attention(q, k, v, attention.num_heads)
    result: Tensor = attention.out_proj(found)
    return result


def image_to_prompts(attention: Any, placed: Tensor, queries: Tensor, values: Tensor, shared: Tensor | None) -> Tensor:
    """Return the attention of image tokens to prompt tokens as (P, N, D).

    Args:
        attention: As in `prompts_to_image`.
        placed: Likewise.
        queries: Likewise.
        values: Prompt tokens without positions, (P, T, D).
        shared: As there.
    """
    k, v = attention.k_proj(queries), attention.v_proj(values)
    into, out, heads = attention.q_proj, attention.out_proj, attention.num_heads
    if _drops(into, out) or placed.device.type != "cpu":
        q = into(placed)
        if shared is not None:
            q = of_prompts(q, shared).expand(len(k), -1, -1)
        result: Tensor = out(_attention(q, k, v, heads))
        return result
    # Image tokens along the last dimension: nothing is copied, and the softmax over few tokens runs along many.
    is_less = _pays_unprojected(attention, queries)
    k = k * (k.shape[-1] // heads) ** -0.5
    if is_less and shared is None:
        scores, bias = scores_of_prompts(k, placed, into, heads)
        scores.add_(bias[..., None])
    else:
        q = torch.bmm(into.weight.expand(len(placed), -1, -1), placed.transpose(1, 2)) + into.bias[:, None]
        if shared is not None:
            q = of_prompts(q, shared).expand(len(queries), -1, -1)
        k = _heads(k, heads).flatten(0, 1)  # (P H, T, c)
        scores = torch.bmm(k, q.reshape(len(k), k.shape[-1], q.shape[-1]))  # (P H, T, N)
    shares = scores.softmax(1).view(len(queries), heads * k.shape[-2], scores.shape[-1])  # (P, H T, N)
    if is_less:
        return torch.baddbmm(out.bias, shares.transpose(1, 2), into_image(v, out.weight.T, heads))
    v = _heads(v, heads).flatten(0, 1)
    found = torch.bmm(v.transpose(1, 2), shares.view_as(scores)).view(
        len(queries), into.out_features, scores.shape[-1]
    )  # (P, C, N)
    return torch.baddbmm(out.bias, found.transpose(1, 2), out.weight.T.expand(len(found), -1, -1))


def of_image(
    attention: Any,
    queries: Tensor,
    placed: Tensor,
    keys: Tensor,
    softmax: Callable[[Tensor], Tensor],
    unit: float = 1.0,
) -> Tensor:
    """Return what `prompts_to_image` does, without projecting the image's tokens.

    A bias of keys adds the same to every image token's score, which no softmax along these sees.

    Args:
        attention: As there.
        queries: As there.
        placed: (P, N, D), or (1, N, D) for all prompts.
        keys: Likewise.
        softmax: Of scores (R, N) along N.
        unit: Factor on the scores: 1, or log2(e) for a `softmax` in powers of two.
    """
    heads, into = attention.num_heads, attention.v_proj
    q = attention.q_proj(queries)
    q = into_image(q * (unit * (q.shape[-1] // heads) ** -0.5), attention.k_proj.weight, heads)  # (P, H T, D)
    if len(placed) == 1:
        found = softmax(linear(q.flatten(0, 1), placed[0])) @ keys[0]
    else:
        scores = torch.bmm(q, placed.transpose(1, 2))
        found = torch.bmm(softmax(scores.flatten(0, 1)).view_as(scores), keys)
    count, length, width = queries.shape
    by_head = found.view(count, heads, length, width).transpose(0, 1).reshape(heads, count * length, width)
    values = torch.bmm(by_head, into.weight.view(heads, -1, width).transpose(1, 2))  # (H, P T, c)
    values = values.transpose(0, 1).reshape(count, length, into.out_features)
    result: Tensor = attention.out_proj(values + into.bias)
    return result


def scores_of_prompts(k: Tensor, placed: Tensor, into: Any, heads: int) -> tuple[Tensor, Tensor]:
    """Return the scores (P H, T, N) that image tokens give prompt tokens, without a bias, and that bias (P H, T).

    Args:
        k: Keys of the prompt tokens, divided by the root of a head's width, (P, T, C).
        placed: As in `of_image`.
        into: The layer that would project these.
        heads: H.
    """
    count, length, channels = k.shape
    bias = (k.float() * into.bias.float()).view(count, length, heads, channels // heads).sum(-1)
    k = into_image(k, into.weight, heads)  # (P, H T, D)
    scores = linear(k.flatten(0, 1), placed[0]) if len(placed) == 1 else torch.bmm(k, placed.transpose(1, 2))
    return scores.view(count * heads, length, placed.shape[1]), bias.transpose(1, 2).reshape(count * heads, length)


def into_image(x: Tensor, weight: Tensor, heads: int) -> Tensor:
    """Return, head by head, x (P, T, C) times weight (C, D) as (P, H T, D)."""
    count, length, channels = x.shape
    width = weight.shape[1]
    by_head = x.reshape(count * length, heads, channels // heads).transpose(0, 1)
    product = torch.bmm(by_head, weight.reshape(heads, channels // heads, width))  # (H, P T, D)
    return product.view(heads, count, length, width).transpose(0, 1).reshape(count, heads * length, width)


def _pays_unprojected(attention: Any, queries: Tensor) -> bool:
    """Return whether attention without projecting the image's tokens takes fewer multiplications.

    On a GPU, whose fused attention keeps no scores in memory, it must take less than half of them.
    """
    length, width = queries.shape[1:]
    unprojected = length * attention.num_heads * width * (1 if queries.device.type == "cpu" else 2)
    return bool(unprojected < attention.k_proj.out_features * (width + length))


def _drops(*projections: Any) -> bool:
    """Return whether dropout acts in a projection, so that it must be applied to the tokens themselves."""
    return any(isinstance(each, LoRALinear) and each.drops for each in projections)


def of_prompts(images: Tensor, index: Tensor) -> Tensor:
    """Return what belongs to each prompt; a single image is broadcast and not copied."""
    return images if len(images) == 1 else images[index]


def _heads(x: Tensor, count: int) -> Tensor:
    batch, length, channels = x.shape
    return x.reshape(batch, length, count, channels // count).transpose(1, 2)  # (n, H, L, C / H)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (_heads(each, heads) for each in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (n, L, C)
