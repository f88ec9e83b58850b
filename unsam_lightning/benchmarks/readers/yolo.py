"""Images with polygons in YOLO's notation, a text file for each image: coco128-seg, and what many tools export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unsam_lightning.benchmarks.readers.coco_masks import decode_annotations
from unsam_lightning.benchmarks.readers.image_file import broken_file, files_by_stem, read_rgb
from unsam_lightning.benchmarks.readers.layout import find_layout
from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder, Remark
from unsam_lightning.errors import printable


class YoloFolder(ImagesInOrder):
    """Images and their polygons: each line of `<labels>/<stem>.txt` is a class and x, y of the corners in [0, 1].

    Ids are "object{line}", counted from 0. Left out with a remark: boxes (a class and four numbers), empty masks, lines
    that are no numbers. The tools that write this layout join the parts of an object by a line, which is kept. An image
    without a text file has no objects, and a remark says so; text files without an image (coco128-seg is released with
    some) are named in the remarks of the first image.

    Args:
        root: Of the data set; the paths below are relative to it or to one of its sub-folders.
        images: Folder of the images.
        labels: Folder of the text files.
        name: Name of the data set in tables.

    Attributes:
        name: Name of the data set.
        keys: Names of the images.

    Raises:
        UserError: A folder is missing. On access: an image or a text file is broken.
    """

    def __init__(self, root: str | Path, images: str = "images", labels: str = "labels", name: str = "yolo") -> None:
        folder = find_layout(Path(root), [images, labels])
        self._images, self._labels = files_by_stem(folder / images), files_by_stem(folder / labels, (".txt",))
        self._strays = sorted(self._labels.keys() - self._images.keys())
        self.name, self._names = name, list(self._images)
        self.keys = [printable(stem) for stem in self._names]

    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with its masks."""
        stem = self._names[index]
        image = read_rgb(self._images[stem])
        height, width = image.shape[:2]
        annotations: list[dict[str, Any]] = []
        remarks = [] if stem in self._labels else [Remark("", "image without a text file", kept=True)]
        if index == 0:
            remarks += [Remark("", "text file without an image", f"{stray}.txt") for stray in self._strays]
        for number, line in enumerate(self._lines(stem)):
            try:
                corners = [float(word) for word in line.split()[1:]]
            except ValueError:
                remarks.append(Remark(f"object{number}", "line that is no numbers", line[:40]))
                continue
            polygon = [value * (height if place % 2 else width) for place, value in enumerate(corners)]
            annotations.append({"id": number, "iscrowd": 0, "segmentation": [polygon]})
        masks, ids, more = decode_annotations(annotations, (height, width))
        return EvalSample(key=self.keys[index], image=image, masks=masks, ids=ids, remarks=remarks + more)

    def _lines(self, stem: str) -> list[str]:
        if stem not in self._labels:
            return []
        try:
            return [line for line in self._labels[stem].read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise broken_file(self._labels[stem], error) from None
