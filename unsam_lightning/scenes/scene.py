"""`make_scene`: a random picture with the exact masks of its objects, their parts and their sub-parts.

The last file of the embedded data set's tour; `benchmarks/readers/scenes.py` serves it as a benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unsam_lightning.errors import UserError
from unsam_lightning.scenes import camera
from unsam_lightning.scenes.artefacts import ARTEFACTS
from unsam_lightning.scenes.creatures import CREATURES
from unsam_lightning.scenes.forest import forest, grade
from unsam_lightning.scenes.painter import Canvas, Look
from unsam_lightning.scenes.palette import Material, Palette
from unsam_lightning.scenes.plants import PLANTS
from unsam_lightning.scenes.shapes import Parts
from unsam_lightning.scenes.surroundings import SURROUNDINGS, Region, Surroundings
from unsam_lightning.scenes.things import THINGS

#: Seeds from here on are for tests; training must use seeds below it.
FIRST_TEST_SEED = 1_000_000
#: Changes whenever the generator changes, so that two versions never share a scene by accident.
_VERSION = 1
_SMALLEST_SIDE, _LARGEST_SIDE = 32, 2048

_Family = Callable[[np.random.Generator], Parts]


@dataclass(kw_only=True, slots=True)
class Scene:
    """A picture with the masks of everything in it, as a forest in pre-order.

    Args:
        image: uint8 (H, W, 3), RGB.
        masks: bool (N, H, W): the visible pixels; a parent's mask holds its children's. N is at least 1.
        parent: int32 (N,): index of the parent in `masks`, always smaller than the child's; -1 for an object.
        level: int32 (N,): 0 object or region of stuff, 1 part, 2 sub-part; always the parent's plus 1.
        granularity: float64 (N,) in [0.1, 1]: by area within each object's tree, 1.0 for the object.
    """

    image: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    parent: npt.NDArray[np.int32]
    level: npt.NDArray[np.int32]
    granularity: npt.NDArray[np.float64]


def make_scene(seed: int, size: int | tuple[int, int] = 256, *, min_area_px: int = 16) -> Scene:
    """Return the scene of a seed: a pure function, the same in every process (with the same library versions).

    Args:
        seed: Not negative; below `FIRST_TEST_SEED` for training.
        size: Side or (height, width) in pixels, each in [32, 2048]. Another size is another scene.
        min_area_px: Smallest visible area of a mask at 256 x 256 pixels; scaled with the image's area, at least 4.

    Returns:
        The scene. Children are strict subsets of their parents, siblings and objects are disjoint. A part that fills
        its parent but for fewer than that smallest area is left out; its children belong to the parent then, a level
        higher.

    Raises:
        UserError: If the seed is negative or the size is out of range.
    """
    height, width = _check(seed, size, min_area_px)
    rng = np.random.default_rng(np.random.SeedSequence((seed, height, width, _VERSION)))
    canvas = _compose(rng, height, width)
    smallest = max(min_area_px * height * width / 256**2, 4.0)
    masks, parent, area_px = forest(canvas, smallest)
    camera.light_field(rng, canvas.log_rgb)
    level, granularity = grade(parent, area_px)
    image = camera.develop(rng, canvas.log_rgb)
    return Scene(image=image, masks=masks, parent=parent, level=level, granularity=granularity)


def _check(seed: int, size: int | tuple[int, int], min_area_px: int) -> tuple[int, int]:
    """Return the height and width or raise `UserError`."""
    if seed < 0:
        raise UserError(expected="a scene seed of 0 or more", found=str(seed), remedy="use a seed that is not negative")
    if min_area_px < 0:
        raise UserError(expected="min_area_px of 0 or more", found=str(min_area_px), remedy="use 16, the default")
    height, width = (size, size) if isinstance(size, int) else size
    if not (min(height, width) >= _SMALLEST_SIDE and max(height, width) <= _LARGEST_SIDE):
        raise UserError(
            expected=f"a scene size with sides in [{_SMALLEST_SIDE}, {_LARGEST_SIDE}] pixels",
            found=f"{height} x {width}",
            remedy="make the scene at a size in this range and resize image and masks",
        )
    return height, width


def _compose(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Return a canvas with surroundings and things painted back to front."""
    canvas = Canvas(height, width)
    palette = Palette(rng, height, width)
    behind = SURROUNDINGS[int(rng.integers(len(SURROUNDINGS)))](rng)
    angle = rng.normal(-np.pi / 2, 0.7)  # mostly from above
    light = np.array([np.cos(angle), np.sin(angle)])
    for region in behind.regions:
        _paint_region(rng, canvas, palette, region, light)
    if rng.random() < 0.25:
        camera.defocus(rng, canvas.log_rgb, canvas.px_per_unit)
    shadow = rng.uniform(0.2, 1.4) if rng.random() < 0.7 else 0.0
    places = _places(rng, behind, height, width)
    families = _families(rng, len(places))
    for k, (family, (x, y, radius)) in enumerate(zip(families, places, strict=True)):
        if k and k == len(places) // 2 and rng.random() < 0.12:
            camera.defocus(rng, canvas.log_rgb, canvas.px_per_unit * 0.5)
        _paint_thing(rng, canvas, palette, family, np.array([x, y, radius]), light, shadow, behind.floor is not None)
    return canvas


