"""Pictures of masks: overlays, masks coloured by granularity, rows of labelled tiles.

Pure functions of arrays, and the one that writes them. Next in the tour: `pseudo_labels/preview.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL.PngImagePlugin import PngInfo

from unsam_lightning.aside import written_aside

Image = npt.NDArray[np.uint8]
MaskStack = npt.NDArray[np.bool_]

_HIGHLIGHT = (30, 144, 255)
_CAPTION_PX = 18
_MAX_TILE_WIDTH = 16_384


def overlay(image: Image, mask: npt.NDArray[np.bool_], color: tuple[int, int, int] = _HIGHLIGHT) -> Image:
    """Return an image with one mask tinted and outlined.

    Args:
        image: uint8 RGB (H, W, 3); not changed.
        mask: bool (H, W).
        color: RGB.
    """
    # By a table, because a large photograph in floats takes gigabytes.
    table = (0.5 * np.arange(256)[None, :, None] + 0.5 * np.array(color)).astype(np.uint8)
    shown = np.where(mask[..., None], cv2.LUT(image, table), image)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(shown, contours, -1, (255, 255, 255), 1), dtype=np.uint8)


def granularity_color(granularity: float) -> tuple[int, int, int]:
    """Return the colour of a granularity: viridis, a perceptual scale, dark for fine and yellow for coarse."""
    level = np.uint8(round(255 * (granularity - 0.1) / 0.9))
    bgr = cv2.applyColorMap(np.full((1, 1), level, dtype=np.uint8), cv2.COLORMAP_VIRIDIS)[0, 0]
    return int(bgr[2]), int(bgr[1]), int(bgr[0])


def paint_hierarchy(image: Image, masks: MaskStack, granularity: Sequence[float]) -> Image:
    """Return an image with all masks painted by granularity, coarse ones first so that fine ones stay visible.

    Args:
        image: uint8 RGB (H, W, 3).
        masks: bool (N, H, W).
        granularity: N numbers in [0.1, 1].
    """
    return paint_masks(image, masks, [granularity_color(g) for g in granularity])


def paint_masks(image: Image, masks: MaskStack, colors: Sequence[tuple[int, int, int]]) -> Image:
    """Return an image with all masks tinted, the largest first so that small ones stay visible, and their edges white.

    Args:
        image: uint8 RGB (H, W, 3).
        masks: bool (N, H, W).
        colors: N times RGB.
    """
    tint, edges = image.copy(), np.zeros(image.shape[:2], dtype=np.uint8)
    for n in largest_first(masks):
        tint[masks[n]] = colors[n]
        contours, _ = cv2.findContours(masks[n].astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(edges, contours, -1, 1, 1)
    shown: Image = (0.45 * image + 0.55 * tint).astype(np.uint8)
    shown[edges > 0] = 255
    return shown


def largest_first(masks: MaskStack) -> list[int]:
    """Return the order of masks (N, H, W) from the largest to the smallest; equal ones as they come."""
    order: list[int] = np.argsort(-masks.sum((1, 2)), kind="stable").tolist()
    return order


def mark_clicks(image: Image, clicks_xy: npt.ArrayLike, labels: Sequence[int]) -> Image:
    """Return an image with clicks drawn: green inside, red outside.

    Args:
        image: uint8 RGB (H, W, 3).
        clicks_xy: (K, 2) pixels of the image.
        labels: K labels, 1 or 0.
    """
    shown = image.copy()
    radius = max(3, round(0.012 * max(image.shape[:2])))
    for (x, y), label in zip(np.asarray(clicks_xy).reshape(-1, 2), labels, strict=True):
        centre = (round(float(x)), round(float(y)))
        cv2.circle(shown, centre, radius + 1, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(shown, centre, radius, (0, 200, 0) if label else (220, 0, 0), -1, cv2.LINE_AA)
    return shown


def answer_tiles(
    image: Image, masks: MaskStack, clicks_xy: npt.ArrayLike, labels: Sequence[int], height: int = 320
) -> list[Image]:
    """Return a tile for each of an image's masks, with the clicks; drawn at the tiles' size, however large the image.

    Args:
        image: uint8 RGB (H, W, 3).
        masks: bool (N, H, W).
        clicks_xy: (K, 2) pixels of the image.
        labels: K labels, 1 or 0.
        height: Of the tiles, in pixels; less where they would be wider than 16,384.
    """
    scale = min(height / image.shape[0], _MAX_TILE_WIDTH / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    clicks = np.asarray(clicks_xy, dtype=np.float64).reshape(-1, 2) * size / (image.shape[1], image.shape[0])
    # Of ones and zeros the mean rounds to what most of the pixels are.
    resized = (cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_AREA) > 0 for mask in masks)
    return [mark_clicks(overlay(small, mask), clicks, labels) for mask in resized]


def tile_rows(rows: Sequence[Sequence[Image]], captions: Sequence[str], height: int = 200) -> Image:
    """Return rows of images as one picture, a caption above each column.

    Args:
        rows: R rows of C images each, uint8 RGB of any size.
        captions: C texts.
        height: Of every tile, in pixels; a column is as wide as its widest tile.
    """
    resized = [[_with_height(tile, height) for tile in row] for row in rows]
    widths = [max(row[column].shape[1] for row in resized) for column in range(len(captions))]
    lines = []
    for row in resized:
        edges = [((2, 2), (2, 2 + w - tile.shape[1]), (0, 0)) for tile, w in zip(row, widths, strict=True)]
        padded = [np.pad(tile, edge, constant_values=255) for tile, edge in zip(row, edges, strict=True)]
        lines.append(np.concatenate(padded, 1))
    header = np.full((_CAPTION_PX, lines[0].shape[1], 3), 255, dtype=np.uint8)
    left = 2
    for caption, width in zip(captions, widths, strict=True):
        cv2.putText(header, caption, (left + 2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        left += width + 4
    return np.asarray(np.concatenate([header, *lines], 0), dtype=np.uint8)


def write_png(path: Path, picture: Image | npt.NDArray[np.bool_], title: str = "") -> None:
    """Write a picture as PNG; it is whole under its name or not there, and its folder is made.

    Args:
        path: File to write.
        picture: uint8 RGB (H, W, 3), or a mask, bool (H, W), which becomes a PNG of one bit a pixel.
        title: Goes into the file's "Title", where a viewer shows it; none if empty.

    Raises:
        UserError: The file cannot be written.
    """
    about = PngInfo()
    if title:
        about.add_itxt("Title", title)
    with written_aside(path) as aside:
        PIL.Image.fromarray(picture).save(aside, format="PNG", pnginfo=about)


def _with_height(image: Image, height: int) -> Image:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
