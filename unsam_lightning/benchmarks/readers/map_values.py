"""Maps whose pixel values are objects: what the values mean differs from data set to data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.readers.coco_masks import EMPTY
from unsam_lightning.benchmarks.readers.image_file import broken_file, open_image
from unsam_lightning.benchmarks.sample import Remark
from unsam_lightning.errors import UserError

#: How the values of a map are read; see `read_objects`.
Values = Literal["objects", "binary", "union", "second_channel"]


def check_values(values: str) -> None:
    """Raise a `UserError` if there is no such reading of maps."""
    if values not in get_args(Values):
        raise UserError(expected=f"values: {', '.join(get_args(Values))}", found=values, remedy="choose one")


def read_objects(
    path: Path, values: Values = "objects", ignore_value: int | None = None, background: int = 0
) -> tuple[npt.NDArray[np.int8], list[str], list[Remark]]:
    """Return the masks int8 (N, H, W) of a map, their names "object{value}", and what is odd about it.

    Args:
        path: Of a grey, palette or colour image.
        values: "objects": each value but the background is an object, by the rules of `MaskFolder`.
            "binary": one object above 128; 128 is ignored (first channel, as RITM reads GrabCut and Berkeley).
            "union": one object wherever any channel of colour is not 0 (as RITM reads DAVIS).
            "second_channel": the second channel numbers the objects, 0 none (ADE20K's instances).
        ignore_value: See `MaskFolder`; with "objects" only.
        background: The value that is no object; with "objects" only.

    Raises:
        UserError: The file is broken.
        ValueError: The map has no safe reading.
    """
    if values == "objects":
        masks, names = _split(read_map(path), ignore_value, background)
        return masks, names, [] if names else [Remark("", EMPTY, path.name)]
    pixels = _pixels(path, in_colour=True)
    remarks = []
    if values == "second_channel":
        if pixels.ndim != 3 or pixels.shape[2] < 2:
            raise ValueError("has one channel; object numbers were expected in the second")
        masks, names = _split(pixels[..., 1], -1, 0)
    elif values == "union":
        mask = np.any((pixels > 0).reshape(*pixels.shape[:2], -1), axis=-1)
        masks, names = np.asarray(mask[None], dtype=np.int8), ["object1"]
    else:
        grey = pixels.reshape(*pixels.shape[:2], -1)[..., 0]
        if not np.isin(grey, (0, 128, 255)).all():
            remarks.append(Remark("object1", "map of other values than 0, 128 and 255", path.name, kept=True))
        masks, names = np.asarray(np.where(grey == 128, -1, grey > 128), dtype=np.int8)[None], ["object1"]
    if not (masks == 1).any():
        return masks[:0], [], [Remark("", EMPTY, path.name)]
    return masks, names, remarks


def read_map(path: Path) -> npt.NDArray[np.integer]:
    """Return the values of a map (H, W): grey levels or palette indices.

    Raises:
        UserError: The file is broken.
        ValueError: A colour image, whose values have no order, or one of fractions.
    """
    values = _pixels(path)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ValueError("a colour image; save its object numbers as a grey or palette image")
        values = values[..., 0]
    if values.dtype.kind not in "biu":
        raise ValueError(f"values of type {values.dtype}; save whole object numbers")
    return values


def _pixels(path: Path, in_colour: bool = False) -> npt.NDArray[np.integer]:
    """Return an image's values, (H, W) or (H, W, C), without its alpha: what is opaque is no object for that.

    Bits become 0 and 1; palette indices stay, or (`in_colour`) become the colours that they stand for.
    """
    with open_image(path) as file:
        try:
            plain = file.convert("RGB") if in_colour and file.mode in ("1", "P", "PA") else file
            values = np.asarray(plain)
        except (OSError, SyntaxError) as error:
            raise broken_file(path, error) from error
        if plain.mode.endswith(("A", "a")):
            values = values[..., :-1]
        return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _split(
    values: npt.NDArray[np.integer], ignore_value: int | None, background: int
) -> tuple[npt.NDArray[np.int8], list[str]]:
    """Return the masks int8 (N, H, W) of a map and their names, by the rules of `MaskFolder`.

    Raises:
        ValueError: The map has no safe reading without `ignore_value`.
    """
    present = {int(value) for value in np.unique(values)}
    if ignore_value is None:
        is_binary = present <= {0, 128, 255} and 255 in present
        if 128 in present and present <= {0, 128}:
            raise ValueError("holds 0 and 128 only: an object needs 255, or give ignore_value (-1 for none)")
        if 255 in present and not is_binary and 254 not in present:
            raise ValueError("255 beside other objects: give ignore_value=255, or -1 if it is an object")
        ignore_value = 128 if is_binary else -1
    objects = sorted(present - {background, ignore_value})
    masks = np.zeros((len(objects), *values.shape), dtype=np.int8)
    for mask, value in zip(masks, objects, strict=True):
        mask[values == value] = 1
    masks[:, values == ignore_value] = -1
    return masks, [f"object{value}" for value in objects]
