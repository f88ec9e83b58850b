"""ADE20K in full: objects, parts and parts of parts, an instance map for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.readers.coco_masks import DOUBLE_ID, EMPTY, OTHER_SIZE
from unsam_lightning.benchmarks.readers.image_file import broken_file, read_rgb
from unsam_lightning.benchmarks.readers.layout import find_layout
from unsam_lightning.benchmarks.readers.map_values import read_map
from unsam_lightning.benchmarks.readers.mat_files import Include, check_include
from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder, Remark
from unsam_lightning.errors import UserError, printable


class ADE20K(ImagesInOrder):
    """Images of one split with the visible part of each object and part, sorted by path.

    A mask is the visible pixels (255) of an instance map; occluded ones (128) belong to what covers them and are
    background. Ids follow the hierarchy of the json: "object9", "object4/part54/part55".

    Args:
        root: Folder with `images/ADE/<split>/**/*.json`, or one above it.
        split: "training" or "validation".
        include: "objects" (level 0), "parts" (all levels below) or "all".

    Attributes:
        name: "ade20k_<include>".
        keys: Paths of the images below the split's folder, without suffix.

    Raises:
        UserError: Files are missing; unknown `include`; on access, an image or json is broken.

    Source: Zhou et al., "Semantic understanding of scenes through the ADE20K dataset", IJCV 2019; layout 2021_17_01.
    The scene parsing edition (maps of 150 classes) and its instances are read by `MaskFolder`.
    """

    def __init__(self, root: str | Path, split: str = "validation", include: Include = "all") -> None:
        check_include(include)
        self._folder = find_layout(Path(root), [f"images/ADE/{split}"]) / "images/ADE" / split
        names = sorted(path.relative_to(self._folder).as_posix()[:-5] for path in self._folder.rglob("ADE_*.json"))
        lacking = [name for name in names if not (self._folder / f"{name}.jpg").is_file()]
        if lacking or not names:
            raise UserError(
                expected=f"ADE_*.json, each with its .jpg, in {self._folder}",
                found=f"{len(lacking)} without .jpg: {', '.join(lacking[:10])}" if lacking else "no such json",
                remedy="unpack the whole archive there",
            )
        self.name, self._include = f"ade20k_{include}", include
        self.keys, self._names = [printable(name) for name in names], names

    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with its masks."""
        path = self._folder / f"{self._names[index]}.json"
        image = read_rgb(path.with_suffix(".jpg"))
        try:
            # Some of the files are not UTF-8; what is read here is ASCII.
            listed = json.loads(path.read_bytes().decode("latin-1"))["annotation"]["object"]
            things = [listed] if isinstance(listed, dict) else listed  # MATLAB writes a list of one as its element
            levels = [int(thing["parts"]["part_level"]) for thing in things]
            parents = {thing["id"]: thing["parts"]["ispartof"] for thing in reversed(things)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise broken_file(path, error) from None
        masks, ids, remarks = [np.zeros((0, *image.shape[:2]), dtype=np.int8)], [], []
        for thing, level in zip(things, levels, strict=True):
            if (self._include == "objects" and level) or (self._include == "parts" and not level):
                continue
            name, problem = _hierarchical_id(thing["id"], parents)
            if problem:
                remarks.append(Remark(name, problem, kept=True))
            if name in ids:
                remarks.append(Remark(name, DOUBLE_ID))
                continue
            mask = self._visible(path.parent / str(thing.get("instance_mask")), image.shape[:2])
            if isinstance(mask, Remark):
                remarks.append(mask._replace(mask_id=name))
                continue
            masks.append(mask[None])
            ids.append(name)
        return EvalSample(key=self.keys[index], image=image, masks=np.concatenate(masks), ids=ids, remarks=remarks)

    @staticmethod
    def _visible(path: Path, size: tuple[int, ...]) -> npt.NDArray[np.int8] | Remark:
        """Return the visible pixels of an instance, int8 (H, W), or the remark why there are none."""
        try:
            values = read_map(path)
        except (UserError, ValueError) as error:
            return Remark("", "instance map that cannot be read", str(error))
        if values.shape != size:
            return Remark("", OTHER_SIZE, f"{values.shape[1]}x{values.shape[0]}")
        visible = values == 255
        if not (visible | (values == 128) | (values == 0)).all():
            return Remark("", "instance map of other values than 0, 128 and 255")
        return visible.view(np.int8) if visible.any() else Remark("", EMPTY, "wholly occluded")


def _hierarchical_id(number: Any, parents: Mapping[Any, Any]) -> tuple[str, str]:
    """Return the id of an object or part and what is odd about its place; empty if nothing is."""
    chain, problem = [number], ""
    while isinstance(above := parents[chain[0]], int):
        if above not in parents or above in chain:
            problem = "part of something that is not listed" if above not in parents else "part of itself"
            break
        chain.insert(0, above)
    return "/".join(f"{'part' if place else 'object'}{n}" for place, n in enumerate(chain)), problem
