"""The numbers of interactive segmentation, added up session by session and over processes.

Next in the tour: `metrics/coco_evaluation.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from unsam_lightning.metrics.interactive import Session, iou_curve, summarize_sessions


class ClickTotals(Metric):
    """What `summarize_sessions` gives, and the mean IoU after every click.

    `compute` gives the names of `summarize_sessions`, of which "failures80" is the field's ">=20@80", and "iou_at_1",
    "iou_at_2" ...: the mean over all sessions of the IoU after so many clicks, where a session that has ended keeps its
    last. Up to the end of the shortest session that is RITM's curve, which stops there; run sessions with a `max_iou`
    above 1 for a curve without kept values. nan without sessions.

    Args:
        thresholds: IoU targets, whole per cent.
        max_clicks: The clicks allowed, with which the sessions were run.
        **kwargs: torchmetrics' own.
    """

    full_state_update = False
    totals: Tensor
    curve: Tensor

    def __init__(self, thresholds: Sequence[float] = (0.8, 0.85, 0.9), max_clicks: int = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.thresholds, self.max_clicks = tuple(thresholds), max_clicks
        self.names = list(summarize_sessions([], self.thresholds, max_clicks))
        self.add_state("totals", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("curve", torch.zeros(max_clicks, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, session: Session) -> None:
        """Add one session: its IoUs (K,), or what `click_session` returns.

        Raises:
            UserError: See `summarize_sessions`.
        """
        summary = summarize_sessions([session], self.thresholds, self.max_clicks)
        ious = iou_curve([session])[: self.max_clicks]
        kept = np.pad(ious, (0, self.max_clicks - len(ious)), mode="edge")
        self.totals += torch.tensor([summary[name] for name in self.names], device=self.totals.device).double()
        self.curve += torch.from_numpy(kept).to(self.curve.device)

    def compute(self) -> dict[str, float]:
        """Return the numbers over all sessions of all processes."""
        numbers = dict(zip(self.names, self.totals, strict=True))
        num_sessions = numbers["num_sessions"]
        numbers |= {name: numbers[name] / num_sessions for name in self.names if name.startswith(("noc", "one_click"))}
        numbers |= {f"iou_at_{k}": value / num_sessions for k, value in enumerate(self.curve, start=1)}
        return {name: float(value) for name, value in numbers.items()}
