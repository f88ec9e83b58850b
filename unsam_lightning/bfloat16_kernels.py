"""The element-wise steps of a decoder pass on a CPU, each one pass over bfloat16 numbers.

They lie between matrix products, which a processor with instructions for bfloat16 does in a third of the time of
float32. Numbers come and go as uint16, the upper half of a float32's bits, and are counted in float32 between.

Shapes: P prompts, N = s x s image tokens, T prompt tokens, D = width, H heads, M masks, C channels.
Next in the tour: `bfloat16_pass.py`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled_in_lanes, inlined_in_lanes
from unsam_lightning.lane_math import Floats, polynomial, power_of_2

Bits = npt.NDArray[np.uint16]


#: (Phi(x) - 1/2) / x by x^2 in [0, 16], Phi the normal distribution: the error of x Phi(x) is below 1e-5 for |x| <= 4
#: and beyond that below 4e-5 |x|, which bfloat16 does not see beside x.
_PHI = polynomial(lambda u: math.erf(math.sqrt(u / 2)) / (2 * math.sqrt(u)), 0.0, 16.0, 9)


@inlined_in_lanes
def _widen(bits: Bits, out: npt.NDArray[np.uint32]) -> None:
    for i in range(len(bits)):
        out[i] = np.uint32(bits[i]) << np.uint32(16)


@inlined_in_lanes
def _narrow(values: npt.NDArray[np.uint32], bits: Bits) -> None:
    """Round to the nearest bfloat16, ties to even; the values are finite."""
    for i in range(len(bits)):
        v = values[i]
        bits[i] = np.uint16((v + np.uint32(0x7FFF) + ((v >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@inlined_in_lanes
def _gelu(x: np.float32) -> np.float32:
    u = min(max(x, np.float32(-4)), np.float32(4))
    t = u * u * np.float32(0.125) - np.float32(1)
    p = np.float32(_PHI[9]) * t + np.float32(_PHI[8])
    p = p * t + np.float32(_PHI[7])
    p = p * t + np.float32(_PHI[6])
    p = p * t + np.float32(_PHI[5])
    p = p * t + np.float32(_PHI[4])
    p = p * t + np.float32(_PHI[3])
    p = p * t + np.float32(_PHI[2])
    p = p * t + np.float32(_PHI[1])
    p = p * t + np.float32(_PHI[0])
    return x * (np.float32(0.5) + u * p)


@compiled_in_lanes
def softmax_in_rows(scores: Bits) -> None:
    """Replace scores (R, N), in units of log 2, by their softmax along N."""
    n = scores.shape[1]
    bits, scratch = np.empty(n, np.uint32), np.empty(n, np.uint32)
    values, whole = bits.view(np.float32), scratch.view(np.float32)
    for r in range(len(scores)):
        row = scores[r]
        _widen(row, bits)
        top = values[0]
        for i in range(n):
            top = max(top, values[i])
        for i in range(n):
            values[i] -= top
        power_of_2(values, scratch, whole)
        total = np.float32(0)
        for i in range(n):
            total += values[i]
        share = np.float32(1) / total
        for i in range(n):
            values[i] *= share
        _narrow(bits, row)


@compiled_in_lanes
def softmax_over_prompt(scores: Bits, bias: Floats) -> None:
    """Replace scores (P H, T, N) + bias (P H, T), in units of log 2, by their softmax along T."""
    _, num_tokens, n = scores.shape
    bits, scratch = np.empty((num_tokens, n), np.uint32), np.empty(n, np.uint32)
    values, whole = bits.view(np.float32), scratch.view(np.float32)
    top, total = np.empty(n, np.float32), np.empty(n, np.float32)
    for g in range(len(scores)):
        top[:] = np.float32(-1e30)
        total[:] = 0
        for t in range(num_tokens):
            _widen(scores[g, t], bits[t])
            at, shift = values[t], bias[g, t]
            for i in range(n):
                at[i] += shift
                top[i] = max(top[i], at[i])
        for t in range(num_tokens):
            at = values[t]
            for i in range(n):
                at[i] -= top[i]
            power_of_2(at, scratch, whole)
            for i in range(n):
                total[i] += at[i]
        for i in range(n):
            total[i] = np.float32(1) / total[i]
        for t in range(num_tokens):
            at = values[t]
            for i in range(n):
                at[i] *= total[i]
            _narrow(bits[t], scores[g, t])


@inlined_in_lanes
def _normalize(x: Floats, weight: Floats, bias: Floats, eps: float) -> None:
    n = len(x)
    total = np.float32(0)
    for i in range(n):
        total += x[i]
    mean = total / np.float32(n)
    squares = np.float32(0)
    for i in range(n):
        x[i] -= mean
        squares += x[i] * x[i]
    scale = np.float32(1) / np.sqrt(squares / np.float32(n) + np.float32(eps))
    for i in range(n):
        x[i] = x[i] * scale * weight[i] + bias[i]


@compiled_in_lanes
def add_and_normalize(
    added: Bits, before: Bits, shift: Floats, weight: Floats, bias: Floats, eps: float, positions: Floats, placed: Bits
) -> None:
    """Replace `added` by LayerNorm(added + before + shift), and `placed` by that with the positions added.

    Args:
        added: (P, N, D).
        before: (P, N, D), or (1, N, D) for all prompts.
        shift: (D,).
        weight: (D,), of the normalization.
        bias: (D,), its.
        eps: Its.
        positions: (N, D).
        placed: (P, N, D).
    """
    num_prompts, num_tokens, width = added.shape
    bits, more = np.empty(width, np.uint32), np.empty(width, np.uint32)
    x, y = bits.view(np.float32), more.view(np.float32)
    for p in range(num_prompts):
        of = p if len(before) > 1 else 0
        for n in range(num_tokens):
            _widen(added[p, n], bits)
            _widen(before[of, n], more)
            for d in range(width):
                x[d] += y[d] + shift[d]
            _normalize(x, weight, bias, eps)
            for d in range(width):
                y[d] = x[d] + positions[n, d]
            _narrow(bits, added[p, n])
            _narrow(more, placed[p, n])


@compiled_in_lanes
def finish_stride_8(x: Bits, features: Floats, weight: Floats, bias: Floats, eps: float) -> None:
    """Replace x (P, R, C) by GELU(LayerNorm(x + features (R, C))), normalized over C."""
    _, rows, channels = x.shape
    bits = np.empty(rows * channels, np.uint32)
    values, added = bits.view(np.float32), features.reshape(rows * channels)
    for p in range(len(x)):
        flat = x[p].reshape(rows * channels)
        _widen(flat, bits)
        for i in range(len(values)):
            values[i] += added[i]
        for r in range(rows):
            _normalize(values[r * channels : (r + 1) * channels], weight, bias, eps)
        for i in range(len(values)):
            values[i] = _gelu(values[i])
        _narrow(bits, flat)


@compiled_in_lanes
def masks_at_stride_4(x: Bits, features: Floats, rows: Floats, masks: Floats) -> None:
    """Fill masks (P, M, 4s, 4s) with the products of GELU(x + features) and rows (P, M, C).

    Args:
        x: (P, N, 16 C), for each image token its 4 x 4 pixels in the order of `two_way.upscaled`.
        features: (N, 16 C).
        rows: (P, M, C), the masks' own embeddings.
        masks: Filled.
    """
    num_prompts, num_tokens, width = x.shape
    channels, side = width // 16, masks.shape[-1] // 4
    bits = np.empty(width, np.uint32)
    values = bits.view(np.float32)
    for p in range(num_prompts):
        for n in range(num_tokens):
            _widen(x[p, n], bits)
            for i in range(width):
                values[i] = _gelu(values[i] + features[n, i])
            for k in range(16):
                y = 4 * (n // side) + 2 * (k // 8) + (k % 4) // 2
                column = 4 * (n % side) + 2 * ((k // 4) % 2) + k % 2
                for m in range(rows.shape[1]):
                    product = np.float32(0)
                    for c in range(channels):
                        product += values[k * channels + c] * rows[p, m, c]
                    masks[p, m, y, column] = product
