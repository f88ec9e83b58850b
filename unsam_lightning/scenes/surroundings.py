"""What lies behind things: sky, ground, water, walls, vegetation, fields; each region is an object with a mask.

Regions are in the unit frame of the image (x right, y down, both 0 to 1), painted back to front; the first covers the
whole image. Next in the tour: `painter.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unsam_lightning.scenes import shapes
from unsam_lightning.scenes.shapes import Parts


@dataclass(kw_only=True, slots=True)
class Region:
    """One region of 'stuff'.

    Args:
        parts: Its tree in the unit frame of the image.
        colour: Key of the palette's surfaces.
        textures: Key of `palette.TEXTURES`.
        horizon: y in the unit frame at which its texture recedes to infinity, or None.
        ramp: Change of log lightness from the top to the bottom of the image.
    """

    parts: Parts
    colour: str
    textures: str
    horizon: float | None = None
    ramp: float = 0.0


@dataclass(kw_only=True, slots=True)
class Surroundings:
    """The regions behind the things of a scene, and where things may stand.

    Args:
        regions: Back to front.
        floor: y range, in the unit frame, of the feet of standing things, or None where things float anywhere.
    """

    regions: list[Region]
    floor: tuple[float, float] | None


_WHOLE = shapes.box(-0.1, -0.1, 1.1, 1.1)


def _whole() -> Parts:
    parts = Parts()
    parts.add(_WHOLE)
    return parts


def landscape(rng: np.random.Generator) -> Surroundings:
    """Return sky with clouds, hills, a line of trees, and ground or water to a horizon."""
    horizon = rng.uniform(0.15, 0.7)
    sky = _whole()
    for _ in range(rng.integers(0, 4)):
        x, y, size = rng.random(), rng.uniform(0, horizon), rng.uniform(0.08, 0.3)
        sky.add(shapes.blob(rng, x, y, size, size * 0.35, 0.3), parent=0, paint=1, fuzzy=size * 0.3)
    regions = [Region(parts=sky, colour="sky", textures="sky", ramp=rng.uniform(-0.4, 1.0))]
    for k in range(rng.integers(0, 3)):
        hill = Parts()
        rough, slope = rng.uniform(0.03, 0.12), rng.uniform(1.0, 2.2)
        ridge = hill.add(shapes.skyline(rng, horizon - 0.12 + 0.06 * k, rough, slope), fuzzy=rng.choice((0.0, 0.03)))
        if rng.random() < 0.4:
            hill.add(shapes.blob(rng, rng.random(), horizon, 0.25, 0.1, 0.5), parent=ridge, paint=1, fuzzy=0.04)
        kind = ("stone", "foliage", "water", "soil")[rng.integers(4)]
        regions.append(Region(parts=hill, colour=kind, textures="ground"))
    if rng.random() < 0.5:
        wood = Parts()
        for x in np.arange(rng.uniform(-0.2, 0.1), 1.1, rng.uniform(0.15, 0.5)):
            high, wide = rng.uniform(0.05, 0.25), rng.uniform(0.12, 0.3)
            wood.add(shapes.blob(rng, x, horizon - high * 0.5, wide, high, 0.4), fuzzy=0.06, paint=int(rng.integers(3)))
        regions.append(Region(parts=wood, colour="foliage", textures="foliage"))
    regions.append(_ground(rng, horizon))
    return Surroundings(regions=regions, floor=(horizon + 0.08, 1.05))


def _ground(rng: np.random.Generator, horizon: float) -> Region:
    """Return a receding ground, with a road, paths or patches, or a water with a shore."""
    ground = Parts()
    kind = rng.integers(4)
    colour, textures = (("foliage", "grass"), ("soil", "ground"), ("stone", "ground"), ("water", "water"))[kind]
    base = ground.add(shapes.skyline(rng, horizon, rng.uniform(0, 0.02), 1.5), fuzzy=rng.choice((0.0, 0.02)))
    choice = rng.random()
    if choice < 0.3:
        x0, x1, wide = rng.uniform(0.2, 0.8), rng.uniform(-0.2, 1.2), rng.uniform(0.1, 0.5)
        path = shapes.curve(
            (x0, horizon), ((x0 + x1) / 2 + rng.uniform(-0.3, 0.3), (horizon + 1) / 2), (x1, 1.2), num_points=20
        )
        road = ground.add(shapes.stroke(path, wide * np.linspace(0.03, 1, 20) ** 1.5), parent=base, paint=1)
        ground.add(shapes.stroke(path[4:9], 0.03 * wide), parent=road, paint=2)
        ground.add(shapes.stroke(path[11:15], 0.08 * wide), parent=road, paint=2)
    elif choice < 0.75:
        for _ in range(rng.integers(1, 4)):
            x, y = rng.random(), rng.uniform(horizon, 1)
            size = 0.1 + 0.5 * (y - horizon) * rng.random()
            ground.add(shapes.blob(rng, x, y, size, size * 0.35, 0.5), parent=base, paint=1, fuzzy=0.04)
    return Region(parts=ground, colour=colour, textures=textures, horizon=horizon - 0.12, ramp=rng.uniform(-0.5, 0.3))


def room(rng: np.random.Generator) -> Surroundings:
    """Return a wall with pictures, windows, panels or a curtain, and a floor or table top."""
    wall = _whole()
    edge = rng.uniform(0.45, 0.85)
    for _ in range(rng.integers(0, 4)):
        x, y, w, h = rng.uniform(-0.1, 0.9), rng.uniform(-0.1, 0.5), rng.uniform(0.1, 0.35), rng.uniform(0.12, 0.45)
        frame = wall.add(shapes.box(x, y, x + w, y + h), parent=0, paint=1)
        inside = wall.add(
            shapes.box(x + 0.02, y + 0.02, x + w - 0.02, y + h - 0.02), parent=frame, paint=int(rng.integers(2, 4))
        )
        if rng.random() < 0.5:
            wall.add(shapes.blob(rng, x + w / 2, y + h, w * 0.5, h * 0.5), parent=inside, paint=4)
    regions = [
        Region(
            parts=wall,
            colour=("wall", "wall", "stone", "dark", "vivid")[rng.integers(5)],
            textures="wall",
            ramp=rng.uniform(-0.6, 0.6),
        )
    ]
    if rng.random() < 0.35:
        x, w = rng.choice((-0.1, 0.75)), rng.uniform(0.2, 0.45)
        curtain = Parts()
        curtain.add(
            shapes.stroke(
                np.stack([x + w / 2 + 0.02 * np.sin(np.linspace(0, 6, 16)), np.linspace(-0.1, 1.0, 16)], 1), w
            )
        )
        regions.append(Region(parts=curtain, colour="vivid", textures="cloth"))
    floor = Parts()
    tilt = rng.normal(0, 0.04)
    base = floor.add(np.array([[-0.1, edge - tilt], [1.1, edge + tilt], [1.1, 1.2], [-0.1, 1.2]]))
    if rng.random() < 0.4:
        rug = floor.add(
            np.array([[0.25, edge + 0.06], [0.75, edge + 0.06], [0.95, 0.97], [0.02, 0.97]]), parent=base, paint=1
        )
        floor.add(shapes.ellipse(0.5, (edge + 1) / 2 + 0.02, 0.2, 0.06), parent=rug, paint=2)
    textures = ("wood", "cloth", "ground", "plain")[rng.integers(4)]
    regions.append(
        Region(
            parts=floor,
            colour=("soil", "wall", "stone", "fur")[rng.integers(4)],
            textures=textures,
            horizon=edge - 0.25,
        )
    )
    return Surroundings(regions=regions, floor=(edge + 0.05, 1.02))


def close_up(rng: np.random.Generator) -> Surroundings:
    """Return one textured region with ragged patches: foliage, water, ground or a wall, as behind a portrait."""
    behind = _whole()
    for _ in range(rng.integers(0, 4)):
        x, y, size = rng.random(), rng.random(), rng.uniform(0.1, 0.4)
        behind.add(shapes.blob(rng, x, y, size, size, 0.5), parent=0, paint=1, fuzzy=size * rng.uniform(0.1, 0.4))
    kinds = (
        ("foliage", "foliage"),
        ("soil", "ground"),
        ("stone", "ground"),
        ("water", "water"),
        ("dark", "plain"),
        ("wall", "plain"),
        ("foliage", "grass"),
    )
    colour, textures = kinds[rng.integers(len(kinds))]
    return Surroundings(
        regions=[Region(parts=behind, colour=colour, textures=textures, ramp=rng.normal(0, 0.5))], floor=None
    )


def patchwork(rng: np.random.Generator) -> Surroundings:
    """Return regions cut by ragged contours at any angle: shores, rock faces, thickets, camouflage."""
    names = (
        ("foliage", "foliage"),
        ("soil", "ground"),
        ("stone", "ground"),
        ("water", "water"),
        ("foliage", "grass"),
        ("wall", "wall"),
    )
    regions = []
    turn = rng.normal(0, 0.5)
    for k in range(rng.integers(2, 5)):
        parts = _whole()
        if k:
            height = rng.uniform(0.15, 0.9)
            contour = shapes.skyline(rng, height, rng.uniform(0.02, 0.15), rng.uniform(1.0, 2.0))
            stretched = (contour - (0.5, height)) * (1.6, 1.0) * (1, 1) + (0, height - 0.5)
            stretched[-2:, 1] += 1.0
            parts = Parts()
            parts.add(shapes.rotate(stretched, turn + rng.normal(0, 0.4)) + 0.5, fuzzy=rng.choice((0.0, 0.03, 0.08)))
        for _ in range(rng.integers(0, 3)):
            x, y, size = rng.random(), rng.random(), rng.uniform(0.05, 0.2)
            parts.add(
                shapes.blob(rng, x, y, size, size * rng.uniform(0.4, 1), 0.5),
                parent=0,
                paint=1,
                fuzzy=rng.choice((0.0, 0.05)),
            )
        colour, textures = names[rng.integers(len(names))]
        regions.append(Region(parts=parts, colour=colour, textures=textures, ramp=rng.normal(0, 0.3)))
    return Surroundings(regions=regions, floor=None)


def aerial(rng: np.random.Generator) -> Surroundings:
    """Return land from above: plots with sub-plots, a road or river through them."""
    regions = [Region(parts=_whole(), colour=("foliage", "soil")[rng.integers(2)], textures="ground")]
    columns, rows = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    turn, gap = rng.uniform(-0.6, 0.6), rng.uniform(0.0, 0.05)
    corner = (np.indices((columns + 1, rows + 1)).transpose(1, 2, 0) / (columns, rows) - 0.5) * 1.5
    corner = corner + rng.uniform(-0.09, 0.09, corner.shape)
    for i in range(columns):
        for j in range(rows):
            square = np.array([corner[i, j], corner[i + 1, j], corner[i + 1, j + 1], corner[i, j + 1]])
            centre = square.mean(0)
            plot = Parts()
            whole = plot.add(shapes.rotate((square - centre) * (1 - gap) + centre, turn) + 0.5)
            if rng.random() < 0.4:
                inner = (square - centre) * (rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9)) + centre
                plot.add(shapes.rotate(inner, turn) + 0.5, parent=whole, paint=1)
            kind = ("foliage", "soil", "soil", "stone", "water")[rng.integers(5)]
            regions.append(Region(parts=plot, colour=kind, textures=("grass", "ground", "cloth")[rng.integers(3)]))
    if rng.random() < 0.7:
        road = Parts()
        path = shapes.curve((-0.1, rng.random()), (rng.random(), rng.random()), (1.1, rng.random()), num_points=20)
        road.add(shapes.stroke(path, rng.uniform(0.03, 0.12)))
        regions.append(Region(parts=road, colour=("stone", "water", "soil")[rng.integers(3)], textures="plain"))
    return Surroundings(regions=regions, floor=None)


#: Kinds of surroundings; those that are more common stand more than once.
SURROUNDINGS = (
    landscape,
    landscape,
    landscape,
    landscape,
    room,
    room,
    close_up,
    close_up,
    patchwork,
    patchwork,
    aerial,
)
