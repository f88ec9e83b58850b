"""A bank of tileable textures, computed once per process, from which surfaces take windows, turned and scaled.

Channel 0 is the detail that a surface shows as lightness, channel 1 a second pattern that it shows as hue, channel 2 a
slow change of lightness. All are uint8 with mean `MIDDLE` and standard deviation `DEVIATION`. Channel 3 is empty, as
OpenCV warps four channels twice as fast as three. Next in the tour: `palette.py`.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float32]
Texture = npt.NDArray[np.uint8]

#: Side of every texture in the bank, in texels; textures repeat beyond it.
FIELD = 512
#: Mean and standard deviation of every texture channel, of 255.
MIDDLE, DEVIATION = 127.5, 42.5
#: Seed of the bank: a constant, so that a scene is the same in every process.
_BANK_SEED = 20_260_101


def _standardise(field: npt.NDArray[np.floating], clip: float = 3.0) -> Floats:
    """Return the field with mean 0 and standard deviation 1, without values beyond `clip` deviations."""
    scaled = (field - field.mean()) / (field.std() + 1e-9)
    return np.asarray(np.clip(scaled, -clip, clip), dtype=np.float32)


def _filtered(rng: np.random.Generator, gain: npt.NDArray[np.float64]) -> Floats:
    """Return periodic white noise whose half-plane spectrum is multiplied with `gain`."""
    spectrum = np.fft.rfft2(rng.standard_normal((FIELD, FIELD))) * gain
    spectrum[0, 0] = 0.0
    return _standardise(np.fft.irfft2(spectrum, (FIELD, FIELD)))


def _frequency(stretch: float = 1.0) -> npt.NDArray[np.float64]:
    """Return the radial frequency in cycles per texture, (FIELD, FIELD // 2 + 1); `stretch` > 1 elongates along y."""
    fy = np.fft.fftfreq(FIELD)[:, None] * FIELD
    fx = np.fft.rfftfreq(FIELD)[None] * FIELD
    return np.asarray(np.hypot(fx / stretch, fy * stretch), dtype=np.float64)


def _pink(rng: np.random.Generator, slope: float, stretch: float = 1.0, low: float = 1.0) -> Floats:
    """Return periodic noise with amplitude 1 / frequency^slope, flat below `low` cycles per texture.

    A slope of 1 is that of natural images; `low` keeps large blotches out.
    """
    return _filtered(rng, 1.0 / np.maximum(_frequency(stretch), low) ** slope)


def _warp(field: Floats, rng: np.random.Generator, amount: float) -> Floats:
    """Return the field with every texel fetched from a smoothly displaced place; stays periodic."""
    y, x = np.indices(field.shape, dtype=np.float32)
    dx, dy = _pink(rng, 2.0, low=3) * amount, _pink(rng, 2.0, low=3) * amount
    return np.asarray(cv2.remap(field, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def _grainy(rng: np.random.Generator, pattern: npt.NDArray[np.floating], bend: float, grain: float) -> Floats:
    """Return a pattern warped by `bend` texels under pink grain: no natural surface is a clean pattern."""
    return _standardise(_warp(_standardise(pattern), rng, bend) + grain * _pink(rng, 0.8))


def _leaves(rng: np.random.Generator, count: int, smallest: float, largest: float, thinnest: float) -> Floats:
    """Return overlapping opaque ellipses with power-law sizes, radii in texels, that tile.

    Source: Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 2001 (sizes with density r^-3).
    """
    canvas = _pink(rng, 1.0).copy()
    radius = (smallest**-2 + rng.random(count) * (largest**-2 - smallest**-2)) ** -0.5
    squash, angle = rng.uniform(thinnest, 1.0, count), rng.random(count) * 180
    centre, tone = rng.random((count, 2)) * FIELD, rng.standard_normal(count)
    for k in range(count):
        axes = (max(round(radius[k]), 1), max(round(radius[k] * squash[k]), 1))
        for x in _copies(centre[k, 0], radius[k]):
            for y in _copies(centre[k, 1], radius[k]):
                cv2.ellipse(canvas, (round(x), round(y)), axes, angle[k], 0, 360, float(tone[k]), -1)
    return _standardise(cv2.blur(canvas, (2, 2)) + 0.35 * _pink(rng, 0.7))


def _copies(position: float, radius: float) -> list[float]:
    """Return the coordinates at which a shape must be drawn for the texture to tile."""
    wrapped = [position]
    if position < radius:
        wrapped.append(position + FIELD)
    if position > FIELD - radius:
        wrapped.append(position - FIELD)
    return wrapped


def _cells(rng: np.random.Generator, count: int, edge: float) -> Floats:
    """Return a mosaic of cells (stones, scales, cracked ground) with dark joints and a tone for each cell."""
    tree = cKDTree(rng.random((count, 2)) * FIELD, boxsize=FIELD)
    distance, nearest = tree.query(np.indices((FIELD, FIELD)).reshape(2, -1).T, k=2)
    joint = np.clip((distance[:, 1] - distance[:, 0]) / edge, 0, 1)
    tone = rng.standard_normal(count)[nearest[:, 0]]
    return _grainy(rng, (0.5 * tone + 1.6 * joint).reshape(FIELD, FIELD), bend=2.5, grain=0.35)


def _stripes(rng: np.random.Generator, cycles: int, bend: float, sharp: float) -> Floats:
    """Return warped stripes; `sharp` 0 is nearly a sine, 5 is two-toned."""
    x = np.indices((FIELD, FIELD))[1] * (2 * np.pi * cycles / FIELD)
    return _grainy(rng, np.tanh(np.sin(x) * (0.5 + sharp)), bend=bend, grain=0.3)


def _checks(rng: np.random.Generator, cycles: int, bend: float) -> Floats:
    """Return warped checks or plaid."""
    y, x = np.indices((FIELD, FIELD)) * (2 * np.pi * cycles / FIELD)
    return _grainy(rng, np.tanh(3 * np.sin(x)) + rng.uniform(0.5, 1) * np.tanh(3 * np.sin(y)), bend=bend, grain=0.3)


def _bricks(rng: np.random.Generator, rows: int, aspect: int) -> Floats:
    """Return courses of bricks, tiles or planks with joints and a tone for each brick."""
    y, x = np.indices((FIELD, FIELD)) / FIELD
    columns = max(rows // aspect, 1)
    row = np.floor(y * rows).astype(int)
    along = x * columns + 0.5 * (row % 2)
    tone = rng.standard_normal((rows, columns))[row, np.floor(along).astype(int) % columns]
    across = np.minimum((y * rows) % 1, 1 - (y * rows) % 1) * FIELD / rows
    gap = np.minimum(across, np.minimum(along % 1, 1 - along % 1) * FIELD / columns)
    return _grainy(rng, 0.5 * tone + 2.0 * np.clip(gap / 1.8, 0, 1), bend=0.8, grain=0.5)


def _spots(rng: np.random.Generator, cycles: float, share: float) -> Floats:
    """Return irregular spots (leopard, lichen, gravel): band-passed noise pushed to two tones."""
    band = _filtered(rng, np.exp(-(((_frequency() - cycles) / (0.35 * cycles)) ** 2)))
    return _grainy(rng, np.tanh((band - np.quantile(band, 1 - share)) * 3), bend=0.0, grain=0.3)


def _ridges(rng: np.random.Generator, slope: float, stretch: float) -> Floats:
    """Return bright or dark veins (marble, bark, cracks, waves): the crests of folded noise."""
    return _standardise(-np.sqrt(np.abs(_pink(rng, slope, stretch, low=4))) + 0.25 * _pink(rng, 0.7))


@cache
def bank() -> dict[str, list[Texture]]:
    """Return the textures by kind, each uint8 (FIELD, FIELD, 4); the same in every process.

    Takes about two seconds and 35 MB the first time. Callers must not write into the arrays.
    """
    rng = np.random.default_rng(np.random.SeedSequence(_BANK_SEED))
    details = {
        "smooth": [_pink(rng, slope) for slope in (1.1, 1.25, 1.4)],
        "pink": [_pink(rng, slope, low=low) for slope, low in ((0.9, 1), (1.0, 2), (0.75, 4), (1.1, 4), (0.7, 8))],
        "grain": [_pink(rng, s, stretch=r, low=4) for s, r in ((0.75, 2.5), (0.95, 4.0), (0.65, 3.0), (1.0, 6.0))],
        "ridges": [_ridges(rng, s, r) for s, r in ((1.4, 1.0), (1.2, 1.6), (1.6, 2.5))],
        "leaves": [
            _leaves(rng, count, small, large, thin)
            for count, small, large, thin in ((12000, 1.5, 40, 0.35), (8000, 2.5, 30, 0.2), (9000, 2, 60, 0.6))
        ],
        "cells": [_cells(rng, count, edge) for count, edge in ((280, 4.0), (900, 3.0), (2600, 2.0))],
        "spots": [_spots(rng, cycles, share) for cycles, share in ((18, 0.35), (37, 0.4), (66, 0.3))],
        "stripes": [_stripes(rng, c, bend, s) for c, bend, s in ((16, 5, 3), (27, 3, 1), (48, 2, 2), (21, 10, 4))],
        "checks": [_checks(rng, cycles, bend) for cycles, bend in ((16, 2.0), (32, 1.0))],
        "bricks": [_bricks(rng, rows, aspect) for rows, aspect in ((32, 2), (16, 1), (21, 8))],
    }
    seconds = [_pink(rng, slope, low=2) for slope in (0.9, 1.2, 1.5)]
    slow = [_pink(rng, slope) for slope in (1.4, 1.7)]
    return {
        kind: [_pack(field, seconds[(k + n) % 3], slow[n % 2]) for n, field in enumerate(fields)]
        for k, (kind, fields) in enumerate(details.items())
    }


def _pack(*channels: Floats) -> Texture:
    """Return standardised fields as one texture."""
    scaled = [np.round(MIDDLE + DEVIATION * channel).astype(np.uint8) for channel in channels]
    return np.stack([*scaled, np.zeros_like(scaled[0])], axis=-1)


@cache
def sensor_noise() -> Floats:
    """Return float32 (512, 512, 3) of unit Gaussian noise, slightly correlated as after demosaicking."""
    rng = np.random.default_rng(np.random.SeedSequence((_BANK_SEED, 1)))
    noise = rng.standard_normal((512, 512, 3)).astype(np.float32)
    mixed = noise + 0.6 * noise.mean(axis=2, keepdims=True) + 0.5 * np.roll(noise, 1, axis=1)
    return np.asarray(mixed / mixed.std(), dtype=np.float32)
