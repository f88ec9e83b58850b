"""Interactive benchmark of one image: simulated click sessions of all its objects, models and granularities at once.

The image is encoded once; all sessions advance in lock-step, so every decoder call is full. The same code judges the
untouched SAM-2 and the tuned model. Next in the tour: `benchmarks/whole_image.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.decoder import Embedding
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.clicker import Clicker
from unsam_lightning.model import UnSAM

#: Stock SAM-2 with its single mask; stock SAM-2 with the best of its three masks by true IoU; the adapter at a g.
Method = Literal["base_single", "base_best_of_three", "tuned"]


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """One finished session.

    Args:
        mask_id: Which ground-truth mask.
        method: Which model judged, and how many tries it had for each click.
        granularity: Of the tuned model; None for the base.
        ious: IoU after each click, float32 values. A tuned session without a fixed granularity ends early when another
            granularity of the same object has reached the target: no oracle would choose it any more.
    """

    mask_id: str
    method: Method
    granularity: float | None
    ious: list[float]


@dataclass(slots=True)
class _Session:
    """A session in progress; `logits` is the last mask at stride 4, the prompt of the next pass."""

    mask: int
    method: Method
    granularity: float | None
    clicker: Clicker
    prediction: npt.NDArray[np.bool_]
    ious: list[float] = field(default_factory=list)
    logits: Tensor | None = None
    is_over: bool = False


@torch.no_grad()
def evaluate_interactive(
    model: UnSAM,
    embedding: Embedding,
    sample: EvalSample,
    *,
    methods: Sequence[Method] = ("base_single", "base_best_of_three", "tuned"),
    fixed: Sequence[float] = SWEEP,
    max_clicks: int = 20,
    target: float = 0.9,
    prompts_per_pass: int = 64,
) -> list[SessionResult]:
    """Return the sessions of every object of an image with every method.

    Args:
        model: Judged with and without its adapter.
        embedding: Of this image alone.
        sample: The image's ground truth.
        methods: Which judges.
        fixed: Granularities whose sessions run to their own end, so that they can be reported for themselves.
        max_clicks: Length of a session that does not reach the target.
        target: IoU that ends a session.
        prompts_per_pass: Sessions decoded at a time; bounds the memory.

    Source: RITM's click rule (`metrics/clicker.py`) and GraCo's sweep over granularities; a mask is where the
        probability is above 0.5, as in GraCo.
    Differs: the previous mask is a prompt of every click after the first, as in SAM; no flip or zoom-in at test time.
    """
    height, width = sample.image.shape[:2]
    sessions = [
        _Session(n, method, granularity, Clicker(mask), np.zeros((height, width), dtype=bool))
        for n, mask in enumerate(sample.masks)
        for method in methods
        for granularity in (SWEEP if method == "tuned" else (None,))
    ]
    for _ in range(max_clicks):
        running = [session for session in sessions if not session.is_over]
        for session in running:
            session.clicker.next_click(session.prediction)
        for method in methods:
            chosen = [session for session in running if session.method == method]
            for first in range(0, len(chosen), prompts_per_pass):
                _advance(model, embedding, chosen[first : first + prompts_per_pass], method)
        for session in running:
            session.is_over = session.ious[-1] >= target
        _end_hopeless(sessions, fixed)
    return [
        SessionResult(
            mask_id=sample.ids[s.mask],
            method=s.method,
            granularity=s.granularity,
            # Rounded at the end only: sessions stop by float64, as RITM's do.
            ious=np.array(s.ious, dtype=np.float32).tolist(),
        )
        for s in sessions
    ]


def _end_hopeless(sessions: Sequence[_Session], fixed: Sequence[float]) -> None:
    """End the sweep's sessions of objects that some granularity has finished; fixed granularities go on."""
    finished = {s.mask for s in sessions if s.method == "tuned" and s.is_over}
    for session in sessions:
        if session.method == "tuned" and session.mask in finished and session.granularity not in fixed:
            session.is_over = True


def _advance(model: UnSAM, embedding: Embedding, sessions: Sequence[_Session], method: Method) -> None:
    """Predict one more mask for sessions that have equally many clicks, and note its IoU."""
    height, width = sessions[0].prediction.shape
    clicks = np.array([[(x, y, positive) for y, x, positive in s.clicker.clicks] for s in sessions], dtype=np.float32)
    scale = np.array([model.image_size / width, model.image_size / height], dtype=np.float32)
    points = torch.from_numpy(clicks[..., :2] * scale).to(model.device)  # (P, K, 2)
    labels = torch.from_numpy(clicks[..., 2]).to(model.device)
    previous = [s.logits for s in sessions if s.logits is not None]
    decoded = model.decode(
        embedding,
        points,
        labels,
        # A tensor on the CPU is checked; these come from the sweep, so they may go to the device at once.
        torch.tensor([s.granularity for s in sessions], device=model.device) if method == "tuned" else None,
        masks=torch.stack(previous) if previous else None,
        multimask=method == "base_best_of_three",
    )
    large = torch.nn.functional.interpolate(decoded.masks.float(), (height, width), mode="bilinear")
    predictions = (large > 0).cpu().numpy()  # (P, M, H, W)
    for session, logits, masks in zip(sessions, decoded.masks, predictions, strict=True):
        ious = [session.clicker.iou(mask) for mask in masks]
        best = int(np.argmax(ious))
        session.prediction, session.logits = masks[best], logits[best : best + 1].float()
        session.ious.append(ious[best])
