"""Masks from elsewhere that take part in the division: a detector's proposals, or annotations (UnSAMv2+).

Read from a COCO results file (a list of `image_id`, `segmentation`, `score`, as CutLER writes), a COCO JSON (`images`
and `annotations`), an SA-1B JSON (`image` and `annotations`), or a folder of SA-1B JSONs.
Next in the tour: `pseudo_labels/recipe.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.readers.coco_masks import EMPTY, decode_annotations
from unsam_lightning.errors import UserError, first_line
from unsam_lightning.manifest import Manifest, sha256_file
from unsam_lightning.pseudo_labels.hierarchy import Masks
from unsam_lightning.shards import ShardReader
from unsam_lightning.source_file import find_file

_AT_A_TIME = 16  # annotations decoded together, at the size of their own image
_ASPECT_PX = 2.0  # packing rounds sides; masks of an image that was rotated or cropped miss by more
_CROWD = "crowd region"


class _Annotated(NamedTuple):
    """The annotations of one image, and its height and width, which all files but results say."""

    size: tuple[int, int] | None
    annotations: list[dict[str, Any]]


class GivenMasks:
    """The masks that a file or a folder has for images, found by the images' names.

    The name of an image is its path below the packed folder without suffix; the last part of that will do where no
    other image has it. A JSON says the name in `file_name`; in a folder it is the JSON's own. A results file has no
    file names: its `image_id` is the name, or the number at its end, 121371 for "sa_121371".

    Args:
        path: The file or the folder.
        min_score: What has a `score` below this is left out.

    Raises:
        UserError: Nothing is there, or it is none of these formats.
    """

    def __init__(self, path: str, min_score: float = 0.0) -> None:
        self.path, self.min_score = find_file(path), min_score
        self._files: dict[str, Path] = {}
        self._images: dict[str, _Annotated] = {}
        if self.path.is_dir():
            files = sorted(self.path.rglob("*.json"))
            self._files = {file.relative_to(self.path).with_suffix("").as_posix(): file for file in files}
        else:
            self._images = self._read(self.path)
        # Only where files have no names may a number stand for one: "IMG_0007" is not "7.jpg".
        self._is_results = any(about.size is None for about in self._images.values())
        names = sorted(self._files or self._images)
        if not names:
            raise self._error("masks of at least one image", "none")
        stems = Counter(PurePosixPath(name).name for name in names)
        alone = {stem: name for name in names if stems[stem := PurePosixPath(name).name] == 1}
        self._names = alone | {name: name for name in names}

    @cached_property
    def sha256(self) -> str:
        """A checksum of the file, or of the names and contents of all files of the folder."""
        if not self._files:
            return sha256_file(self.path)
        listing = "".join(f"{name} {sha256_file(file)}\n" for name, file in self._files.items())
        return hashlib.sha256(listing.encode()).hexdigest()

    def check(self, images: Manifest) -> None:
        """Raise `UserError` if no image of a manifest has masks here, or two images could have the same.

        What is the whole name of one of these images is that image's alone from then on.
        """
        reader = ShardReader(images)
        names = [image_name(reader.read(index, extensions=("json",))) for index in range(reader.num_samples)]
        whole = set(names) & set(self._names.values())
        self._names = {key: name for key, name in self._names.items() if key == name or name not in whole}
        owners: dict[str, str] = {}
        for name in names:
            if (found := self._find(name)) is None:
                continue
            if (other := owners.setdefault(found, name)) != name:
                raise self._error(
                    f"masks of each image of {images.path} by a name that no other has, such as its whole path",
                    f"{found!r}, which is {other!r} and {name!r}",
                )
        if not owners:
            some = ", ".join(repr(name) for name in sorted(self._images or self._files)[:3])
            raise self._error(
                f"masks of the images of {images.path}, such as {names[0]!r}",
                f"masks of {len(self._images or self._files)} other images, such as {some}",
            )

    def masks(self, name: str, image_shape: tuple[int, int], shape: tuple[int, int]) -> Masks:
        """Return the masks of one image, bool (N, *shape), in their order; none for an image that is not listed.

        Crowds and masks that are empty at this size are left out.

        Args:
            name: See `image_name`.
            image_shape: Height and width of the image; the masks may belong to a larger or smaller copy of it.
            shape: Height and width that are wanted.

        Raises:
            UserError: A mask cannot be decoded, or belongs to an image of other proportions.
        """
        drawn = [np.zeros((0, *shape), bool)]
        found = self._find(name)
        if found is None:
            return drawn[0]
        about = self._images[found] if not self._files else next(iter(self._read(self._files[found]).values()))
        wanted = [{**one, "id": n} for n, one in enumerate(about.annotations) if one.get("score", 1) >= self.min_score]
        for first in range(0, len(wanted), _AT_A_TIME):
            some = wanted[first : first + _AT_A_TIME]
            size = about.size or _rle_size(some)
            if size is None or not _same_proportions(size, image_shape):
                raise self._error(
                    f"masks of {name!r}, an image of {image_shape[1]} x {image_shape[0]} pixels",
                    f"masks of {size[1]} x {size[0]} pixels" if size else "segmentations without a size",
                )
            masks, _, remarks = decode_annotations(some, size)
            bad = [remark for remark in remarks if not remark.kept and remark.reason not in (EMPTY, _CROWD)]
            if bad:
                raise self._error(f"masks of {name!r} that can be decoded", f"{bad[0].reason} {bad[0].detail}")
            drawn += [_resize(mask, shape)[None] for mask in masks]
        together = np.concatenate(drawn)
        return together[together.any(axis=(1, 2))]

    def _find(self, name: str) -> str | None:
        """Return the name here of an image, None if there is none."""
        stem = PurePosixPath(name).name
        keys = [name, stem]
        if self._is_results and (number := re.search(r"\d+$", stem)):
            keys.append(str(int(number[0])))
        return next((self._names[key] for key in keys if key in self._names), None)

    def _read(self, path: Path) -> dict[str, _Annotated]:
        """Return the annotations of a JSON by image."""
        try:
            return _parse(json.loads(path.read_bytes()))
        except OSError as error:
            raise self._error("a readable JSON file", f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._error("COCO results, a COCO JSON or an SA-1B JSON", f"{path}: {first_line(error)}") from None

    def _error(self, expected: str, found: str) -> UserError:
        return UserError(
            expected=f"{expected} in {self.path}",
            found=found,
            remedy="give the file or folder that belongs to these images, or pack these images from their own folder",
        )


def image_name(sample: Mapping[str, Any]) -> str:
    """Return the name of an image sample of a shard: the path it was packed from, without suffix, else its key."""
    file = json.loads(sample["json"]).get("file") if "json" in sample else None
    return PurePosixPath(str(file)).with_suffix("").as_posix() if file else str(sample["__key__"])


def _parse(content: Any) -> dict[str, _Annotated]:
    found: dict[str, _Annotated] = {}
    if isinstance(content, list):
        for result in content:
            found.setdefault(str(result["image_id"]), _Annotated(None, [])).annotations.append(result)
        return found
    is_single = "image" in content
    by_id: dict[Any, _Annotated] = {}
    for image in [content["image"]] if is_single else content["images"]:
        annotated = _Annotated((int(image["height"]), int(image["width"])), [])
        by_id[None if is_single else image["id"]] = annotated
        found[PurePosixPath(image["file_name"]).with_suffix("").as_posix()] = annotated
    for annotation in content["annotations"]:
        by_id[None if is_single else annotation["image_id"]].annotations.append(annotation)
    return found


def _rle_size(annotations: Iterable[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Return height and width of the first RLE; None where there are only polygons."""
    for annotation in annotations:
        if isinstance(annotation.get("segmentation"), dict) and "size" in annotation["segmentation"]:
            height, width = annotation["segmentation"]["size"]
            return int(height), int(width)
    return None


def _same_proportions(size: tuple[int, int], image_shape: tuple[int, int]) -> bool:
    """Return whether one is a copy of the other, reduced or enlarged, but for rounding."""
    scale = max(size) / max(image_shape)
    off = max(abs(one - other * scale) for one, other in zip(size, image_shape, strict=True))
    return off <= _ASPECT_PX * max(scale, 1.0)


def _resize(mask: npt.NDArray[np.int8], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return a mask at another size: the pixels of which it covers more than half."""
    if mask.shape == shape:
        return mask > 0
    covered = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(covered > 0.5)
