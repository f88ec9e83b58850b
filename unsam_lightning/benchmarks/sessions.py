"""Click sessions of one object: what is judged, a session in progress, and what it comes to.

Next in the tour: `benchmarks/interactive.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.clicker import Clicker

#: Stock SAM-2 with its single mask; with the one of its three masks at the first click that it gives the best score,
#: and its single mask after that, as the sam2 package's settings have it (`multimask_max_pt_num: 1`); with the best of
#: its three masks at every click by true IoU; the adapter at a granularity.
Method = Literal["base_single", "base_own_choice", "base_best_of_three", "tuned"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """One finished session.

    Args:
        mask_id: Which ground-truth mask.
        method: Which model judged, and how many tries it had for each click.
        granularity: Of the tuned model; None for the base.
        ious: IoU after each click, float32 values. A tuned session ends early when another granularity of the same
            object has reached the target (no oracle would choose it any more), unless its granularity is a fixed one
            or the model's own choice.
        is_automatic: Whether this is the granularity that the model chose by itself after the first click.
        first_click: Row and column of the first click, the same for all sessions of an object.
        first_mask: What the first click gave, as COCO RLE counts, of the base's single mask and the automatic one.
        first_boundary_iou: Boundary IoU of what the first click gave; ignored pixels are cut out of both masks.
    """

    mask_id: str
    method: Method
    granularity: float | None
    ious: list[float]
    is_automatic: bool = False
    first_click: tuple[int, int] = (0, 0)
    first_mask: str | None = None
    first_boundary_iou: float | None = None


@dataclass(slots=True)
class Session:
    """A session in progress; `logits` is the last mask at stride 4, the prompt of the next pass."""

    mask: int
    method: Method
    granularity: float | None
    clicker: Clicker
    prediction: npt.NDArray[np.bool_]
    ious: list[float] = field(default_factory=list)
    logits: Tensor | None = None
    is_automatic: bool = False
    first_mask: str | None = None
    first_boundary_iou: float | None = None
    is_over: bool = False


def start_sessions(mask: npt.NDArray[np.int8], number: int, methods: Sequence[Method]) -> list[Session]:
    """Return the sessions of one object, all with the same first click."""
    nothing = np.zeros(mask.shape, dtype=bool)
    clicker = Clicker(mask)
    clicker.next_click(nothing)
    sessions = []
    for method in methods:
        for granularity in SWEEP if method == "tuned" else (None,):
            own = copy.copy(clicker)  # the ground truth is shared, the clicks are not
            own.clicks = list(clicker.clicks)
            sessions.append(Session(number, method, granularity, own, nothing))
    return sessions


def finished(session: Session, ids: Sequence[str]) -> SessionResult:
    """Return what a session comes to; `ids` are the names of the image's masks."""
    y, x, _ = session.clicker.clicks[0]
    return SessionResult(
        mask_id=ids[session.mask],
        method=session.method,
        granularity=session.granularity,
        # Rounded at the end only: sessions stop by float64, as RITM's do.
        ious=np.array(session.ious, dtype=np.float32).tolist(),
        is_automatic=session.is_automatic,
        first_click=(y, x),
        first_mask=session.first_mask,
        first_boundary_iou=session.first_boundary_iou,
    )
