"""Videos as folders of frames and of maps: DAVIS 2016 and 2017, YouTube-VOS, MOSE, and SA-V's val and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.readers.image_file import files_by_stem, read_rgb
from unsam_lightning.benchmarks.readers.layout import find_layout, layout_places, read_split
from unsam_lightning.benchmarks.readers.map_values import Values, check_values, read_objects
from unsam_lightning.benchmarks.readers.mask_folder import MASK_SUFFIXES
from unsam_lightning.benchmarks.sample import FrameMasks, Remark
from unsam_lightning.errors import UserError, printable


class VideoFolder:
    """Videos, each a folder of frames and a folder of maps with the frames' names, in the order of their names.

    A map holds all objects of a frame, or (`per_object`) a video's folder holds one for each object with that object's
    maps. Frames without a map are not annotated. Objects are named by their number, "object3", or by their folder.

    Args:
        root: Of the data set; the paths below are relative to it or to one of its sub-folders.
        frames: Folder of the videos' frames, e.g. "JPEGImages/480p".
        masks: Folder of the videos' maps, e.g. "Annotations/480p".
        split: File with the videos' names, or several, of which the first that is there is read: archives of one set
            keep it in different places. None for all that have maps.
        per_object: Whether each object has a folder of its own (SA-V); a map is then that object wherever it is not 0.
        values: How maps are read, see `read_objects`: "union" for DAVIS 2016, whose maps are one object.
        ignore_value: Void, 255 in DAVIS 2017.
        name: Name of the data set in tables.

    Attributes:
        name: Name of the data set.
        keys: The videos' names.

    Raises:
        UserError: Folders are missing, all of them named; unknown `values`.
    """

    def __init__(
        self,
        root: str | Path,
        frames: str = "JPEGImages",
        masks: str = "Annotations",
        split: str | Sequence[str] | None = None,
        per_object: bool = False,
        values: Values = "objects",
        ignore_value: int | None = 255,
        name: str = "videos",
    ) -> None:
        check_values(values)
        folder, split = _find_split(Path(root), [frames, masks], [split] if isinstance(split, str) else split or [])
        there = {which: _folders(folder / which) for which in (frames, masks)}
        names = read_split(folder / split) if split else sorted(there[masks])
        lacking = [f"{video} in {which}" for video in names for which in (frames, masks) if video not in there[which]]
        if lacking or not names:
            raise UserError(
                expected=f"a folder in {frames} and in {masks} of {folder} for each video",
                found=f"{len(lacking)} missing: {', '.join(lacking[:10])}" if lacking else "no folder",
                remedy="complete the download",
            )
        self.name, self.keys = name, [printable(video) for video in names]
        self._folders = [(folder / frames / video, folder / masks / video) for video in names]
        self._per_object, self._values, self._ignore_value = per_object, values, ignore_value

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.keys)

    def __getitem__(self, index: int) -> FolderVideo:
        """Return one video; lists its folders, opens no frame.

        Raises:
            UserError: It has no frames, no maps, or maps without a frame, all of them named.
        """
        frames, masks = self._folders[index]
        images = files_by_stem(frames)
        if self._per_object:
            maps: dict[str, list[Path]] = {}
            for folder in sorted(_folders(masks)):
                for stem, path in files_by_stem(masks / folder, MASK_SUFFIXES).items():
                    maps.setdefault(stem, []).append(path)
        else:
            maps = {stem: [path] for stem, path in files_by_stem(masks, MASK_SUFFIXES).items()}
        strays = sorted(maps.keys() - images.keys())
        if strays or not maps:
            raise UserError(
                expected=f"maps in {masks} with the names of frames in {frames}",
                found=f"{len(strays)} without a frame: {', '.join(strays[:10])}" if strays else "no maps",
                remedy="take both from the same copy of the data set",
            )
        return FolderVideo(self.keys[index], images, maps, self._per_object, self._values, self._ignore_value)


class FolderVideo:
    """An `EvalVideo` of files; see `VideoFolder`.

    Args:
        key: Name of the video.
        images: Files of all frames by name, in order.
        maps: Files of the annotated frames' maps by name.
        per_object: Whether a map is one object, named by its folder.
        values: See `VideoFolder`.
        ignore_value: See `VideoFolder`.
    """

    def __init__(
        self,
        key: str,
        images: dict[str, Path],
        maps: dict[str, list[Path]],
        per_object: bool,
        values: Values,
        ignore_value: int | None,
    ) -> None:
        self.key, self._stems = key, list(images)
        self.frames = [printable(stem) for stem in self._stems]
        self.annotated = [index for index, stem in enumerate(self._stems) if stem in maps]
        self._images, self._maps, self._per_object = images, maps, per_object
        self._values: Values = "union" if per_object else values
        self._ignore_value = ignore_value

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Return a frame, uint8 (H, W, 3), RGB."""
        return read_rgb(self._images[self._stems[index]])

    def masks(self, index: int) -> FrameMasks:
        """Return the ground truth of an annotated frame; an object that it does not show is not in it.

        Raises:
            UserError: A map is broken, has no safe reading, or another size than the frame's other maps.
            KeyError: The frame is not annotated.
        """
        found: list[npt.NDArray[np.int8]] = []
        ids: list[str] = []
        remarks: list[Remark] = []
        for path in self._maps[self._stems[index]]:
            try:
                masks, names, odd = read_objects(path, self._values, self._ignore_value)
                if found and masks.shape[1:] != found[0].shape[1:]:
                    raise ValueError(f"size {masks.shape[1:]}, but {found[0].shape[1:]} in the frame's other maps")
            except ValueError as error:
                raise UserError(
                    expected=f"a map of objects in {path}", found=str(error), remedy="see `VideoFolder` for the rules"
                ) from None
            found.append(masks)
            ids += [printable(f"object{path.parent.name}")] * len(names) if self._per_object else names
            # An object that is out of sight is no defect.
            remarks += [remark for remark in odd if remark.kept]
        return FrameMasks(np.concatenate(found), ids, remarks)


def _find_split(root: Path, needed: Sequence[str], splits: Sequence[str]) -> tuple[Path, str | None]:
    """Return the folder that holds all of `needed` and one of `splits`, and the first such; None if none is given.

    Raises:
        UserError: There is no such folder, see `find_layout`.
    """
    for split in splits if root.is_dir() else ():
        if layout_places(root, [*needed, split]):
            return find_layout(root, [*needed, split]), split
    return find_layout(root, [*needed, *([" or ".join(splits)] if splits else [])]), None


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
