"""What a benchmark reader gives and what an evaluation takes: images and videos with their ground-truth masks.

Next in the tour: `benchmarks/subset.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from unsam_lightning.errors import printable


class Remark(NamedTuple):
    """Something odd about one mask of a data set, for the report.

    Args:
        mask_id: The mask's name; empty if it is about the whole image.
        reason: What is odd, in the same words for all of its kind, so that kinds can be counted.
        detail: What was found, e.g. the size.
        kept: Whether the mask is used all the same; if not, it is left out.
    """

    mask_id: str
    reason: str
    detail: str = ""
    kept: bool = False

    def named(self, key: str) -> str:
        """Return the mask's name after its image's, and what was found: "photo3: object7 (60x30)"."""
        name = key + (f": {self.mask_id}" if self.mask_id else "") + (f" ({self.detail})" if self.detail else "")
        return printable(name)


@dataclass(kw_only=True, slots=True)
class EvalSample:
    """One image and the masks that people (or a generator) gave for it.

    Names go into tables and reports, so they are made printable: a file's name may be of bytes that are no UTF-8.

    Args:
        key: Name of the image, unique in its data set.
        image: uint8 (H, W, 3), RGB.
        masks: int8 (N, H, W): 1 object, 0 background, -1 ignore. N may be 0.
        ids: N names of the masks, unique in the image, e.g. "annotator2/segment7".
        remarks: Which annotations the reader left out or found odd, and why.
        drawn_from: int8 (M, H, W): all masks of the image, where `masks` are some of them; None where they are all.
    """

    key: str
    image: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.int8]
    ids: list[str]
    remarks: list[Remark] = field(default_factory=list)
    drawn_from: npt.NDArray[np.int8] | None = None

    @property
    def all_masks(self) -> npt.NDArray[np.int8]:
        """Everything that people marked in the image, also where few of its masks are judged."""
        return self.masks if self.drawn_from is None else self.drawn_from

    def __post_init__(self) -> None:
        self.key, self.ids = printable(self.key), [printable(name) for name in self.ids]


class EvalDataset(Protocol):
    """A finite benchmark data set, indexed so that ranks can split it."""

    @property
    def name(self) -> str:
        """Name of the data set, for tables."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with its masks; the same every time."""
        ...

    def __iter__(self) -> Iterator[EvalSample]:
        """Go through the images in order."""
        ...


class KeyedDataset(EvalDataset, Protocol):
    """A data set that knows the names of its images without opening them."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images, in order, printable; those of their samples."""
        ...


class ImagesInOrder(ABC):
    """What all readers of images share: as many as they have names, one after the other.

    Attributes:
        keys: Names of the images, in order.
    """

    keys: Sequence[str]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def __iter__(self) -> Iterator[EvalSample]:
        """Go through the images in order."""
        return (self[index] for index in range(len(self)))

    @abstractmethod
    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with its masks."""


class FrameMasks(NamedTuple):
    """The ground truth of one frame of a video.

    Args:
        masks: int8 (N, H, W): 1 object, 0 background, -1 ignore; only of objects that the frame shows.
        ids: N names; an object has the same one in all frames.
        remarks: See `EvalSample`.
    """

    masks: npt.NDArray[np.int8]
    ids: list[str]
    remarks: list[Remark]


class EvalVideo(Protocol):
    """One video, whose frames are opened one by one."""

    @property
    def key(self) -> str:
        """Name of the video, unique in its data set."""
        ...

    @property
    def frames(self) -> Sequence[str]:
        """Names of all frames, in order."""
        ...

    @property
    def annotated(self) -> Sequence[int]:
        """Which frames have ground truth, ascending."""
        ...

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Return a frame, uint8 (H, W, 3), RGB."""
        ...

    def masks(self, index: int) -> FrameMasks:
        """Return the ground truth of an annotated frame."""
        ...


class VideoDataset(Protocol):
    """A finite benchmark data set of videos."""

    @property
    def name(self) -> str:
        """Name of the data set, for tables."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """Names of the videos, in order."""
        ...

    def __len__(self) -> int:
        """Return the number of videos."""
        ...

    def __getitem__(self, index: int) -> EvalVideo:
        """Return one video; only its folders are listed and its annotation file is read."""
        ...
