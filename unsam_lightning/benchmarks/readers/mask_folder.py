"""A folder of images and a folder of their masks: the layout of GrabCut, Berkeley, DAVIS, and of one's own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unsam_lightning.benchmarks.readers.coco_masks import OTHER_SIZE
from unsam_lightning.benchmarks.readers.image_file import files_by_stem, read_rgb
from unsam_lightning.benchmarks.readers.layout import find_layout
from unsam_lightning.benchmarks.readers.map_values import Values, check_values, read_objects
from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder, Remark
from unsam_lightning.errors import UserError, printable

#: Formats of masks: without loss.
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


class MaskFolder(ImagesInOrder):
    """Images with masks of one's own, sorted by name.

    The masks of the image `<stem>.jpg` are either one map `<stem>.png` or a folder `<stem>/` of maps with one object
    each. Maps are grey or palette images (or colour images with equal channels); bmp and tif serve as well. The pixel
    values of a map mean:

    * 0 is background.
    * In a binary map, which holds 255 and otherwise only 0 and 128, 255 is the object and 128 is ignored (the uncertain
      band of GrabCut and Berkeley).
    * In any other map each value but 0 is one object, also 128.
    * `ignore_value`, if given, is ignored in every map, and 128 is then a value as any other.

    Two cases have no safe reading and are refused unless `ignore_value` is given: a map of 0 and 128 only, and 255
    beside other objects when 254 is absent (void in VOC and DAVIS, an object elsewhere).

    Other readings of the values, by a data set's own rules, are named by `values`; see `read_objects`.

    The id of a mask is "object{value}" in a map, and the file's name without suffix in a folder. Left out with a
    remark: a map of zeros, and one of another size than its image (upright by EXIF).

    Args:
        images: Folder of images.
        masks: Folder of masks.
        name: Name of the data set in tables; by default that of the folder that holds `images`.
        ignore_value: See above, e.g. 255 for VOC and DAVIS, 220 for grey VOC maps; -1 if no value is ignored.
        values: "objects" as above, or "binary", "union", "second_channel".
        background: The value that is no object, with "objects": 40 in PartImageNet's maps, where 0 is a part.

    Attributes:
        name: Name of the data set.

    Raises:
        UserError: A folder is missing; an image without masks or the reverse, all of them at once. On access: a broken
            file, a colour map, an ambiguous map, a file of an object folder with several objects.
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        name: str | None = None,
        ignore_value: int | None = None,
        values: Values = "objects",
        background: int = 0,
    ) -> None:
        check_values(values)
        image_files = files_by_stem(Path(images))
        sources = _mask_sources(Path(masks))
        self.name = name or printable(Path(images).resolve().parent.name)
        self._files = [(image_files[key], sources[key]) for key in image_files if key in sources]
        self.keys = [printable(image.stem) for image, _ in self._files]
        self._ignore_value, self._values, self._background = ignore_value, values, background
        problems = [f"image {image_files[key].name} has no mask" for key in image_files if key not in sources]
        problems += [f"mask {sources[key].name} has no image" for key in sources if key not in image_files]
        problems += [f"mask folder {source.name} is empty" for _, source in self._files if not _maps_of(source)]
        if problems:
            raise UserError(
                expected=f"for each image of {images} masks of its name in {masks}",
                found="; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else ""),
                remedy=f"rename or complete the files (masks: {', '.join(MASK_SUFFIXES)}, or a folder of them)",
            )

    @classmethod
    def below(
        cls,
        root: Path,
        images: str,
        masks: str,
        name: str,
        ignore_value: int | None = None,
        values: Values = "objects",
        background: int = 0,
    ) -> MaskFolder:
        """Return the data set of two folders given relative to a root or to one of its sub-folders."""
        folder = find_layout(root, [images, masks])
        return cls(folder / images, folder / masks, name, ignore_value, values, background)

    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with its masks."""
        image_file, source = self._files[index]
        image = read_rgb(image_file)
        masks = [np.zeros((0, *image.shape[:2]), dtype=np.int8)]
        ids: list[str] = []
        remarks: list[Remark] = []
        problems: list[str] = []
        for path in _maps_of(source):
            try:
                objects, names, odd = read_objects(path, self._values, self._ignore_value, self._background)
                if source.is_dir() and len(objects) > 1:
                    raise ValueError(f"{len(objects)} objects in a file of an object folder")
            except ValueError as error:
                problems.append(f"{path}: {error}")
                continue
            if objects.shape[1:] != image.shape[:2]:
                (height, width), (map_height, map_width) = image.shape[:2], objects.shape[1:]
                sizes = f"{path.name} is {map_width}x{map_height}, the image {width}x{height}"
                remarks.append(Remark(path.stem if source.is_dir() else "", OTHER_SIZE, sizes))
                continue
            masks.append(objects)
            remarks += odd
            ids += [path.stem] * len(names) if source.is_dir() else names
        if problems:
            raise UserError(
                expected="masks of 0 and 255, or of one value for each object",
                found="; ".join(problems),
                remedy="correct the files; the documentation of MaskFolder says what the values mean",
            )
        return EvalSample(key=self.keys[index], image=image, masks=np.concatenate(masks), ids=ids, remarks=remarks)


def _mask_sources(folder: Path) -> dict[str, Path]:
    """Return the map or the folder of maps of each image, by the image's stem, sorted."""
    folders = {path.name: path for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else {}
    folders = {name: path for name, path in folders.items() if not name.startswith(".")}
    has_files = not folders or any(path.suffix.lower() in MASK_SUFFIXES for path in folder.iterdir())
    files = files_by_stem(folder, MASK_SUFFIXES) if has_files else {}
    if both := sorted(files.keys() & folders.keys()):
        raise UserError(
            expected=f"either a map or a folder of maps for each image in {folder}",
            found=f"both for {', '.join(both[:10])}",
            remedy="remove one of the two",
        )
    return dict(sorted((files | folders).items()))


def _maps_of(source: Path) -> list[Path]:
    """Return the map itself, or the maps in a folder, sorted by name."""
    if not source.is_dir():
        return [source]
    return sorted(p for p in source.iterdir() if p.suffix.lower() in MASK_SUFFIXES and not p.name.startswith("."))
