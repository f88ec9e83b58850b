"""SA-1B: a json beside each image, with the masks that SAM's data engine made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.readers.coco_masks import decode_annotations
from unsam_lightning.benchmarks.readers.image_file import broken_file, read_rgb_of_size
from unsam_lightning.benchmarks.readers.layout import find_layout
from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder, Remark
from unsam_lightning.errors import UserError, printable


class SA1B(ImagesInOrder):
    """Images `sa_*.jpg` with `sa_*.json` beside them, in the root and its folders, sorted by name.

    The folders are in no name and no order: SA-1B's numbers are unique, and a draw must not depend on whether the tars
    were unpacked into one folder or into one each.

    Boxes are not used; where they are not the mask's own, a remark says so: SA-1B's are one pixel short in width and
    height, [x, y, x_max - x, y_max - y].

    Args:
        root: Folder with the unpacked tars.
        name: Name of the data set in tables.

    Attributes:
        name: Name of the data set.
        keys: The images' names without suffix.

    Raises:
        UserError: No such files; images without json or the reverse, all counted; an image in two folders. On access:
            unreadable files, or an image of another size than its json says.

    Source: Kirillov et al., "Segment Anything", 2023; the json's layout from the data set's own files.
    """

    def __init__(self, root: str | Path, name: str = "sa1b") -> None:
        folder = find_layout(Path(root), ["."])
        stems = [
            {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(pattern)}
            for pattern in ("sa_*.jpg", "sa_*.json")
        ]
        lacking = [f"{key} without {'json' if key in stems[0] else 'jpg'}" for key in sorted(stems[0] ^ stems[1])]
        if lacking or not stems[0]:
            raise UserError(
                expected=f"sa_*.jpg with sa_*.json of the same names in {folder}",
                found=f"{len(lacking)} unpaired: {', '.join(lacking[:10])}" if lacking else "neither",
                remedy="unpack the tars there, or give the folder that holds them",
            )
        places = sorted((place.rpartition("/")[2], place) for place in stems[0])
        doubles = [f"{first} and {second}" for (a, first), (b, second) in pairwise(places) if a == b]
        if doubles:
            raise UserError(
                expected=f"each image once in {folder}",
                found=f"{len(doubles)} twice: {', '.join(doubles[:10])}",
                remedy="a tar was unpacked twice: remove one of its folders",
            )
        self.name, self._folder = name, folder
        self._places = [place for _, place in places]
        self.keys = [printable(key) for key, _ in places]

    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with its masks."""
        place = self._places[index]
        path = self._folder / f"{place}.json"
        try:
            content = json.loads(path.read_bytes())
            size = (int(content["image"]["height"]), int(content["image"]["width"]))
            annotations = list(content["annotations"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise broken_file(path, error) from None
        image, remarks = read_rgb_of_size(self._folder / f"{place}.jpg", size)
        masks, ids, more = decode_annotations(annotations, size)
        remarks += more + _compare_with_stated(annotations, masks, ids)
        return EvalSample(key=self.keys[index], image=image, masks=masks, ids=ids, remarks=remarks)


def _compare_with_stated(
    annotations: Sequence[Mapping[str, Any]], masks: npt.NDArray[np.int8], ids: Sequence[str]
) -> list[Remark]:
    """Return remarks on masks whose stated box or area is not their own."""
    stated = {f"object{annotation.get('id')}": annotation for annotation in reversed(annotations)}  # the first counts
    remarks = []
    for name, mask in zip(ids, masks, strict=True):
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [xs[0], ys[0], xs[-1] - xs[0], ys[-1] - ys[0]]
        given = stated[name].get("bbox")
        if given == box:
            remarks.append(Remark(name, "box one pixel short in width and height", kept=True))
        elif given is not None and given != [box[0], box[1], box[2] + 1, box[3] + 1]:
            remarks.append(Remark(name, "box that is not the mask's", f"{given}", kept=True))
        if stated[name].get("area", area := int(mask.sum())) != area:
            remarks.append(Remark(name, "stated area that is not the mask's", f"{stated[name]['area']}", kept=True))
    return remarks
