"""Masks as runs of pixels: lifted from a grid, cut to a parent, reduced to one piece and written as COCO RLE.

No mask of a label is ever drawn, so that a thousand masks of a large photograph need little memory and time.
Next in the tour: `pseudo_labels/upsample.py`.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled

#: Pixels from the first up to the last of every run, int32 (K, 2), in COCO's order, column by column: pixel (y, x) of
#: an image with H rows has the number x H + y. Rising; a run ends with its column at the latest.
Runs = npt.NDArray[np.int32]


def lift_runs(
    mask: npt.NDArray[np.bool_], pixels_by_column: npt.NDArray[np.int32], parent: Runs | None = None
) -> tuple[Runs, int]:
    """Return the largest 4-connected piece of a lifted mask, and its area in pixels.

    Of pieces of the same area the one whose first pixel comes first, row by row, is taken.

    Args:
        mask: bool (h, w), on the grid.
        pixels_by_column: int32 (W, H): for every pixel of the image, transposed, the row-major number of its place on
            the grid. A pixel belongs to one of the four places around it, as `patch_of_pixels` has it.
        parent: Only pixels of these runs count; None: all.

    Returns:
        The runs, none where the mask has no pixel there, and the area.
    """
    left, top, columns, rows = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if columns == 0 or rows == 0:
        return np.zeros((0, 2), np.int32), 0
    width, height = pixels_by_column.shape
    x0, x1 = _reach(left, left + columns, mask.shape[1], width)
    y0, y1 = _reach(top, top + rows, mask.shape[0], height)
    flat = np.ascontiguousarray(mask).reshape(-1)
    if parent is None:
        found = _scan(flat, pixels_by_column, x0, x1, y0, y1)
    else:
        found = _scan_inside(flat, pixels_by_column, x0, x1, y0, y1, parent)
    return _largest_piece(found, height, width)


def _reach(first: int, last: int, places: int, pixels: int) -> tuple[int, int]:
    """Return the half-open range of pixels that the places from `first` to before `last` of a grid's side may hold."""
    scale = pixels / places
    return max(0, int((first - 0.5) * scale) - 1), min(pixels, int((last + 0.5) * scale) + 2)


@compiled
def _append(runs: npt.NDArray[np.int32], count: int, start: int, end: int) -> npt.NDArray[np.int32]:
    """Write a run at a place, into a larger copy where there is no room."""
    if count == len(runs):
        larger = np.empty((2 * count + 64, 2), np.int32)
        larger[:count] = runs
        runs = larger
    runs[count, 0], runs[count, 1] = start, end
    return runs


@compiled
def _scan_column(
    mask: npt.NDArray[np.bool_],
    pixels: npt.NDArray[np.int32],
    x: int,
    y: int,
    end: int,
    runs: npt.NDArray[np.int32],
    count: int,
) -> tuple[npt.NDArray[np.int32], int]:
    """Append the runs of a column from row `y` to before `end`; return all, and how many they are."""
    height = pixels.shape[1]
    while y < end:
        while y < end and not mask[pixels[x, y]]:
            y += 1
        first = y
        while y < end and mask[pixels[x, y]]:
            y += 1
        if y > first:
            runs = _append(runs, count, x * height + first, x * height + y)
            count += 1
    return runs, count


@compiled
def _scan(
    mask: npt.NDArray[np.bool_], pixels: npt.NDArray[np.int32], x0: int, x1: int, y0: int, y1: int
) -> npt.NDArray[np.int32]:
    runs, count = np.empty((256, 2), np.int32), 0
    for x in range(x0, x1):
        runs, count = _scan_column(mask, pixels, x, y0, y1, runs, count)
    return runs[:count]


@compiled
def _scan_inside(
    mask: npt.NDArray[np.bool_],
    pixels: npt.NDArray[np.int32],
    x0: int,
    x1: int,
    y0: int,
    y1: int,
    parent: npt.NDArray[np.int32],
) -> npt.NDArray[np.int32]:
    height = pixels.shape[1]
    runs, count = np.empty((256, 2), np.int32), 0
    for place in range(np.searchsorted(parent[:, 0], x0 * height), len(parent)):
        x = parent[place, 0] // height
        if x >= x1:
            break
        top, bottom = max(parent[place, 0] - x * height, y0), min(parent[place, 1] - x * height, y1)
        runs, count = _scan_column(mask, pixels, x, top, bottom, runs, count)
    return runs[:count]


