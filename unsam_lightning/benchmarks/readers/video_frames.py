"""The annotated frames of videos as single images: clicks and proposals on DAVIS, YouTube-VOS, MOSE, SA-V."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unsam_lightning.benchmarks.readers.map_values import Values
from unsam_lightning.benchmarks.readers.video_folder import VideoFolder
from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder
from unsam_lightning.errors import UserError


class VideoFrames(ImagesInOrder):
    """Every n-th annotated frame of each video as an image of its own, named "<video>/<frame>".

    Args:
        root: See `VideoFolder`, as everything but the next.
        every: Take the first annotated frame of a video and each `every`-th after it.
        frames: See there.
        masks: See there.
        split: See there.
        per_object: See there.
        values: See there.
        ignore_value: See there.
        name: Name of the data set in tables.

    Attributes:
        name: Name of the data set.
        keys: Names of the images.

    Raises:
        UserError: `every` is below 1; or see `VideoFolder`.
    """

    def __init__(
        self,
        root: str | Path,
        every: int = 1,
        frames: str = "JPEGImages",
        masks: str = "Annotations",
        split: str | Sequence[str] | None = None,
        per_object: bool = False,
        values: Values = "objects",
        ignore_value: int | None = 255,
        name: str = "video_frames",
    ) -> None:
        if every < 1:
            raise UserError(expected="every: a whole number from 1 on", found=str(every), remedy="10 takes a tenth")
        videos = VideoFolder(root, frames, masks, split, per_object, values, ignore_value, name)
        self._places = [
            (video, frame) for n in range(len(videos)) for video in [videos[n]] for frame in video.annotated[::every]
        ]
        self.name = name
        self.keys = [f"{video.key}/{video.frames[frame]}" for video, frame in self._places]

    def __getitem__(self, index: int) -> EvalSample:
        """Return one frame with its masks.

        Raises:
            UserError: Its maps have another size than the frame; or see `FolderVideo`.
        """
        video, frame = self._places[index]
        image = video.image(frame)
        masks, ids, remarks = video.masks(frame)
        if masks.shape[1:] != image.shape[:2]:
            raise UserError(
                expected=f"maps of {image.shape[1]}x{image.shape[0]} for {self.keys[index]}",
                found=f"{masks.shape[2]}x{masks.shape[1]}",
                remedy="take frames and maps from the same copy of the data set",
            )
        return EvalSample(key=self.keys[index], image=image, masks=masks, ids=ids, remarks=remarks)
