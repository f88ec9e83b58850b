"""The canvas: paints an object's parts, its shadow and its shading, and remembers which part each pixel shows.

Parts get consecutive numbers in pre-order, so a part with all its descendants is a range of numbers: that makes masks
nest by construction. Next in the tour: `camera.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.scenes.palette import Material
from unsam_lightning.scenes.shapes import Parts
from unsam_lightning.scenes.textures import FIELD, MIDDLE, Floats, bank

#: Sub-pixel bits of polygon corners.
_SHIFT = 4
#: Side in pixels of the thumbnails on which shading is computed: shading is smooth.
_THUMB = 32

#: Levels below the object that get masks: parts and sub-parts.
_DEEPEST = 2

Box = tuple[int, int, int, int]
Coverage = npt.NDArray[np.uint8]
#: int32 (K, 2), pixel coordinates times 2 ** _SHIFT.
Polygon = npt.NDArray[np.int32]


@dataclass(kw_only=True, slots=True)
class Look:
    """How an object is lit.

    Args:
        light: (2,) direction towards the light in the image, length 1.
        relief: Strength of the shading of the object as one rounded body; 0 is flat.
        part_relief: The same for each part.
        shadow: Strength of the cast shadow in log lightness; 0 is none.
        shadow_fall: 2 x 2 matrix about the object's foot that lays the shadow on the ground; the identity on a wall.
        shadow_shift: (2,) how far the shadow falls beside the object, in units.
        shadow_blur: Softness of the shadow in units.
        seam: Strength of the dark seam about parts.
    """

    light: npt.NDArray[np.float64]
    relief: float
    part_relief: float
    shadow: float
    shadow_fall: npt.NDArray[np.float64]
    shadow_shift: npt.NDArray[np.float64]
    shadow_blur: float
    seam: float


class Canvas:
    """A picture in log RGB with the number of the part that each pixel shows.

    Args:
        height: Pixels.
        width: Pixels.

    Attributes:
        log_rgb: float32 (H, W, 3).
        labels: uint16 (H, W): 1-based number of the part that is seen, 0 for none.
        parents: Parent of each number, 0 for an object itself; index 0 is unused.
        windows: Where each number may be seen without its descendants, (x0, y0, x1, y1); None for nowhere.
        px_per_unit: Pixels in 1/256 of the image's mean side.
    """

    def __init__(self, height: int, width: int) -> None:
        self.log_rgb: Floats = np.zeros((height, width, 3), np.float32)
        self.labels: npt.NDArray[np.uint16] = np.zeros((height, width), np.uint16)
        self.parents: list[int] = [0]
        self.windows: list[Box | None] = [None]
        self.px_per_unit = (height * width) ** 0.5 / 256

    def paint(
        self,
        parts: Parts,
        *,
        place: npt.NDArray[np.float64],
        offset: npt.NDArray[np.float64],
        materials: dict[int, Material],
        look: Look,
    ) -> None:
        """Paint an object.

        Args:
            parts: Its tree.
            place: 2 x 2 matrix from the object's frame to pixels.
            offset: (2,) pixels.
            materials: For every paint number of the parts.
            look: How it is lit.
        """
        tree = parts.preorder()
        polygons = _to_pixels(parts, place, offset)
        whole = self._window([polygon for of_part in polygons for polygon in of_part], margin=2)
        root = self._number(0, whole)
        if whole is None:
            return
        if look.shadow > 0:
            self._cast([polygon for of_part in polygons for polygon in of_part], look)
        number, depth = {-1: root}, {-1: 0}
        scale = float(np.sqrt(abs(np.linalg.det(place))))
        for index in tree:
            part = parts.parts[index]
            depth[index] = depth[part.parent] + 1
            fuzz_px = part.fuzzy * scale
            window = self._window(polygons[index], margin=2 + int(fuzz_px))
            # What lies deeper than a sub-part is a detail of it without a mask.
            above = number[part.parent]
            number[index] = self._number(above, window) if depth[index] <= _DEEPEST else above
            if window is None:
                continue
            alpha = _raster(polygons[index], window, fuzz_px)
            if part.clipped:
                x0, y0, x1, y1 = window
                alpha[self.labels[y0:y1, x0:x1] < above] = 0
            self._lay(alpha, window, number[index], materials[part.paint], look)
        if look.relief > 0:
            x0, y0, x1, y1 = whole
            self._round((self.labels[y0:y1, x0:x1] >= root).view(np.uint8) * np.uint8(255), whole, look.relief, look)

    def _number(self, parent: int, window: Box | None) -> int:
        """Return the number of a new part."""
        self.parents.append(parent)
        self.windows.append(window)
        return len(self.parents) - 1

    def ramp(self, first: int, change: float) -> None:
        """Add a vertical gradient of log lightness to every part with number `first` or above."""
        height = len(self.labels)
        column = np.linspace(-change / 2, change / 2, height, dtype=np.float32)[:, None]
        add_lightness(self.log_rgb, (self.labels >= first) * column)

    def _window(self, polygons: Sequence[Polygon], margin: int) -> Box | None:
        """Return (x0, y0, x1, y1) of the polygons inside the image, or None."""
        if not polygons:
            return None
        x, y, wide, high = cv2.boundingRect(polygons[0] if len(polygons) == 1 else np.concatenate(polygons))
        height, width = self.labels.shape
        x0, y0 = max((x >> _SHIFT) - margin, 0), max((y >> _SHIFT) - margin, 0)
        x1, y1 = min(((x + wide) >> _SHIFT) + margin + 1, width), min(((y + high) >> _SHIFT) + margin + 1, height)
        too_small = max(wide, high) < 3 << _SHIFT  # cannot be seen, but would take time
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 and not too_small else None

    def _lay(self, alpha: Coverage, window: Box, number: int, material: Material, look: Look) -> None:
        """Blend a part into the picture and write its number where it covers at least half a pixel."""
        x0, y0, x1, y1 = window
        picture, labels = self.log_rgb[y0:y1, x0:x1], self.labels[y0:y1, x0:x1]
        area_px = (x1 - x0) * (y1 - y0)
        if look.seam > 0 and 100 * self.px_per_unit**2 < area_px < 0.3 * self.labels.size:
            side = 2 * int(self.px_per_unit * 1.5) + 3
            add_lightness(picture, cv2.blur(alpha, (side, side)) * np.float32(-look.seam / 255))
        surface = material.surface(x0, y0, x1 - x0, y1 - y0, self.px_per_unit)
        weight = alpha * np.float32(1 / 255)
        cv2.blendLinear(surface, picture, weight, 1 - weight, picture)
        np.copyto(labels, np.uint16(number), where=alpha >= 128)
        if look.part_relief > 0 and 400 * self.px_per_unit**2 < area_px < 0.3 * self.labels.size:
            self._round(alpha, window, look.part_relief, look)

    def _cast(self, polygons: list[Polygon], look: Look) -> None:
        """Darken what lies behind an object by its soft shadow."""
        points = np.concatenate(polygons)
        foot = np.array([points[:, 0].mean(), points[:, 1].max()])
        move = foot - look.shadow_fall @ foot + look.shadow_shift * (self.px_per_unit * (1 << _SHIFT))
        fallen = points @ look.shadow_fall.T + move
        blur = max(look.shadow_blur * self.px_per_unit, 1.0)
        box = self._window([np.round(fallen).astype(np.int32)], margin=int(2 * blur))
        if box is None:
            return
        x0, y0, x1, y1 = box
        shrink = max(1.0, max(x1 - x0, y1 - y0) / 64)
        small = np.zeros((max(int((y1 - y0) / shrink), 1), max(int((x1 - x0) / shrink), 1)), np.uint8)
        thumb = np.round((fallen - np.array([x0, y0]) * (1 << _SHIFT)) / shrink).astype(np.int32)
        # One by one: together, the even-odd rule would cut holes where parts overlap.
        for first, stop in pairwise(accumulate(map(len, polygons), initial=0)):
            cv2.fillPoly(small, [thumb[first:stop]], 255, cv2.LINE_8, _SHIFT)
        side = 2 * int(blur / shrink) + 1
        soft = cv2.blur(cv2.blur(small, (side, side), borderType=cv2.BORDER_CONSTANT), (side, side))
        dark = cv2.resize(soft, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) * np.float32(-look.shadow / 255)
        add_lightness(self.log_rgb[y0:y1, x0:x1], dark)

    def _round(self, cover: Coverage, window: Box, relief: float, look: Look) -> None:
        """Shade what `cover` shows as a rounded body under the light, from its distance transform."""
        x0, y0, x1, y1 = window
        shrink = max(1.0, max(x1 - x0, y1 - y0) / _THUMB)
        size = max(int((x1 - x0) / shrink), 2), max(int((y1 - y0) / shrink), 2)
        small = cv2.resize(cover, size, interpolation=cv2.INTER_LINEAR)
        small = cv2.copyMakeBorder(small, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        inside = cv2.distanceTransform(cv2.compare(small, 127, cv2.CMP_GT), cv2.DIST_L2, 3)
        deepest = float(inside.max())
        if deepest < 1:
            return
        short = 1 - inside * np.float32(1 / deepest)
        dome = cv2.blur(cv2.sqrt(1 - short * short), (3, 3))
        facing_x, facing_y = cv2.Sobel(dome, cv2.CV_32F, 1, 0), cv2.Sobel(dome, cv2.CV_32F, 0, 1)
        gain = relief * deepest / 7
        shade = cv2.addWeighted(facing_x, -gain * look.light[0], facing_y, -gain * look.light[1], -0.35 * relief)
        shade = np.clip(shade, -1.3 * relief, 1.1 * relief) + dome * np.float32(0.5 * relief)
        full = cv2.resize(shade[1:-1, 1:-1], (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        add_lightness(self.log_rgb[y0:y1, x0:x1], cv2.multiply(full, cover, scale=1 / 255, dtype=cv2.CV_32F))


def add_lightness(picture: Floats, change: npt.NDArray[np.floating]) -> None:
    """Add a field (H, W) of log lightness to all channels of a picture (H, W, 3), in place."""
    cv2.add(picture, cv2.cvtColor(np.asarray(change, np.float32), cv2.COLOR_GRAY2BGR), dst=picture)


def _to_pixels(parts: Parts, place: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]) -> list[list[Polygon]]:
    """Return every part's outlines as fixed-point pixel coordinates; one product for all, for speed."""
    outlines = [outline for part in parts.parts for outline in part.outlines]
    points = np.concatenate(outlines) @ place.T + offset
    fixed = np.round(points * (1 << _SHIFT)).astype(np.int32)
    polygons, start = [], 0
    for part in parts.parts:
        stops = list(accumulate(map(len, part.outlines), initial=start))
        polygons.append([fixed[first:stop] for first, stop in pairwise(stops)])
        start = stops[-1]
    return polygons


def _raster(polygons: list[Polygon], window: Box, fuzz_px: float) -> Coverage:
    """Return the coverage of a window in [0, 255], ragged at the edge if `fuzz_px` is above 1."""
    x0, y0, x1, y1 = window
    alpha = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(alpha, polygons, 255, cv2.LINE_AA, _SHIFT, (-x0 << _SHIFT, -y0 << _SHIFT))
    if fuzz_px <= 1:
        return alpha
    side = 2 * int(fuzz_px / 2 + 0.5) + 1
    soft = cv2.blur(cv2.blur(alpha, (side, side)), (side, side))
    pattern = bank()["leaves" if (x0 + y1) % 2 else "pink"][2 - (y0 + x1) % 3]
    if max(alpha.shape) > FIELD:
        pattern = cv2.resize(pattern, (max(x1 - x0, FIELD), max(y1 - y0, FIELD)))
    noise = cv2.extractChannel(pattern[: y1 - y0, : x1 - x0], 0)
    # Coverage one half lies where the blurred edge meets the noise; the gain leaves a rim about a pixel wide.
    gain = 5.0
    return np.asarray(cv2.addWeighted(soft, gain, noise, gain, 128.0 - gain * (127.5 + MIDDLE)))
