"""Families of things: vessels, bowls, crates, signs, rings, rocks and things of no kind.

Every function takes a generator and returns `Parts` in the object's frame (about [-1, 1], y down, standing on y = 1).
Next in the tour: `surroundings.py`.
"""

from __future__ import annotations

import numpy as np

from unsam_lightning.scenes import shapes
from unsam_lightning.scenes.plants import fruit
from unsam_lightning.scenes.shapes import Parts

#: Paint numbers: parts with the same number share a material.
_BODY, _TRIM, _DARK, _LIGHT, _EXTRA, _GLASS = range(6)


def vessel(rng: np.random.Generator) -> Parts:
    """Return a bottle, vase, jar or mug: body with label, neck, cap, perhaps a handle with a hole."""
    parts = Parts()
    neck = rng.uniform(0.12, 0.5)
    if rng.random() < 0.35:
        parts.add(shapes.ellipse(0.5, 0.1, 0.32, 0.42), shapes.ellipse(0.5, 0.1, 0.2, 0.3), paint=_BODY)
    wide = rng.uniform(0.35, 0.65)
    belly = shapes.lathe(
        (-1.0, -0.55, -0.25, 0.4, 1.0), (neck, neck, wide * rng.uniform(0.6, 1), wide, wide * rng.uniform(0.6, 1))
    )
    body = parts.add(belly)
    if rng.random() < 0.6:
        label = parts.add(shapes.box(-1, 0.0, 1, rng.uniform(0.3, 0.6)), parent=body, paint=_LIGHT)
        parts.add(shapes.blob(rng, rng.uniform(-0.1, 0.1), 0.18, 0.15, 0.1, 0.3), parent=label, paint=_EXTRA)
        parts.add(shapes.box(-0.2, 0.32, 0.2, 0.36), parent=label, paint=_DARK)
    if rng.random() < 0.5:
        parts.add(shapes.box(-neck - 0.03, -1.08, neck + 0.03, -0.85), parent=body, paint=_EXTRA, clipped=False)
    elif neck > 0.25:
        parts.add(shapes.ellipse(0, -1.0, neck, neck * 0.3), parent=body, paint=_DARK, clipped=False)
    return parts


def bowl(rng: np.random.Generator) -> Parts:
    """Return a bowl, basket or tray of fruit: many alike things, each with parts, behind a rim."""
    parts = Parts()
    parts.add(shapes.ellipse(0, 0.25, 0.95, 0.3), paint=_DARK)
    number = int(rng.integers(3, 9))
    for x in rng.uniform(-0.7, 0.7, number):
        size, y = rng.uniform(0.18, 0.32), rng.uniform(-0.25, 0.2)
        inner = fruit(rng).parts
        base = len(parts.parts)
        group = parts.add()  # a whole fruit: nothing but its parts
        for part in inner:
            parent = group if part.parent < 0 else base + 1 + part.parent
            outlines = [outline * size + (x, y) for outline in part.outlines]
            parts.add(*outlines, parent=parent, paint=6 + part.paint, clipped=part.clipped)
    rim = np.concatenate(
        [shapes.curve((-0.95, 0.25), (0, 0.75), (0.95, 0.25)), shapes.curve((0.6, 1.0), (-0.6, 1.0), num_points=4)]
    )
    front = parts.add(rim)
    if rng.random() < 0.5:
        parts.add(shapes.box(-1, 0.65, 1, 0.75), parent=front, paint=_TRIM)
    return parts


def crate(rng: np.random.Generator) -> Parts:
    """Return a box in three dimensions: front, side and top, with slats or a label."""
    parts = Parts()
    dx, dy, right = rng.uniform(0.2, 0.5), rng.uniform(0.15, 0.4), rng.uniform(0.2, 0.5)
    top = -0.6
    parts.add(np.array([[-0.9, top], [right, top], [right + dx, top - dy], [-0.9 + dx, top - dy]]), paint=_LIGHT)
    parts.add(np.array([[right, top], [right + dx, top - dy], [right + dx, 1 - dy], [right, 1]]), paint=_DARK)
    front = parts.add(shapes.box(-0.9, top, right, 1))
    if rng.random() < 0.5:
        for y in np.linspace(top + 0.1, 0.7, int(rng.integers(2, 5))):
            parts.add(shapes.box(-0.85, y, right - 0.05, y + 0.22), parent=front, paint=_TRIM)
    else:
        label = parts.add(shapes.box(-0.6, -0.2, right - 0.2, 0.5), parent=front, paint=_EXTRA)
        parts.add(shapes.star(-0.25, 0.15, 0.2, 0.5, 5), parent=label, paint=_GLASS)
    return parts


