"""Colours with the correlations of photographs, and materials: a texture with the colours that it shows.

Colours are natural logarithms of linear RGB, so that texture, shading and shadow add. Next in the tour: `shapes.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.scenes.textures import DEVIATION, FIELD, MIDDLE, Floats, Texture, bank

_T = TypeVar("_T")
LogColour = npt.NDArray[np.float64]

#: Lightness, yellow-blue and red-green directions of log RGB, orthonormal. Source: Ruderman, Cronin, Chiao, "Statistics
#: of cone responses to natural images", JOSA A 1998, in RGB instead of cone responses.
_OPPONENT = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3.0], [6.0], [2.0]])

_WARP, _WRAP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_WRAP
#: Faster, and as good for noise that is not magnified by more than `_FINE` texels a pixel.
_WARP_NEAREST, _FINE = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, 0.75

#: sRGB of common surfaces, the centres from which a scene's colours are drawn.
_SURFACES = {
    "foliage": ((86, 108, 50), (60, 84, 42), (122, 130, 66), (48, 62, 40), (110, 140, 60)),
    "soil": ((124, 100, 74), (160, 134, 100), (92, 72, 54), (186, 164, 128), (140, 120, 96)),
    "stone": ((130, 126, 120), (168, 164, 156), (92, 90, 90), (150, 140, 124), (70, 68, 66)),
    "sky": ((120, 160, 210), (180, 200, 222), (214, 220, 226), (84, 124, 184), (226, 210, 190)),
    "water": ((62, 92, 110), (40, 64, 84), (96, 124, 130), (110, 140, 160), (30, 52, 56)),
    "fur": ((150, 110, 72), (96, 70, 50), (60, 50, 44), (190, 170, 140), (34, 30, 30), (206, 200, 190), (170, 130, 80)),
    "wall": ((206, 196, 178), (180, 160, 140), (150, 96, 76), (226, 224, 216), (120, 124, 128), (190, 176, 120)),
    "skin": ((200, 150, 120), (150, 104, 80), (96, 66, 50), (222, 180, 150)),
    "vivid": (
        (190, 40, 36),
        (220, 160, 40),
        (40, 80, 160),
        (230, 220, 210),
        (50, 120, 70),
        (140, 50, 110),
        (230, 110, 40),
    ),
    "dark": ((28, 28, 32), (44, 36, 32), (20, 26, 24), (50, 54, 60)),
}
_NATURAL = ("soil", "stone", "fur", "foliage", "wall", "vivid", "dark", "skin", "water")

#: Which textures a surface may take; "any" is for objects of no particular kind.
TEXTURES = {
    "any": (
        "pink",
        "smooth",
        "grain",
        "ridges",
        "leaves",
        "pink",
        "leaves",
        "stripes",
        "pink",
        "cells",
        "checks",
        "grain",
        "spots",
    ),
    "plain": ("smooth", "pink", "smooth", "grain"),
    "foliage": ("leaves", "pink", "leaves", "ridges"),
    "grass": ("grain", "pink", "leaves"),
    "ground": ("pink", "cells", "leaves", "ridges", "pink", "leaves", "pink"),
    "wall": ("pink", "bricks", "smooth", "bricks", "grain", "cells"),
    "water": ("grain", "ridges", "smooth", "pink"),
    "sky": ("smooth",),
    "fur": ("grain", "pink", "grain", "stripes", "pink", "spots"),
    "cloth": ("stripes", "checks", "smooth", "pink", "spots"),
    "wood": ("grain", "bricks", "ridges"),
}


@dataclass(kw_only=True, slots=True)
class Material:
    """A surface: a texture, how it lies in the image and what colours it takes.

    Args:
        texture: uint8 (FIELD, FIELD, 4) of the bank, or a sheet: float32 (H, W, 3) that already lies in the image.
        colour: (3,) mean log RGB.
        axes: (3, 3): change of log RGB for one deviation of each of the texture's channels, in columns.
        offset: (2,) texels.
        turn: 2 x 2 matrix from units (1/256 of the image's mean side) to texels; None for one texel a pixel, upright,
            which is much faster.
        horizon: y in units at which the surface recedes to infinity (a ground), or None for one that faces the camera.
    """

    texture: Texture | Floats
    colour: LogColour
    axes: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    turn: npt.NDArray[np.float64] | None = None
    horizon: float | None = None
    _mix: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._mix = np.empty((3, 4))
        self._mix[:, :3] = self.axes / DEVIATION
        self._mix[:, 3] = self.colour - MIDDLE * self._mix[:, :3].sum(1)

    def surface(self, x: int, y: int, width: int, height: int, px_per_unit: float) -> Floats:
        """Return the log RGB of a window of the image, float32 (height, width, 3); x, y, width, height in pixels."""
        return np.asarray(cv2.transform(self._window(x, y, width, height, px_per_unit), self._mix))

    def _window(self, x: int, y: int, width: int, height: int, px_per_unit: float) -> Floats:
        """Return the texture of a window of the image, float32 (height, width, 3)."""
        if self.turn is None:
            rows, columns = self.texture.shape[:2]
            top = (y + int(self.offset[1])) % (rows - height + 1)
            left = (x + int(self.offset[0])) % (columns - width + 1)
            return _to_floats(self.texture[top : top + height, left : left + width])
        if self.horizon is None:
            to_texel = np.column_stack([self.turn / px_per_unit, self.offset + self.turn @ (x, y) / px_per_unit])
            return _to_floats(_warped(self.texture, to_texel, width, height))
        # Depth goes with 1 / (y - horizon); 128 units below the horizon one unit is about one texel.
        receding = np.array([[128.0, 0, 128.0 * (x - 128 * px_per_unit)], [0, 0, 128.0 * 128 * px_per_unit]])
        plane = np.vstack([self.turn @ receding, [0, 1, y - self.horizon * px_per_unit]])
        plane[:2] += self.offset[:, None] * plane[2]
        return _to_floats(cv2.warpPerspective(self.texture, plane, (width, height), flags=_WARP, borderMode=_WRAP))


def _warped(texture: Texture | Floats, to_texel: npt.NDArray[np.float64], width: int, height: int) -> Texture:
    """Return a window of a texture under a 2 x 3 matrix from pixels to texels."""
    texels_per_pixel = abs(to_texel[0, 0] * to_texel[1, 1] - to_texel[0, 1] * to_texel[1, 0]) ** 0.5
    flags = _WARP_NEAREST if texels_per_pixel > _FINE else _WARP
    return np.asarray(cv2.warpAffine(texture, to_texel, (width, height), flags=flags, borderMode=_WRAP))


def _to_floats(texture: Texture | Floats) -> Floats:
    """Return the first three channels as float32; a sheet has them already."""
    if texture.dtype == np.float32:
        return np.asarray(texture, dtype=np.float32)
    return np.asarray(cv2.cvtColor(texture, cv2.COLOR_RGBA2RGB), dtype=np.float32)


def from_srgb(red: float, green: float, blue: float) -> LogColour:
    """Return the log of linear RGB of an sRGB colour in [0, 255], by a plain 2.2 gamma."""
    return np.log((np.array([red, green, blue]) / 255) ** 2.2 + 1e-3)


class Palette:
    """The colours and textures of one scene: few, because one place under one light has few.

    Args:
        rng: The scene's source of randomness; every call draws from it.
        height: Of the image in pixels.
        width: Of the image in pixels.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self._rng = rng
        self._shape = height, width
        self._px_per_unit = (height * width) ** 0.5 / 256
        self._vividness = float(np.exp(rng.normal(-0.2, 0.3)))
        self._texture_gain = float(np.exp(rng.normal(0.0, 0.4)))
        self._anchors = [self.colour(_NATURAL[k]) for k in rng.integers(len(_NATURAL), size=3)]
        self._sheets = [self._sheet() for _ in range(2)]

    def _sheet(self) -> Floats:
        """Return a texture of the size of the image, turned and scaled: things take windows of it."""
        rng, (height, width) = self._rng, self._shape
        # Finer than the image's scale alone would have it: larger photographs show finer detail.
        turn = self._turn(float(np.exp(rng.uniform(np.log(0.7), np.log(1.38)))) / self._px_per_unit**0.5)
        to_texel = np.column_stack([turn, self._offset(turn)])
        texture = _pick(rng, bank()[_pick(rng, TEXTURES["any"])])
        return _to_floats(_warped(texture, to_texel, width, height))

    def _turn(self, scale: float) -> npt.NDArray[np.float64]:
        c, s = np.cos(turn := self._rng.random() * 2 * np.pi), np.sin(turn)
        return np.array([[c, -s], [s, c]]) * scale

    def _offset(self, turn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return an offset at which the image lies inside the texture if it can: wrapping is slow."""
        height, width = self._shape
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ turn.T
        room = np.maximum(FIELD - 2 - np.ptp(corners, axis=0), 0)
        return np.asarray(self._rng.random(2) * room - corners.min(0))

    def colour(self, kind: str) -> LogColour:
        """Return a colour near one of a kind's centres."""
        opponent = _OPPONENT @ from_srgb(*_pick(self._rng, _SURFACES[kind]))
        opponent[1:] *= self._vividness
        return np.asarray((opponent + self._rng.standard_normal(3) * (0.45, 0.12, 0.06)) @ _OPPONENT)

    def object_colour(self, behind: LogColour) -> LogColour:
        """Return a colour for an object in front of `behind`: one of the scene's few, a new one, or a camouflage."""
        choice = self._rng.random()
        if choice < 0.12:
            return behind + self._rng.standard_normal(3) * 0.1 + self._rng.normal(0, 0.3)
        if choice < 0.55:
            anchor = _pick(self._rng, self._anchors)
            return np.asarray(anchor + (self._rng.standard_normal(3) * (0.7, 0.1, 0.06)) @ _OPPONENT)
        return self.colour(_pick(self._rng, _NATURAL))

    def _axes(self, contrast: float) -> npt.NDArray[np.float64]:
        """Return random texture axes, as `Material.axes`."""
        rng = self._rng
        strength = contrast * self._texture_gain * min(np.exp(rng.normal(-0.6, 0.7)), 0.9)
        hue = (rng.standard_normal(2) * (0.3, 0.1) + (0.12, 0.0)) @ _OPPONENT[1:]  # lit parts are yellower
        axes = np.empty((3, 3))
        axes[:, 0], axes[:, 1], axes[:, 2] = strength * (1 + 0.4 * hue), 0.25 * strength * hue, abs(rng.normal(0, 0.12))
        return axes

    def stuff(self, kind: str, textures: str, horizon: float | None) -> Material:
        """Return the material of a region: a colour kind of `_SURFACES` and a key of `TEXTURES`, laid at random."""
        rng = self._rng
        scale = float(np.exp(rng.uniform(np.log(0.7), np.log(1.38)))) * self._px_per_unit**0.5
        upright = textures in ("wall", "wood", "grass", "sky") and rng.random() < 0.8
        turn = np.eye(2) * scale if upright else self._turn(scale)
        return Material(
            texture=_pick(rng, bank()[_pick(rng, TEXTURES[textures])]),
            colour=self.colour(kind),
            axes=self._axes(1.25 if textures != "sky" else 0.3),
            offset=self._offset(turn / self._px_per_unit),
            turn=turn,
            horizon=horizon,
        )

    def thing(self, colour: LogColour, textures: str = "any") -> Material:
        """Return a material for an object or a part: a window of the bank or of one of the scene's sheets."""
        rng = self._rng
        sheet = max(self._shape) > FIELD or rng.random() < 0.5
        texture = _pick(rng, self._sheets) if sheet else _pick(rng, bank()[_pick(rng, TEXTURES[textures])])
        return Material(texture=texture, colour=colour, axes=self._axes(1.0), offset=rng.random(2) * FIELD)

    def related(self, material: Material, textures: str = "any") -> Material:
        """Return a material for a part: the same in another tone, the same texture recoloured, or a new one."""
        rng = self._rng
        choice = rng.random()
        if choice < 0.45:
            # Never quite the same tone, and less so on a rough texture: a part that nobody can see is a wrong label.
            least = 0.15 + 0.5 * float(material.axes[:, 0].mean())
            tone = (least + abs(rng.normal(0, 0.35))) * (1 if rng.random() < 0.5 else -1)
            tint = (rng.standard_normal(2) * (0.08, 0.05)) @ _OPPONENT[1:]
            return replace(material, colour=material.colour + tone + tint)
        colour = self.object_colour(material.colour)
        return replace(material, colour=colour) if choice < 0.65 else self.thing(colour, textures)


def _pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    """Return one of the options; many times faster than `Generator.choice`."""
    return options[int(rng.random() * len(options))]
