"""BSDS500 (Berkeley segmentation data set): natural images that four to nine people each cut into regions.

The annotators' segmentations of one image range from coarse to fine, so that their regions form an approximate
hierarchy of nested masks: real ground truth for granularity.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.io

from unsam_lightning.benchmarks.readers.image_file import broken_file, files_by_stem, read_rgb
from unsam_lightning.benchmarks.readers.layout import find_layout, layout_places
from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder
from unsam_lightning.errors import UserError, printable


class BSDS500(ImagesInOrder):
    """Images of one split with all annotators' segments as masks, sorted by name.

    The id of a mask is "annotator{k}/segment{j}": k counts from 0 in the order of the .mat file, j is the label there
    (from 1). A label is one region, connected over corners: true of all labels of the train and val splits. Segments
    of different annotators overlap, and may be equal.

    Args:
        root: Folder with `<split>/images/*.jpg` and `<split>/groundTruth/*.mat`, or one above the archive's
            `BSDS500/data`, where `images/<split>` and `groundTruth/<split>` are.
        split: "train", "val" or "test".
        min_area_px: Smaller segments are left out.

    Attributes:
        name: "bsds500_<split>".

    Raises:
        UserError: A folder is missing; an image has no annotation or the reverse; and on access, a file is broken or
            an annotation differs in size from its image.

    Source: Arbelaez et al., "Contour detection and hierarchical image segmentation", PAMI 2011.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "val",
        min_area_px: int = 100,
    ) -> None:
        folder = Path(root) / split
        folders = [folder / "images", folder / "groundTruth"]
        if not folder.is_dir():
            as_released = [f"images/{split}", f"groundTruth/{split}"]
            if not Path(root).is_dir() or not layout_places(Path(root), as_released):
                _raise_no_split(Path(root), split)
            folder = find_layout(Path(root), as_released)
            folders = [folder / path for path in as_released]
        images, annotations = files_by_stem(folders[0]), files_by_stem(folders[1], (".mat",))
        unpaired = sorted(images.keys() ^ annotations.keys())
        if unpaired:
            lacking = [f"{key} without {'image' if key in annotations else 'annotation'}" for key in unpaired]
            raise UserError(
                expected=f"an image and a .mat file of each name in {folder}",
                found=", ".join(lacking[:10]) + (f" and {len(lacking) - 10} more" if len(lacking) > 10 else ""),
                remedy="complete the download, or remove what has no counterpart",
            )
        self.name = f"bsds500_{split}"
        self._files = [(images[key], annotations[key]) for key in images]
        self.keys = [printable(image.stem) for image, _ in self._files]
        self._min_area_px = min_area_px

    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with its annotators' segments."""
        image_file, annotation_file = self._files[index]
        image = read_rgb(image_file)
        label_maps = _read_label_maps(annotation_file)
        other_sizes = [
            f"{labels.shape} of annotator{k}" for k, labels in enumerate(label_maps) if labels.shape != image.shape[:2]
        ]
        if other_sizes:
            raise UserError(
                expected=f"segmentations of the size of {image_file}, {image.shape[:2]}",
                found=f"{', '.join(other_sizes)} in {annotation_file}",
                remedy="take image and annotation from the same copy of the data set",
            )
        segments = [
            (k, int(label))
            for k, labels in enumerate(label_maps)
            for label in np.flatnonzero(np.bincount(labels.ravel()) >= max(1, self._min_area_px))
        ]
        masks = np.zeros((len(segments), *image.shape[:2]), dtype=np.int8)
        for mask, (k, label) in zip(masks, segments, strict=True):
            np.equal(label_maps[k], label, out=mask.view(np.bool_))
        ids = [f"annotator{k}/segment{label}" for k, label in segments]
        return EvalSample(key=self.keys[index], image=image, masks=masks, ids=ids)


def _read_label_maps(path: Path) -> list[npt.NDArray[np.uint16]]:
    """Return the annotators' label maps (H, W) of one .mat file."""
    try:
        cells = scipy.io.loadmat(path, variable_names=["groundTruth"])["groundTruth"].ravel()
        label_maps = [np.asarray(cell["Segmentation"][0, 0]) for cell in cells]
        wrong = [labels for labels in label_maps if labels.ndim != 2 or labels.dtype.kind != "u"]
        if wrong or not label_maps:
            raise ValueError(f"groundTruth holds {len(label_maps)} segmentations, {len(wrong)} of them no label map")
        return label_maps
    except Exception as error:  # scipy answers broken bytes with nearly any exception
        raise broken_file(path, error) from error


def _raise_no_split(root: Path, split: str) -> None:
    splits = sorted(path.name for path in root.iterdir() if (path / "images").is_dir()) if root.is_dir() else []
    found = f"no folder {root}"
    if root.is_dir():
        found = f"the splits {', '.join(splits)}" if splits else f"no folder with images/ in {root}"
    raise UserError(
        expected=f"{root / split} with images/ and groundTruth/",
        found=found,
        remedy="give one of the splits found" if splits else "give the folder that holds train/, val/ and test/",
    )
