"""What the label stage found, to look at: contact sheets of some images, and a summary of all of them.

Next in the tour: `benchmarks/cases.py`.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import yaml

from unsam_lightning.aside import write_text_aside
from unsam_lightning.manifest import Manifest
from unsam_lightning.pairs import PairDataset, decode_masks
from unsam_lightning.segment.render import (
    Image,
    MaskStack,
    largest_first,
    paint_hierarchy,
    paint_masks,
    tile_rows,
    write_png,
)
from unsam_lightning.shards import ShardReader

#: Below it a part goes to the last column of a sheet: coarse and fine ones would hide each other.
FINE = 0.3
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROWS_PER_SHEET = 6
_TILE_PX = 360
_GOLDEN_ANGLE = 0.381966  # of a turn: hues of neighbouring numbers are far apart


def summarise(labels: Manifest, seconds: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return what a label manifest's masks are like, as plain values.

    Args:
        labels: A finished label manifest.
        seconds: Time per image of each stage of the work, where some of it was done just now.

    Returns:
        `images`, `images_without_masks`, `masks`, `masks_per_image` and `instances_per_image` (mean, least, median,
        most), `granularity`: share of the masks in each of ten equal bins from 0.1 to 1, `area_fraction`: quantiles of
        a mask's share of its image, `tree_depth`: number of trees by depth, 1 for an instance without parts, and
        `seconds_per_image`.
    """
    counts, instances, bins = [], [], np.zeros(10, np.int64)
    areas = array("f")  # a list would take 32 bytes a mask, and there are millions
    depths: dict[int, int] = {}
    reader = ShardReader(labels)
    for index in range(reader.num_samples):
        label = json.loads(reader.read(index)["json"])
        entries = label["masks"]
        counts.append(len(entries))
        instances.append(sum(entry["parent"] < 0 for entry in entries))
        bins += np.histogram([entry["granularity"] for entry in entries], bins=10, range=(0.1, 1.0))[0]
        areas.extend(entry["area"] / (label["height"] * label["width"]) for entry in entries)
        for depth in _tree_depths([entry["parent"] for entry in entries]):
            depths[depth] = depths.get(depth, 0) + 1
    total = max(sum(counts), 1)
    quantiles: list[float] = np.quantile(areas, _QUANTILES, overwrite_input=True).tolist() if areas else []
    summary: dict[str, Any] = {
        "images": len(counts),
        "images_without_masks": counts.count(0),
        "masks": sum(counts),
        "masks_per_image": _spread(counts),
        "instances_per_image": _spread(instances),
        "granularity": [round(int(number) / total, 4) for number in bins],
        "area_fraction": {
            f"{quantile:g}": float(f"{value:.3g}") for quantile, value in zip(_QUANTILES, quantiles, strict=False)
        },
        "tree_depth": dict(sorted(depths.items())),
    }
    if seconds:
        summary["seconds_per_image"] = {stage: round(value, 4) for stage, value in seconds.items()}
    return summary


def contact_sheet(labels: Manifest, images: Manifest, indices: list[int]) -> Image:
    """Return a picture, uint8 RGB, with a row for each image: itself, instances, coarse parts, fine parts.

    Instances have any colours; parts, on the image in grey, the colour of their granularity (viridis: yellow coarse,
    dark fine); all have white edges. The masks lie over each other from the largest to the smallest.
    """
    pairs = PairDataset(images, labels, side=1, masks_per_image=1)  # reads and checks both
    rows = []
    for index in indices:
        _, image, label = pairs.read(index)
        entries = label["masks"]
        scale = min(1.0, 1.5 * _TILE_PX / label["height"])  # one-pixel edges would vanish when a tile shrinks more
        size = (max(1, round(label["width"] * scale)), max(1, round(label["height"] * scale)))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        # One by one: hundreds of masks of a large image would take gigabytes at once.
        masks = (decode_masks([entry["rle"]], label["height"], label["width"])[0] for entry in entries)
        resized = [cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
        stack = np.stack(resized) if resized else np.zeros((0, size[1], size[0]), bool)
        granularity = np.asarray([entry["granularity"] for entry in entries])
        is_root = np.asarray([entry["parent"] < 0 for entry in entries], dtype=bool)
        parts = (~is_root & (granularity >= FINE), ~is_root & (granularity < FINE))
        grey = np.asarray(cv2.cvtColor(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)
        painted = [paint_hierarchy(grey, stack[chosen], granularity[chosen].tolist()) for chosen in parts]
        rows.append([small, paint_masks(small, stack[is_root], _hues(stack[is_root])), *painted])
    captions = ["image", "instances", f"parts, g from {FINE:g}", f"parts, g below {FINE:g}"]
    return tile_rows(rows, captions, height=_TILE_PX)


def write_preview(
    labels: Manifest, images: Manifest, num_images: int, seconds: Mapping[str, float] | None = None
) -> list[str]:
    """Write sheets of images spread over a data set and the summary of all; return lines to print.

    The summary is `NAME.summary.yaml` beside the label manifest, the sheets `preview/000.png` and so on.

    Args:
        labels: A finished label manifest.
        images: Its image manifest.
        num_images: How many images to draw, at most all.
        seconds: See `summarise`.

    Raises:
        UserError: A file cannot be written.
    """
    summary = summarise(labels, seconds)
    path = labels.path.with_suffix(".summary.yaml")
    text = yaml.safe_dump(summary, sort_keys=False, default_flow_style=None, width=110)
    write_text_aside(path, text)
    folder = labels.root / "preview"
    total = labels.num_samples
    chosen = [n * total // min(num_images, total) for n in range(min(num_images, total))]
    lines = [*text.splitlines(), f"summary: {path}"]
    for number, first in enumerate(range(0, len(chosen), _ROWS_PER_SHEET)):
        sheet = contact_sheet(labels, images, chosen[first : first + _ROWS_PER_SHEET])
        write_png(folder / f"{number:03d}.png", sheet)
        lines.append(f"preview: {folder / f'{number:03d}.png'}")
    return lines


def _tree_depths(parents: list[int]) -> list[int]:
    """Return the depth of each tree; a parent stands before its children."""
    depth: list[int] = []
    root: list[int] = []
    deepest: dict[int, int] = {}
    for index, parent in enumerate(parents):
        depth.append(1 if parent < 0 else depth[parent] + 1)
        root.append(index if parent < 0 else root[parent])
        deepest[root[index]] = max(deepest.get(root[index], 0), depth[index])
    return list(deepest.values())


def _spread(numbers: list[int]) -> dict[str, float]:
    return {
        "mean": round(float(np.mean(numbers)), 1),
        "least": min(numbers),
        "median": float(np.median(numbers)),
        "most": max(numbers),
    }


def _hues(masks: MaskStack) -> list[tuple[int, int, int]]:
    """Return a colour of its own for each mask; masks that follow each other in size get ones that are far apart."""
    colors = [(0, 0, 0)] * len(masks)
    for number, n in enumerate(largest_first(masks)):
        hsv = np.array([[[round(180 * ((number * _GOLDEN_ANGLE) % 1.0)) % 180, 200, 235]]], dtype=np.uint8)
        red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
        colors[n] = (red, green, blue)
    return colors
