"""SA-V's training videos: an mp4 and a json of masklets, annotated at every fourth frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.readers.coco_masks import EMPTY, decode_annotations
from unsam_lightning.benchmarks.readers.image_file import broken_file
from unsam_lightning.benchmarks.readers.layout import find_layout
from unsam_lightning.benchmarks.sample import FrameMasks
from unsam_lightning.errors import UserError, printable

#: Frames of a video (24 a second) between two annotated ones (6 a second).
STRIDE = 4


class SAVJson:
    """Videos `<name>.mp4` with `<name>_manual.json` or `<name>_auto.json` beside them, sorted by path.

    Args:
        root: Folder with the unpacked tars.
        kind: Whose masklets: "manual" or "auto".
        name: Name of the data set in tables.

    Attributes:
        name: Name of the data set.
        keys: Paths of the videos below the root, without suffix.

    Raises:
        UserError: Nothing of the kind is there; on access, a broken json; on `image`, a missing or broken mp4.

    Source: the SA-V release's own reader (sam2, `sav_dataset/utils/sav_utils.py`): masklet[frame][object], COCO RLE.
    """

    def __init__(self, root: str | Path, kind: Literal["manual", "auto"] = "manual", name: str = "sav") -> None:
        if kind not in ("manual", "auto"):
            raise UserError(expected="kind: manual or auto", found=kind, remedy="choose one")
        self._folder, self._kind, self.name = find_layout(Path(root), ["."]), kind, name
        ending = f"_{kind}.json"
        paths = self._folder.rglob(f"sav_*{ending}")
        self._names = sorted(path.relative_to(self._folder).as_posix().removesuffix(ending) for path in paths)
        self.keys = [printable(name) for name in self._names]
        if not self._names:
            raise UserError(
                expected=f"sav_*{ending} in {self._folder}",
                found="none",
                remedy="unpack the tars there; the val and test splits are png folders, reader video_folder",
            )

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.keys)

    def __getitem__(self, index: int) -> MaskletVideo:
        """Return one video with its json read."""
        name = self._names[index]
        path = self._folder / f"{name}_{self._kind}.json"
        try:
            content = json.loads(path.read_bytes())
            size = (int(content["video_height"]), int(content["video_width"]))
            return MaskletVideo(
                self.keys[index],
                self._folder / f"{name}.mp4",
                size,
                int(content["video_frame_count"]),
                content["masklet_id"],
                content["masklet"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise broken_file(path, error) from None


class MaskletVideo:
    """An `EvalVideo` of an mp4 and masklets; see `SAVJson`.

    Args:
        key: Name of the video.
        file: The mp4; needed for `image` only.
        size: Height and width.
        num_frames: Of the mp4.
        object_numbers: One for each object.
        masklets: An RLE for each annotated frame and each object.

    Raises:
        ValueError: There are more annotated frames than the video can have, or another number of objects in a frame.
    """

    def __init__(
        self,
        key: str,
        file: Path,
        size: tuple[int, int],
        num_frames: int,
        object_numbers: Sequence[int],
        masklets: Sequence[Sequence[Any]],
    ) -> None:
        self.key, self.frames = key, [f"{index:05d}" for index in range(num_frames)]
        self.annotated = list(range(0, STRIDE * len(masklets), STRIDE))
        if num_frames < 1 or (self.annotated and self.annotated[-1] >= num_frames):
            raise ValueError(f"{len(masklets)} annotated frames, one in {STRIDE}, of {num_frames}")
        if any(len(frame) != len(object_numbers) for frame in masklets):
            raise ValueError(f"frames of other than {len(object_numbers)} objects")
        self._file, self._size, self._numbers, self._masklets = file, size, object_numbers, masklets
        self._reader: Any = None
        self._next = 0  # the frame that the reader gives next

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Return a frame, uint8 (H, W, 3), RGB; frames in order are read once, others from the start again.

        Raises:
            UserError: The mp4 is missing, cut short, or of another size.
        """
        # Jumps inside an mp4 land on other frames than asked for, depending on the codec: read on, or start again.
        if self._reader is None or index < self._next:
            self._reader, self._next = cv2.VideoCapture(str(self._file)), 0
        frame = None
        while self._next <= index:
            is_read, frame = self._reader.read()
            if not is_read:
                found = f"it ends after {self._next} frames" if self._file.is_file() else "nothing there"
                raise UserError(
                    expected=f"frame {index} of {len(self.frames)} in {self._file}",
                    found=found,
                    remedy="fetch it again",
                )
            self._next += 1
        pixels = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        if pixels.shape[:2] != self._size:
            raise UserError(
                expected=f"frames of {self._size[1]}x{self._size[0]} (width x height) in {self._file}",
                found=f"{pixels.shape[1]}x{pixels.shape[0]}",
                remedy="take video and json from the same copy of the data set",
            )
        return pixels

    def masks(self, index: int) -> FrameMasks:
        """Return the ground truth of an annotated frame; an object that it does not show is not in it."""
        shown = self._masklets[self.annotated.index(index)]
        annotations = [
            {"id": number, "segmentation": rle, "iscrowd": 0} for number, rle in zip(self._numbers, shown, strict=True)
        ]
        masks, ids, remarks = decode_annotations(annotations, self._size)
        return FrameMasks(masks, ids, [remark for remark in remarks if remark.reason != EMPTY])