@compiled
def _largest_piece(runs: npt.NDArray[np.int32], height: int, width: int) -> tuple[npt.NDArray[np.int32], int]:
    label = np.arange(len(runs))
    before = 0  # first run of the column before that may touch the present one
    for place in range(len(runs)):
        start, end = runs[place, 0] - height, runs[place, 1] - height  # where it lies in the column before
        while before < place and runs[before, 1] <= start:
            before += 1
        other = before
        while other < place and runs[other, 0] < end:
            one, two = _root(label, other), _root(label, place)
            label[max(one, two)] = min(one, two)
            other += 1
    area = np.zeros(len(runs), np.int64)
    first = np.full(len(runs), np.int64(height) * width)
    for place in range(len(runs)):
        piece = _root(label, place)
        x = runs[place, 0] // height
        area[piece] += runs[place, 1] - runs[place, 0]
        first[piece] = min(first[piece], np.int64(runs[place, 0] - x * height) * width + x)
    best = 0
    for piece in range(len(runs)):
        if area[piece] > area[best] or (area[piece] == area[best] and first[piece] < first[best]):
            best = piece
    chosen = np.empty((len(runs), 2), np.int32)
    count = 0
    for place in range(len(runs)):
        if _root(label, place) == best:
            chosen[count] = runs[place]
            count += 1
    return chosen[:count].copy(), area[best] if len(runs) else 0


@compiled
def _root(label: npt.NDArray[np.int64], place: int) -> int:
    while label[place] != place:
        label[place] = label[label[place]]
        place = label[place]
    return place


def runs_of_mask(mask: npt.NDArray[np.bool_]) -> Runs:
    """Return the runs of a mask bool (H, W), which may end at the top of the next column."""
    height, width = mask.shape
    columns = np.zeros((width, -(-height // 8) * 8), np.uint8)
    cv2.transpose(np.ascontiguousarray(mask).view(np.uint8), dst=columns[:, :height])
    return _scan_words(columns, columns.view(np.uint64), height)


@compiled
def _scan_words(columns: npt.NDArray[np.uint8], words: npt.NDArray[np.uint64], height: int) -> npt.NDArray[np.int32]:
    """Return the runs of bytes 0 and 1, column by column; eight that are alike are one look at a word."""
    outside, inside = np.uint64(0), np.uint64(0x0101010101010101)
    runs, count = np.empty((256, 2), np.int32), 0
    for x in range(len(columns)):
        start, is_inside = 0, False
        for place in range(words.shape[1]):
            if words[x, place] == (inside if is_inside else outside):
                continue
            for y in range(8 * place, 8 * place + 8):
                if (columns[x, y] != 0) != is_inside:
                    if is_inside:
                        runs = _append(runs, count, x * height + start, x * height + y)
                        count += 1
                    start, is_inside = y, not is_inside
        if is_inside:  # to the column's end: no padding was met
            runs = _append(runs, count, x * height + start, x * height + height)
            count += 1
    return runs[:count]


def rle_string(runs: Runs, num_pixels: int) -> str:
    """Return the counts string of a COCO RLE, the same bytes as pycocotools writes.

    Args:
        runs: Of one mask.
        num_pixels: Of the image.

    Source: the format of pycocotools' `rleToString`: differences to the count before the last, five bits a character.
    """
    return bytes(_rle_bytes(runs, num_pixels)).decode("ascii")


@compiled
def _rle_bytes(runs: npt.NDArray[np.int32], num_pixels: int) -> npt.NDArray[np.uint8]:
    counts, number = np.empty(2 * len(runs) + 1, np.int64), 0
    end = 0
    for place in range(len(runs)):
        if place and runs[place, 0] == end:  # goes on at the top of the next column
            counts[number - 1] += runs[place, 1] - end
        else:
            counts[number], counts[number + 1] = runs[place, 0] - end, runs[place, 1] - runs[place, 0]
            number += 2
        end = runs[place, 1]
    if end < num_pixels:
        counts[number] = num_pixels - end
        number += 1
    text, length = np.empty(7 * number, np.uint8), 0
    for place in range(number):
        value = counts[place] - (counts[place - 2] if place > 2 else 0)
        more = True
        while more:
            five = value & 31
            value >>= 5
            more = value != -1 if five & 16 else value != 0
            text[length] = five + (32 if more else 0) + 48
            length += 1
    return text[:length]
