"""Families of large made things: buildings, vehicles, boats, furniture, fences.

Every function takes a generator and returns `Parts` in the object's frame (about [-1, 1], y down, standing on y = 1).
Next in the tour: `things.py`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from unsam_lightning.scenes import shapes
from unsam_lightning.scenes.shapes import Parts

#: Paint numbers: parts with the same number share a material.
_BODY, _TRIM, _DARK, _LIGHT, _EXTRA, _GLASS = range(6)


def _window(
    rng: np.random.Generator, parts: Parts, box: tuple[float, float, float, float], parent: int, rich: bool
) -> None:
    """Add a window of a building; a rich one has panes."""
    left, top, right, bottom = box
    frame = parts.add(shapes.box(left, top, right, bottom), parent=parent, paint=_TRIM if rich else _GLASS)
    if not rich:
        return
    columns, rows = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    dx, dy = (right - left) / columns, (bottom - top) / rows
    for i in range(columns):
        for j in range(rows):
            x, y = left + i * dx, top + j * dy
            parts.add(shapes.box(x + 0.12 * dx, y + 0.1 * dy, x + 0.9 * dx, y + 0.92 * dy), parent=frame, paint=_GLASS)


def building(rng: np.random.Generator) -> Parts:
    """Return a building: roof, chimney, facade with a grid of windows and a door, or a tower."""
    parts = Parts()
    half, top = rng.uniform(0.4, 0.95), rng.uniform(-0.9, -0.1)
    if rng.random() < 0.3:
        x = rng.uniform(-0.5, 0.5) * half
        parts.add(shapes.box(x, top - 0.5, x + 0.15, top), paint=_EXTRA)
    if rng.random() < 0.6:
        over, peak = half * rng.uniform(1.0, 1.15), top - rng.uniform(0.2, 0.6)
        ridge = half * rng.choice((0.0, 0.0, 0.6))
        roof = parts.add(np.array([[-over, top], [-ridge, peak], [ridge, peak], [over, top]]), paint=_EXTRA)
        if rng.random() < 0.3:
            parts.add(shapes.polygon(rng, 0, top - 0.15, 0.12, 0.12, 4), parent=roof, paint=_GLASS)
    facade = parts.add(shapes.box(-half, top, half, 1.0))
    columns, rows = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    rich = columns * rows <= 8 and rng.random() < 0.6
    dx, dy = 2 * half / columns, (0.55 - top) / rows
    wx, wy = rng.uniform(0.15, 0.32), rng.uniform(0.2, 0.35)
    for i in range(columns):
        for j in range(rows):
            x, y = -half + (i + 0.5) * dx, top + (j + 0.55) * dy
            _window(rng, parts, (x - wx * dx, y - wy * dy, x + wx * dx, y + wy * dy), facade, rich)
    if rng.random() < 0.7:
        x = rng.uniform(-0.6, 0.6) * half
        door = parts.add(shapes.box(x - 0.09, 0.62, x + 0.09, 1.0), parent=facade, paint=_DARK)
        parts.add(shapes.ellipse(x + 0.06, 0.82, 0.02), parent=door, paint=_LIGHT)
    return parts


def vehicle(rng: np.random.Generator) -> Parts:
    """Return a car, van or truck from the side: body with windows, door, lamps, wheels with hubs."""
    parts = Parts()
    roof, nose, tail = rng.uniform(-0.3, 0.05), rng.uniform(0.3, 0.75), rng.uniform(-0.95, -0.4)
    body = parts.add(
        np.array(
            [
                [-1, 0.75],
                [-1, 0.4],
                [tail - 0.05, 0.3],
                [tail + 0.1, roof],
                [nose - 0.3, roof],
                [nose, 0.3],
                [0.95, 0.42],
                [1.0, 0.75],
            ]
        )
    )
    glass = np.array([[tail + 0.04, 0.28], [tail + 0.14, roof + 0.06], [nose - 0.32, roof + 0.06], [nose - 0.08, 0.28]])
    split = (tail + nose) / 2 - 0.1
    window = parts.add(glass, parent=body, paint=_GLASS)
    parts.add(shapes.box(split, roof, split + 0.06, 0.3), parent=window, paint=_BODY)
    door = parts.add(shapes.box(split, 0.3, split + 0.45, 0.72), parent=body, paint=rng.choice((_BODY, _EXTRA)))
    parts.add(shapes.box(split + 0.05, 0.38, split + 0.14, 0.42), parent=door, paint=_DARK)
    parts.add(shapes.ellipse(0.93, 0.5, 0.06), parent=body, paint=_LIGHT)
    if rng.random() < 0.5:
        parts.add(shapes.box(-1.2, 0.5, 1.2, rng.uniform(0.54, 0.62)), parent=body, paint=_EXTRA)
    for x in (-0.6, 0.6):
        radius = rng.uniform(0.19, 0.26)
        wheel = parts.add(shapes.ellipse(x, 0.76, radius), paint=_DARK)
        hub = parts.add(shapes.ellipse(x, 0.76, radius * 0.55), parent=wheel, paint=_TRIM)
        parts.add(shapes.ellipse(x, 0.76, radius * 0.18), parent=hub, paint=_DARK)
    return parts


def bicycle(rng: np.random.Generator) -> Parts:
    """Return a bicycle: wheels that are thin rings, a frame, saddle and handlebar; its holes show what is behind."""
    parts = Parts()
    wide = rng.uniform(0.03, 0.06)
    for x in (-0.55, 0.55):
        wheel = parts.add(shapes.ellipse(x, 0.55, 0.43), shapes.ellipse(x, 0.55, 0.43 - wide), paint=_DARK)
        parts.add(shapes.ellipse(x, 0.55, 0.06), parent=wheel, paint=_TRIM, clipped=False)
    knots = ((-0.55, 0.55), (-0.2, -0.1), (0.4, -0.1), (0.0, 0.6), (-0.2, -0.1))
    for (x0, y0), (x1, y1) in pairwise(knots):
        parts.add(shapes.limb(x0, y0, x1, y1, wide * 0.6, wide * 0.6))
    fork = parts.add(shapes.limb(0.35, -0.4, 0.55, 0.55, wide * 0.6, wide * 0.6))
    parts.add(shapes.limb(0.25, -0.42, 0.5, -0.45, 0.04, 0.03), parent=fork, paint=_DARK, clipped=False)
    parts.add(shapes.limb(-0.35, -0.25, -0.08, -0.25, 0.07, 0.03), paint=_EXTRA)
    return parts


def boat(rng: np.random.Generator) -> Parts:
    """Return a boat: mast, sails, hull with stripe, cabin with portholes."""
    parts = Parts()
    if rng.random() < 0.7:
        parts.add(shapes.box(-0.03, -1.0, 0.03, 0.6), paint=_TRIM)
        sail = parts.add(np.array([[0.06, -0.95], [rng.uniform(0.5, 0.8), 0.4], [0.06, 0.45]]), paint=_LIGHT)
        parts.add(shapes.box(0, rng.uniform(-0.5, -0.1), 1, 0.1), parent=sail, paint=_EXTRA)
        parts.add(np.array([[-0.06, -0.8], [-0.06, 0.42], [-0.6, 0.4]]), paint=_LIGHT)
    else:
        cabin = parts.add(shapes.box(-0.5, 0.0, 0.3, 0.6), paint=_LIGHT)
        for x in (-0.35, -0.1, 0.15):
            parts.add(shapes.ellipse(x, 0.25, 0.08), parent=cabin, paint=_GLASS)
    hull = parts.add(np.array([[-1.0, 0.5], [1.0, rng.uniform(0.35, 0.5)], [0.7, 1.0], [-0.8, 1.0]]))
    parts.add(shapes.box(-1.2, 0.62, 1.2, rng.uniform(0.68, 0.8)), parent=hull, paint=_EXTRA)
    return parts


def furniture(rng: np.random.Generator) -> Parts:
    """Return a table, chair, shelf or lamp."""
    parts = Parts()
    kind = rng.integers(3)
    if kind == 0:
        top, thick = rng.uniform(-0.2, 0.3), rng.uniform(0.06, 0.14)
        for x in (-0.6, 0.6, -0.85, 0.85):
            parts.add(shapes.box(x - 0.05, top, x + 0.05, 1.0 if abs(x) > 0.7 else 0.85), paint=_TRIM)
        if rng.random() < 0.6:
            parts.add(shapes.box(-0.3, -0.95, 0.3, top, round_off=0.4), paint=_EXTRA)
        plate = parts.add(shapes.box(-0.95, top, 0.95, top + thick, lean=0.0))
        parts.add(
            np.array([[-0.95, top], [0.95, top], [0.7, top - 0.15], [-0.7, top - 0.15]]),
            parent=plate,
            clipped=False,
            paint=_LIGHT,
        )
    elif kind == 1:
        case = parts.add(shapes.box(-0.8, -1, 0.8, 1))
        rows, columns = int(rng.integers(2, 5)), int(rng.integers(1, 4))
        for i in range(columns):
            for j in range(rows):
                x, y, w, h = -0.72 + 1.44 * i / columns, -0.92 + 1.84 * j / rows, 1.3 / columns, 1.66 / rows
                bay = parts.add(
                    shapes.box(x, y, x + w, y + h), parent=case, paint=_DARK if rng.random() < 0.6 else _TRIM
                )
                for k in range(rng.integers(0, 4)):
                    left = x + w * (0.05 + 0.23 * k)
                    parts.add(
                        shapes.box(left, y + h * rng.uniform(0.1, 0.5), left + w * 0.2, y + h),
                        parent=bay,
                        paint=_LIGHT + k,
                    )
    else:
        parts.add(shapes.lathe((-0.4, 0.9, 1.0), (0.05, 0.05, 0.4)), paint=_TRIM)
        shade = parts.add(shapes.lathe((-1.0, -0.2), (rng.uniform(0.2, 0.4), rng.uniform(0.5, 0.8)), 6))
        parts.add(shapes.box(-1, -0.36, 1, -0.28), parent=shade, paint=_EXTRA)
    return parts


def wires(rng: np.random.Generator) -> Parts:
    """Return thin things: a fence, a mast with wires, or loose branches."""
    parts = Parts()
    kind, thin = rng.integers(3), rng.uniform(0.02, 0.06)
    if kind == 0:
        for y in (0.1, 0.6):
            parts.add(shapes.box(-1.2, y, 1.2, y + thin * 1.5), paint=_TRIM)
        for x in np.linspace(-1.1, 1.1, int(rng.integers(4, 10))):
            parts.add(shapes.box(x, -0.3, x + thin * 2, 1.0, lean=rng.uniform(-0.03, 0.03)))
    elif kind == 1:
        pole = parts.add(shapes.box(-thin, -1.0, thin, 1.0))
        parts.add(shapes.box(-0.35, -0.85, 0.35, -0.85 + thin * 1.5), parent=pole, clipped=False, paint=_TRIM)
        for x in (-0.3, 0.3):
            for side in (-1, 1):
                sag = shapes.curve((x, -0.85), (x + side, -0.3), (x + side * 2.2, -0.9), num_points=16)
                parts.add(shapes.stroke(sag, thin * 0.5), paint=_DARK)
    else:
        for _ in range(rng.integers(2, 6)):
            knots = rng.uniform(-1, 1, (4, 2))
            branch = parts.add(
                shapes.stroke(shapes.curve(*map(tuple, knots), num_points=20), np.linspace(thin * 1.6, thin * 0.5, 20))
            )
            tip = knots[-1]
            parts.add(
                shapes.leaf(tip[0], tip[1], 0.25, 0.1, rng.uniform(0, 6)), parent=branch, paint=_EXTRA, clipped=False
            )
    return parts


#: All families of this file.
ARTEFACTS = (building, vehicle, bicycle, boat, furniture, wires)
