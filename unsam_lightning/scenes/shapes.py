"""Outlines and the tree of parts that they form, in an object's own frame: about [-1, 1] squared, y downwards.

Outlines are float64 (K, 2) arrays of x, y. Next in the tour: `creatures.py`, `plants.py`, `artefacts.py`, `things.py`
and `surroundings.py`, which put them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Outline = npt.NDArray[np.float64]


@dataclass(kw_only=True, slots=True)
class Part:
    """One node of an object's tree.

    Args:
        outlines: Polygons, filled by the even-odd rule together: an inner one is a hole.
        parent: Index of the parent part, or -1 for a child of the object itself.
        paint: Parts of one object with the same number share a material.
        fuzzy: Width of a ragged edge (foliage, fur, cloud) in the object's frame; 0 is a clean edge.
        clipped: Whether the part shows only on its parent (a spot) or may stick out (a limb).
    """

    outlines: list[Outline]
    parent: int
    paint: int
    fuzzy: float
    clipped: bool


@dataclass(slots=True)
class Parts:
    """The tree of one object under construction: parts in the order in which they are painted, back to front."""

    parts: list[Part] = field(default_factory=list)

    def add(
        self, *outlines: Outline, parent: int = -1, paint: int = 0, fuzzy: float = 0.0, clipped: bool | None = None
    ) -> int:
        """Add a part and return its index; it is clipped to its parent if it has one, unless told otherwise."""
        clipped = parent >= 0 if clipped is None else clipped
        self.parts.append(Part(outlines=list(outlines), parent=parent, paint=paint, fuzzy=fuzzy, clipped=clipped))
        return len(self.parts) - 1

    def preorder(self) -> list[int]:
        """Return the indices with every parent directly before its descendants, siblings in the order of `add`."""
        children: dict[int, list[int]] = {}
        for index, part in enumerate(self.parts):
            children.setdefault(part.parent, []).append(index)
        order: list[int] = []
        stack = children.get(-1, [])[::-1]
        while stack:
            index = stack.pop()
            order.append(index)
            stack.extend(reversed(children.get(index, [])))
        return order


@cache
def _circle(num_points: int) -> Outline:
    angle = np.arange(num_points) * (2 * np.pi / num_points)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@cache
def _steps(num_points: int) -> npt.NDArray[np.float64]:
    return np.linspace(0, 1, num_points)


def ellipse(x: float, y: float, rx: float, ry: float | None = None, turn: float = 0.0, num_points: int = 32) -> Outline:
    """Return an ellipse about (x, y), turned by `turn` radians; a circle without `ry`."""
    points = _circle(num_points) * (rx, rx if ry is None else ry)
    return shift(rotate(points, turn), x, y)


def rotate(points: Outline, turn: float) -> Outline:
    """Return the points turned by `turn` radians about the origin."""
    if turn == 0.0:
        return points
    c, s = np.cos(turn), np.sin(turn)
    return np.asarray(points @ np.array([[c, s], [-s, c]]))


def shift(points: Outline, x: float, y: float) -> Outline:
    """Return the points moved by (x, y)."""
    return np.asarray(np.add(points, (x, y)))


def blob(
    rng: np.random.Generator, x: float, y: float, rx: float, ry: float, wobble: float = 0.2, num_points: int = 48
) -> Outline:
    """Return a smooth closed contour: a circle with random Fourier terms on its radius."""
    order = np.arange(2, 8)
    size = rng.standard_normal(6) * wobble / order**1.1
    phase = rng.random(6) * (2 * np.pi)
    angle = np.arange(num_points) * (2 * np.pi / num_points)
    radius = np.exp((size * np.cos(angle[:, None] * order + phase)).sum(1))
    return shift(_circle(num_points) * (radius[:, None] * (rx, ry)), x, y)


def polygon(rng: np.random.Generator, x: float, y: float, rx: float, ry: float, num_corners: int) -> Outline:
    """Return an irregular polygon, convex or nearly so."""
    angle = (np.arange(num_corners) + rng.uniform(-0.35, 0.35, num_corners)) * (2 * np.pi / num_corners)
    angle += rng.random() * 2 * np.pi
    radius = rng.uniform(0.75, 1.1, num_corners)
    return np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)], axis=1)


def star(x: float, y: float, radius: float, inner: float, num_points: int, turn: float = 0.0) -> Outline:
    """Return a star: concave for `inner` (share of the radius) well below 1."""
    length = np.where(np.arange(2 * num_points) % 2 == 0, radius, radius * inner)
    return shift(rotate(_circle(2 * num_points) * length[:, None], turn), x, y)


def box(left: float, top: float, right: float, bottom: float, lean: float = 0.0, round_off: float = 0.0) -> Outline:
    """Return a box; `lean` moves the top edge sideways, `round_off` in [0, 1] rounds the corners."""
    if round_off > 0:
        cx, cy, rx, ry = (left + right) / 2, (top + bottom) / 2, abs(right - left) / 2, abs(bottom - top) / 2
        unit = _circle(32)
        power = 2 / (2 + 8 * (1 - round_off))
        return shift(np.sign(unit) * np.abs(unit) ** power * (rx, ry), cx, cy)
    return np.array([[left + lean, top], [right + lean, top], [right, bottom], [left, bottom]], dtype=np.float64)


def limb(x0: float, y0: float, x1: float, y1: float, r0: float, r1: float) -> Outline:
    """Return a tapered capsule from (x0, y0) with radius `r0` to (x1, y1) with radius `r1`."""
    turn = float(np.arctan2(y1 - y0, x1 - x0))
    half = _circle(20)
    end, start = np.concatenate([half[15:], half[:6]]) * r1, half[5:16] * r0
    return np.concatenate([shift(rotate(end, turn), x1, y1), shift(rotate(start, turn), x0, y0)])


def stroke(path: Outline, width: float | npt.NDArray[np.float64]) -> Outline:
    """Return a strip about a path (K, 2); `width` is the full width, a number or one per point."""
    step = np.gradient(path, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / (np.hypot(step[:, 0], step[:, 1])[:, None] + 1e-9)
    half = normal * (np.broadcast_to(width, len(path))[:, None] / 2)
    return np.concatenate([path + half, (path - half)[::-1]])


def curve(*knots: tuple[float, float], num_points: int = 12) -> Outline:
    """Return a smooth path with the knots as Bezier control points."""
    t = _steps(num_points)[:, None]
    points = [np.broadcast_to(np.array(knot), (num_points, 2)) for knot in knots]
    while len(points) > 1:
        points = [a * (1 - t) + b * t for a, b in pairwise(points)]
    return np.asarray(points[0], dtype=np.float64)


def lathe(heights: Sequence[float], radii: Sequence[float], num_points: int = 24) -> Outline:
    """Return the outline of a body of revolution about x = 0 (bottle, vase, lamp) through heights and radii."""
    y = np.linspace(heights[0], heights[-1], num_points)
    r = np.interp(y, heights, radii)
    r = np.convolve(np.pad(r, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    return np.concatenate([np.stack([r, y], axis=1), np.stack([-r, y], axis=1)[::-1]])


def leaf(x: float, y: float, length: float, width: float, turn: float) -> Outline:
    """Return a pointed leaf that starts at (x, y) and points along `turn` radians."""
    t = _steps(12)
    half = width / 2 * np.sin(np.pi * t**0.8)
    shape = np.concatenate([np.stack([t * length, half], 1), np.stack([t * length, -half], 1)[::-1]])
    return shift(rotate(shape, turn), x, y)


def skyline(rng: np.random.Generator, height: float, rough: float, slope: float, num_points: int = 40) -> Outline:
    """Return a region of the unit frame below a random contour at `height` (0 top, 1 bottom), reaching past its edges.

    `rough` is the contour's deviation, `slope` how smooth it is: 1 jagged, 2.5 rolling.
    """
    order = np.arange(1, 13)
    x = np.linspace(-0.05, 1.05, num_points)
    waves = np.cos(np.pi * x[:, None] * order + rng.random(12) * 2 * np.pi) * rng.standard_normal(12) / order**slope
    return np.concatenate([np.stack([x, height + rough * waves.sum(1)], 1), [[1.05, 1.3], [-0.05, 1.3]]])
