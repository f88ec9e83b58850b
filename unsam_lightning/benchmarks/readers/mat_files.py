"""SBD and PASCAL-Part: an image and a MATLAB file of each name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.io

from unsam_lightning.benchmarks.readers.coco_masks import EMPTY, OTHER_SIZE
from unsam_lightning.benchmarks.readers.image_file import broken_file, read_rgb
from unsam_lightning.benchmarks.readers.layout import find_layout, pair_files
from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder, Remark
from unsam_lightning.errors import UserError, printable

#: Which masks of a data set with parts are read.
Include = Literal["objects", "parts", "all"]


class _MatFiles(ImagesInOrder):
    """Images and .mat files by name; see `SBD` and `PascalPart`."""

    def __init__(self, root: str | Path, images: str, annotations: str, split: str | None) -> None:
        folder = find_layout(Path(root), [images, annotations])
        # Apart: SBD's train_noval.txt is no part of its archive, which has a folder of its own.
        names = find_layout(Path(root), [split]) / split if split else None
        self._files = pair_files(folder / images, folder / annotations, ".mat", names)
        self.keys = [printable(name) for name, _, _ in self._files]

    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with its masks."""
        _, image_file, annotation_file = self._files[index]
        image = read_rgb(image_file)
        try:
            found = self._read(annotation_file)
        except Exception as error:  # scipy answers broken bytes with nearly any exception
            raise broken_file(annotation_file, error) from error
        masks, ids, remarks = [np.zeros((0, *image.shape[:2]), dtype=np.int8)], [], []
        for name, mask in found:
            if reason := _problem(mask, image.shape[:2]):
                remarks.append(Remark(name, reason, f"{mask.shape[1]}x{mask.shape[0]}" * (reason == OTHER_SIZE)))
            else:
                masks.append(mask.astype(np.int8)[None])
                ids.append(name)
        return EvalSample(key=self.keys[index], image=image, masks=np.concatenate(masks), ids=ids, remarks=remarks)

    def _read(self, path: Path) -> list[tuple[str, npt.NDArray[Any]]]:
        raise NotImplementedError


def _problem(mask: npt.NDArray[Any], size: tuple[int, ...]) -> str:
    """Say why a mask is left out; empty if it is not."""
    if mask.shape != size:
        return OTHER_SIZE
    if not mask.any():
        return EMPTY
    return "" if mask.dtype == np.bool_ or np.isin(mask, (0, 1)).all() else "mask of other values than 0 and 1"


class SBD(_MatFiles):
    """The instances of the Semantic Boundaries Dataset, ids "object{number}" as in the file.

    Args:
        root: Folder with `img/*.jpg`, `inst/*.mat` and the split lists, or one above it.
        split: "val" or "train" (lists of the archive), "train_noval" (a list of its own), or None for all images.

    Attributes:
        name: "sbd_<split>".
        keys: Names of the images.

    Raises:
        UserError: Files are missing, all named; on access, a file is broken or of another size.

    Source: Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011; the sampling of RITM's
    `SBDEvaluationDataset`: one sample for each number of GTinst.Segmentation, no instance left out for its size.
    """

    def __init__(self, root: str | Path, split: str | None = "val") -> None:
        super().__init__(root, "img", "inst", f"{split}.txt" if split else None)
        self.name = f"sbd_{split or 'all'}"

    def _read(self, path: Path) -> list[tuple[str, npt.NDArray[Any]]]:
        labels = scipy.io.loadmat(path, variable_names=["GTinst"])["GTinst"]["Segmentation"][0, 0]
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise ValueError(f"GTinst.Segmentation is {labels.dtype} of shape {labels.shape}, not a label map")
        return [(f"object{number}", labels == number) for number in np.unique(labels) if number > 0]


class PascalPart(_MatFiles):
    """The objects and parts of PASCAL-Part.

    Ids are "object{k}" and "object{k}/part{j}_{name}", both counted from 0 in the file's order.

    Args:
        root: Folder with the images and annotations, or one above it.
        images: Folder of the images, relative to the root: VOC 2010's JPEGImages.
        annotations: Folder of the .mat files, relative to the root.
        split: File with the names, relative to the root; None for all images that are there.
        include: "parts", "objects" or "all".

    Attributes:
        name: "pascal_part_<include>".
        keys: Names of the images.

    Raises:
        UserError: Files are missing, all named; unknown `include`; on access, a file is broken.

    Source: Chen et al., "Detect What You Can", CVPR 2014. The parts alone are what GraCo and UnSAMv2 test on.
    """

    def __init__(
        self,
        root: str | Path,
        images: str = "JPEGImages",
        annotations: str = "Annotations_Part",
        split: str | None = None,
        include: Include = "parts",
    ) -> None:
        check_include(include)
        super().__init__(root, images, annotations, split)
        self.name, self._include = f"pascal_part_{include}", include

    def _read(self, path: Path) -> list[tuple[str, npt.NDArray[Any]]]:
        found = []
        for k, thing in enumerate(scipy.io.loadmat(path, variable_names=["anno"])["anno"][0, 0]["objects"].ravel()):
            if self._include != "parts":
                found.append((f"object{k}", thing["mask"]))
            if self._include != "objects" and thing["parts"].size:
                parts = enumerate(thing["parts"].ravel())
                found += [(f"object{k}/part{j}_{part['part_name'][0]}", part["mask"]) for j, part in parts]
        return found


def check_include(include: str) -> None:
    """Raise a `UserError` if `include` is none of the three."""
    if include not in ("objects", "parts", "all"):
        raise UserError(expected="include: objects, parts or all", found=include, remedy="choose one")