def _families(rng: np.random.Generator, number: int) -> list[_Family]:
    """Return the family of each thing: scenes repeat some, as herds and streets do."""
    every: tuple[_Family, ...] = CREATURES + PLANTS + ARTEFACTS + THINGS
    few = [every[k] for k in rng.integers(len(every), size=3)]
    return [few[rng.integers(3)] if rng.random() < 0.5 else every[rng.integers(len(every))] for _ in range(number)]


def _places(
    rng: np.random.Generator, behind: Surroundings, height: int, width: int
) -> list[tuple[float, float, float]]:
    """Return centre and radius in pixels of each thing, back to front."""
    side = min((height * width) ** 0.5, 1.6 * min(height, width))
    number = int(rng.integers(1, 3)) if rng.random() < 0.15 else int(rng.integers(3, 8))
    radii = np.exp(rng.uniform(np.log(0.06), np.log(0.3), number)) * side
    if rng.random() < 0.6:
        radii[0] = rng.uniform(0.28, 0.55) * side  # the subject of the picture
    places = []
    for radius in radii:
        x, y = rng.uniform(0.03, 0.97) * width, rng.uniform(0.05, 0.95) * height
        if behind.floor is not None and rng.random() < 0.85:
            low, high = behind.floor
            y = rng.uniform(low, high) * height - radius * 0.95
        places.append((x, y, float(radius)))
    if behind.floor is not None:
        places.sort(key=lambda place: place[1] + place[2])
    else:
        places.sort(key=lambda place: -place[2] * rng.uniform(0.3, 1))
    return places


def _paint_region(
    rng: np.random.Generator, canvas: Canvas, palette: Palette, region: Region, light: npt.NDArray[np.float64]
) -> None:
    """Paint one region of stuff."""
    height, width = canvas.labels.shape
    horizon = None if region.horizon is None else region.horizon * height / canvas.px_per_unit
    base = palette.stuff(region.colour, region.textures, horizon)
    materials = {0: base} | {k: palette.related(base, region.textures) for k in _paints(region.parts) if k}
    look = Look(
        light=light,
        relief=0.0,
        part_relief=0.0,
        shadow=0.0,
        shadow_fall=np.eye(2),
        shadow_shift=np.zeros(2),
        shadow_blur=0.0,
        seam=0.25 if rng.random() < 0.5 else 0.0,
    )
    first = len(canvas.parents)
    place = np.diag((width, height)).astype(np.float64)
    canvas.paint(region.parts, place=place, offset=np.zeros(2), materials=materials, look=look)
    if region.ramp:
        canvas.ramp(first, region.ramp)


def _paints(parts: Parts) -> list[int]:
    return sorted({part.paint for part in parts.parts})


def _paint_thing(
    rng: np.random.Generator,
    canvas: Canvas,
    palette: Palette,
    family: _Family,
    place: npt.NDArray[np.float64],
    light: npt.NDArray[np.float64],
    shadow: float,
    stands: bool,
) -> None:
    """Paint one object of a family at `place` (x, y, radius in pixels)."""
    height, width = canvas.labels.shape
    x, y, radius = place
    parts = family(rng)
    behind = canvas.log_rgb[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)].astype(np.float64)
    textures = ("any", "plain", "fur", "cloth")[rng.integers(4)]
    base = palette.thing(palette.object_colour(behind), textures)
    materials: dict[int, Material] = {k: palette.related(base) if k else base for k in _paints(parts)}
    turn = rng.normal(0, 0.12) if stands else rng.normal(0, 0.5)
    c, s = np.cos(turn), np.sin(turn)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    skew = np.array([[mirror * np.exp(rng.normal(0, 0.15)), rng.normal(0, 0.12)], [0.0, np.exp(rng.normal(0, 0.15))]])
    matrix = np.array([[c, -s], [s, c]]) @ skew * radius
    reach = rng.uniform(0.02, 0.2) * radius / canvas.px_per_unit
    relief = abs(rng.normal(0, 0.6)) if rng.random() < 0.8 else 0.0
    part_relief = relief * rng.uniform(0.3, 1.0) if rng.random() < 0.45 else 0.0
    on_ground = stands and rng.random() < 0.8
    fall = np.array([[1.0, rng.normal(0, 0.8)], [0.0, rng.uniform(0.05, 0.35)]]) if on_ground else np.eye(2)
    look = Look(
        light=light,
        relief=relief,
        part_relief=part_relief,
        shadow=shadow,
        shadow_fall=fall,
        shadow_shift=np.zeros(2) if on_ground else -light * reach,
        shadow_blur=reach * rng.uniform(0.3, 1.2),
        # Parts of one material must be told apart by their relief or by a seam: every mask must be there to be seen.
        seam=rng.uniform(0.12, 0.6) if part_relief < 0.1 or rng.random() < 0.4 else 0.0,
    )
    canvas.paint(parts, place=matrix, offset=np.array([x, y]), materials=materials, look=look)
