"""Families of plants and of many small alike things: trees, flowers, fruit, flocks, grass.

Every function takes a generator and returns `Parts` in the object's frame (about [-1, 1], y down, standing on y = 1).
Next in the tour: `artefacts.py`.
"""

from __future__ import annotations

import numpy as np

from unsam_lightning.scenes import shapes
from unsam_lightning.scenes.shapes import Parts

#: Paint numbers: parts with the same number share a material.
_BODY, _HEAD, _DARK, _LIGHT, _EXTRA, _MARK = range(6)


def tree(rng: np.random.Generator) -> Parts:
    """Return a tree: trunk, branches, crown with clumps of foliage, perhaps fruit."""
    parts = Parts()
    top, wide = rng.uniform(-0.1, 0.4), rng.uniform(0.04, 0.12)
    trunk = parts.add(shapes.limb(0, 1.0, rng.uniform(-0.1, 0.1), -0.2, wide * 1.4, wide), paint=_DARK)
    for side in (-1, 1):
        parts.add(
            shapes.limb(0, top, side * rng.uniform(0.2, 0.5), top - 0.5, wide * 0.6, wide * 0.2),
            parent=trunk,
            paint=_DARK,
            clipped=False,
        )
    conifer = rng.random() < 0.3
    outline = (
        _conifer(rng) if conifer else shapes.blob(rng, 0, -0.35, rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.7), 0.3)
    )
    crown = parts.add(outline, fuzzy=rng.uniform(0.08, 0.22))
    for _ in range(rng.integers(1, 5)):
        x, y, size = rng.uniform(-0.5, 0.5), rng.uniform(-0.8, 0.05), rng.uniform(0.15, 0.35)
        clump = parts.add(
            shapes.blob(rng, x, y, size, size * 0.8, 0.3), parent=crown, paint=rng.choice((_EXTRA, _MARK)), fuzzy=0.1
        )
        if rng.random() < 0.3:
            parts.add(shapes.ellipse(x, y, 0.07), parent=clump, paint=_LIGHT)
    return parts


def _conifer(rng: np.random.Generator) -> shapes.Outline:
    """Return the jagged silhouette of a conifer."""
    y = np.linspace(-1, 0.6, 11)
    half = np.linspace(0.02, rng.uniform(0.35, 0.6), 11) * np.where(np.arange(11) % 2, 1.0, 0.65)
    return np.concatenate([np.stack([half, y], 1), np.stack([-half, y], 1)[::-1]])


def flower(rng: np.random.Generator) -> Parts:
    """Return a flower: stem, leaves, petals about a centre."""
    parts = Parts()
    sway = rng.uniform(-0.3, 0.3)
    stem = parts.add(
        shapes.stroke(shapes.curve((sway, 1.0), (-sway, 0.4), (0, -0.3)), rng.uniform(0.03, 0.08)), paint=_EXTRA
    )
    for side in (-1, 1):
        parts.add(
            shapes.leaf(0, rng.uniform(0.3, 0.8), side * rng.uniform(0.3, 0.6), 0.18, -side * 0.4),
            parent=stem,
            paint=_EXTRA,
            clipped=False,
        )
    number, length = int(rng.integers(5, 11)), rng.uniform(0.4, 0.65)
    width = length * rng.uniform(0.35, 0.9)
    head = parts.add(shapes.ellipse(0, -0.35, length * 0.3))
    for angle in np.arange(number) * 2 * np.pi / number + rng.random():
        parts.add(
            shapes.leaf(0, -0.35, length, width, angle),
            parent=head,
            paint=rng.choice((_BODY, _BODY, _MARK)),
            clipped=False,
        )
    core = parts.add(shapes.ellipse(0, -0.35, length * rng.uniform(0.2, 0.4)), parent=head, paint=_LIGHT, clipped=False)
    parts.add(shapes.ellipse(0, -0.35, length * 0.14), parent=core, paint=_DARK)
    return parts


def fruit(rng: np.random.Generator) -> Parts:
    """Return a fruit with a stem, a leaf and a blush, or cut open with flesh and seeds."""
    parts = Parts()
    parts.add(shapes.limb(0, -0.7, rng.uniform(-0.15, 0.15), -1.0, 0.05, 0.04), paint=_DARK)
    if rng.random() < 0.6:
        parts.add(shapes.leaf(0, -0.85, rng.choice((-1, 1)) * 0.6, 0.28, rng.uniform(-0.6, 0.3)), paint=_EXTRA)
    ripe = parts.add(shapes.blob(rng, 0, 0.1, 0.85, rng.uniform(0.7, 1.0), 0.12))
    if rng.random() < 0.4:
        flesh = parts.add(shapes.blob(rng, 0, 0.12, 0.65, 0.6, 0.08), parent=ripe, paint=_LIGHT)
        for k in range(rng.integers(2, 7)):
            parts.add(shapes.leaf(0.0, 0.1, 0.4, 0.14, k * 1.1), parent=flesh, paint=_DARK)
    elif rng.random() < 0.6:
        parts.add(shapes.blob(rng, 0.3, 0.2, 0.5, 0.6, 0.3), parent=ripe, paint=_MARK, fuzzy=0.15)
    return parts


def flock(rng: np.random.Generator) -> Parts:
    """Return a group of small alike things: birds, berries, leaves, pebbles."""
    parts = Parts()
    kind, number = rng.integers(4), int(rng.integers(5, 14))
    for x, y, turn, size in zip(
        *rng.uniform(-0.85, 0.85, (2, number)), rng.random(number) * 6.3, rng.uniform(0.1, 0.24, number), strict=True
    ):
        paint = int(rng.integers(3))
        if kind == 0:
            parts.add(shapes.leaf(x, y, size * 1.8, size * 0.8, turn), paint=paint)
        elif kind == 1:
            item = parts.add(shapes.ellipse(x, y, size), paint=paint)
            parts.add(shapes.ellipse(x + size * 0.2, y - size * 0.3, size * 0.35), parent=item, paint=_LIGHT)
        elif kind == 2:
            parts.add(shapes.polygon(rng, x, y, size, size * 0.7, int(rng.integers(5, 9))), paint=paint)
        else:
            item = parts.add(
                shapes.star(x, y, size * 1.2, rng.uniform(0.3, 0.6), int(rng.integers(4, 8)), turn), paint=paint
            )
            parts.add(shapes.ellipse(x, y, size * 0.3), parent=item, paint=_DARK)
    return parts


def grass(rng: np.random.Generator) -> Parts:
    """Return a tuft of long thin blades, some with ears."""
    parts = Parts()
    for _ in range(rng.integers(6, 16)):
        x, bend, high = rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.5), rng.uniform(-1.0, 0.3)
        path = shapes.curve((x, 1.0), (x + bend * 0.2, (high + 1) / 2), (x + bend, high))
        blade = parts.add(
            shapes.stroke(path, np.linspace(rng.uniform(0.04, 0.1), 0.012, 12)), paint=int(rng.integers(3))
        )
        if rng.random() < 0.2:
            parts.add(shapes.ellipse(x + bend, high, 0.04, 0.12), parent=blade, paint=_MARK, clipped=False)
    return parts


#: All families of this file.
PLANTS = (tree, flower, fruit, flock, grass)
