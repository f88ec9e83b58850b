"""One json with all annotations of a data set: COCO, LVIS, EntitySeg, PACO, PartImageNet, and anyone's own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unsam_lightning.benchmarks.readers.coco_masks import decode_annotations
from unsam_lightning.benchmarks.readers.image_file import broken_file, read_rgb_of_size
from unsam_lightning.benchmarks.readers.layout import find_layout, raise_missing
from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder
from unsam_lightning.errors import UserError, printable


class CocoJson(ImagesInOrder):
    """The images of a COCO-style json with their annotations as masks, sorted by image id.

    What is left out or odd in an image is in its sample's remarks; see `decode_annotations`. Categories play no part.

    Args:
        root: Of the data set; `annotations` and `images` are each below it or below one of its sub-folders.
        annotations: The json, relative to the root.
        images: Folder of the images, relative to the root.
        name: Name of the data set in tables.
        file_key: Which field of an image says where its file is: "file_name" (below `images`), or "coco_url", of which
            the last two parts count ("train2017/000000391895.jpg"): LVIS v1 has no file_name.
        only_annotated: Leave out images without annotations. They count nowhere in recall, which has no false
            positives.

    Attributes:
        name: Name of the data set.
        keys: The images' ids as text.

    Raises:
        UserError: The files are not there, or the json is none of COCO's: keys missing, images of one id, annotations
            of images that are not listed (all counted). On access: an image is unreadable or has another size.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str,
        images: str = "images",
        name: str = "coco",
        file_key: str = "file_name",
        only_annotated: bool = False,
    ) -> None:
        # Apart from each other: the annotations' archive may bring a folder of its own.
        path = find_layout(Path(root), [annotations]) / annotations
        self._folder, self._file_key = find_layout(Path(root), [images]) / images, file_key
        content = _read_json(path)
        self._check(content, path, file_key)
        by_image: dict[Any, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        listed = [image for image in content["images"] if image["id"] in by_image or not only_annotated]
        # Ids may be numbers or words; numbers sort as numbers.
        listed.sort(key=lambda image: (isinstance(image["id"], str), image["id"]))
        self.name = name
        self.keys = [printable(str(image["id"])) for image in listed]
        self._images, self._annotations = listed, by_image
        # One missing image is reported when it is asked for; if none of the first is there, the folder is wrong.
        first = [self._where(image) for image in listed[:10]]
        if first and not any((self._folder / where).is_file() for where in first):
            raise_missing(self._folder, first[:1])

    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with its masks."""
        about = self._images[index]
        size = (int(about["height"]), int(about["width"]))
        image, remarks = read_rgb_of_size(self._folder / self._where(about), size)
        masks, ids, more = decode_annotations(self._annotations.get(about["id"], []), size)
        return EvalSample(key=self.keys[index], image=image, masks=masks, ids=ids, remarks=remarks + more)

    def _where(self, about: Mapping[str, Any]) -> str:
        where = str(about[self._file_key])
        return where if self._file_key == "file_name" else "/".join(where.split("/")[-2:])

    @staticmethod
    def _check(content: Any, path: Path, file_key: str) -> None:
        """Refuse a json that is not COCO-style, with all that is wrong."""
        if not isinstance(content, dict) or not all(
            isinstance(content.get(k), list) for k in ("images", "annotations")
        ):
            found = (
                f"the keys {', '.join(sorted(content)[:10])}" if isinstance(content, dict) else type(content).__name__
            )
            raise UserError(
                expected=f"a COCO-style json with the lists images and annotations at {path}",
                found=found,
                remedy="give the instance annotations; a json for each image is reader sa1b",
            )
        needed = ("id", "height", "width", file_key)
        lacking = Counter(key for image in content["images"] for key in needed if key not in image)
        problems = [f"{count} images without {key}" for key, count in lacking.items()]
        homeless = sum(1 for annotation in content["annotations"] if "image_id" not in annotation)
        problems += [f"{homeless} annotations without image_id"] * bool(homeless)
        if not problems:
            ids = Counter(image["id"] for image in content["images"])
            doubles = [str(number) for number, count in ids.items() if count > 1]
            strangers = sorted({str(a["image_id"]) for a in content["annotations"] if a["image_id"] not in ids})
            for what, found_ids in (("image ids listed twice", doubles), ("annotated images not listed", strangers)):
                problems += [f"{len(found_ids)} {what}: {', '.join(found_ids[:10])}"] * bool(found_ids)
        if problems or not content["images"]:
            raise UserError(
                expected=f"a complete COCO-style json at {path}",
                found="; ".join(problems) or "no images",
                remedy="correct it; where only file_name is missing (LVIS v1), give file_key: coco_url",
            )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise broken_file(path, error) from None