def sign(rng: np.random.Generator) -> Parts:
    """Return a sign on a thin pole: board, border, symbol, strokes like letters."""
    parts = Parts()
    parts.add(shapes.box(-0.04, -0.4, 0.04, 1.0), paint=_TRIM)
    corners = int(rng.integers(3, 9))
    outline = shapes.star(0, -0.45, 0.55, np.cos(np.pi / corners), corners, rng.choice((0.0, -np.pi / 2)))
    board = parts.add(outline, paint=_EXTRA)
    inside = parts.add((outline - (0, -0.45)) * 0.84 + (0, -0.45), parent=board, paint=_LIGHT)
    for k in range(rng.integers(1, 4)):
        y = -0.6 + 0.15 * k
        path = np.stack([np.linspace(-0.22, 0.22, 8), y + rng.uniform(-0.05, 0.05, 8)], axis=1)
        parts.add(shapes.stroke(path, 0.06), parent=inside, paint=_DARK)
    return parts


def ring(rng: np.random.Generator) -> Parts:
    """Return a ring, gear or frame: the hole shows what is behind."""
    parts = Parts()
    inner = rng.uniform(0.3, 0.75)
    if rng.random() < 0.3:
        outer, hole = shapes.box(-0.9, -0.8, 0.9, 0.9), shapes.box(-0.9 * inner, -0.8 * inner, 0.9 * inner, 0.9 * inner)
    elif rng.random() < 0.4:
        outer, hole = shapes.star(0, 0, 0.95, 0.8, 10), shapes.ellipse(0, 0, 0.8 * inner)
    else:
        outer, hole = shapes.ellipse(0, 0, 0.95, 0.9), shapes.ellipse(0, 0, 0.95 * inner, 0.9 * inner)
    band = parts.add(outer, hole)
    for angle in rng.random(int(rng.integers(0, 5))) * 2 * np.pi:
        middle = 0.95 * (1 + inner) / 2
        stone = parts.add(
            shapes.ellipse(middle * np.cos(angle), middle * np.sin(angle), 0.2), parent=band, paint=_EXTRA
        )
        parts.add(shapes.ellipse(middle * np.cos(angle), middle * np.sin(angle), 0.09), parent=stone, paint=_LIGHT)
    return parts


def rocks(rng: np.random.Generator) -> Parts:
    """Return a heap of rocks with facets and lichen."""
    parts = Parts()
    for _ in range(rng.integers(1, 6)):
        x, y, size = rng.uniform(-0.6, 0.6), rng.uniform(0.2, 0.75), rng.uniform(0.25, 0.6)
        corners = int(rng.integers(6, 12))
        rock = parts.add(shapes.polygon(rng, x, y, size, size * 0.7, corners), paint=int(rng.integers(2)), fuzzy=0.03)
        parts.add(shapes.polygon(rng, x + 0.15, y - 0.2 * size, size * 0.6, size * 0.35, 5), parent=rock, paint=_LIGHT)
        if rng.random() < 0.4:
            parts.add(shapes.blob(rng, x - 0.1, y, size * 0.3, size * 0.2, 0.5), parent=rock, paint=_EXTRA, fuzzy=0.06)
    return parts


def lump(rng: np.random.Generator) -> Parts:
    """Return a thing of no kind: a smooth blob or concave polygon with regions, patches and spots on it."""
    parts = Parts()
    smooth = rng.random() < 0.7
    outline = (
        shapes.blob(rng, 0, 0, 0.9, rng.uniform(0.5, 0.95), rng.uniform(0.1, 0.6))
        if smooth
        else shapes.star(0, 0, 0.95, rng.uniform(0.35, 0.9), int(rng.integers(3, 9)))
    )
    base = parts.add(outline, fuzzy=rng.choice((0.0, 0.0, 0.06, 0.12)))
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(-0.6, 0.6, 2)
        size = rng.uniform(0.15, 0.6)
        patch = parts.add(
            shapes.blob(rng, x, y, size, size * rng.uniform(0.4, 1), 0.3),
            parent=base,
            paint=int(rng.integers(1, 6)),
            fuzzy=rng.choice((0, 0.05)),
        )
        for _ in range(rng.integers(0, 3)):
            dx, dy = rng.uniform(-0.4, 0.4, 2) * size
            parts.add(
                shapes.ellipse(x + dx, y + dy, size * rng.uniform(0.1, 0.3)),
                parent=patch,
                paint=int(rng.integers(1, 6)),
            )
    return parts


#: All families of this file.
THINGS = (vessel, bowl, crate, sign, ring, rocks, lump)
