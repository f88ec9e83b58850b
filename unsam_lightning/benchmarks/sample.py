"""What a benchmark reader gives and what an evaluation takes: one image with its ground-truth masks.

Next in the tour: `benchmarks/subset.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(kw_only=True, slots=True)
class EvalSample:
    """One image and the masks that people (or a generator) gave for it.

    Args:
        key: Name of the image, unique in its data set.
        image: uint8 (H, W, 3), RGB.
        masks: int8 (N, H, W): 1 object, 0 background, -1 ignore. N may be 0.
        ids: N names of the masks, unique in the image, e.g. "annotator2/segment7".
    """

    key: str
    image: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.int8]
    ids: list[str]


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
