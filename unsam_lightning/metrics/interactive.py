"""Interactive segmentation: click sessions, the number of clicks (NoC), and the choice of a granularity.

A simulated user (`clicker.py`) clicks into the middle of the largest error until the mask is good enough.
`click_session` is one such session; evaluations that move many sessions in lock-step use `Clicker` itself. Sessions are
kept as lists of float32 IoUs, from which every number of the field follows (`summarize_sessions`).
Next in the tour: `metrics/click_totals.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.clicker import Click, Clicker

#: The IoUs after each click, alone or with the clicks (what `click_session` returns).
Session: TypeAlias = npt.ArrayLike | tuple[npt.ArrayLike, Sequence[Click]]

_FLOAT32 = npt.NDArray[np.float32]


def click_session(
    gt: npt.ArrayLike,
    predict: Callable[[list[Click]], Any],
    max_clicks: int = 20,
    max_iou: float = 0.9,
    threshold: float = 0.49,
    min_clicks: int = 1,
) -> tuple[_FLOAT32, list[Click]]:
    """Return the IoU after each click of one simulated session, and the clicks.

    Args:
        gt: int8 (H, W): 1 object, 0 background, -1 ignore.
        predict: Gets all clicks so far, [(y, x, is_positive)], and returns the probability map (H, W).
        max_clicks: Length of a session that never reaches `max_iou`.
        max_iou: The session ends when the IoU reaches it; above 1 it runs to `max_clicks` (for IoU curves).
        threshold: Pixels with a probability above it are the mask: 0.49 in RITM and SimpleClick, 0.5 in GraCo.
        min_clicks: The session does not end before so many clicks.

    Returns:
        IoUs float32 (K,), 1 <= K <= `max_clicks`, and the K clicks. An empty ground truth is never reached.

    Raises:
        UserError: `gt` or the map from `predict` has a wrong shape or values; `max_clicks` is not positive.

    Source: RITM `isegm/inference/evaluation.py::evaluate_sample` (b9b4460).
    """
    _check_positive(max_clicks)
    clicker = Clicker(gt)
    prediction = np.zeros(np.shape(gt), dtype=np.bool_)
    ious: list[float] = []
    while len(ious) < max_clicks:
        clicker.next_click(prediction)
        prediction = np.asarray(predict(list(clicker.clicks))) > threshold
        ious.append(clicker.iou(prediction))
        if ious[-1] >= max_iou and len(ious) >= min_clicks:  # in float64, before rounding, as the reference does
            break
    return np.array(ious, dtype=np.float32), clicker.clicks


def number_of_clicks(ious: npt.ArrayLike, iou: float, max_clicks: int = 20) -> int:
    """Return the number of the first click whose IoU reaches `iou`; `max_clicks` if none does.

    Args:
        ious: IoU after each click, (K,); clicks beyond `max_clicks` are not counted. nan is never reached.
        iou: Target. Compared in float32, so that 90 of 100 pixels reach 0.9.
        max_clicks: The value for sessions that never reach the target.

    Source: RITM `isegm/inference/utils.py::compute_noc_metric` (b9b4460).
    """
    _check_positive(max_clicks)
    reached = np.asarray(ious, dtype=np.float32)[:max_clicks] >= np.float32(iou)
    return int(np.argmax(reached)) + 1 if reached.any() else max_clicks


def oracle_granularity(
    sessions: Sequence[Session], mode: str = "graco", target: float | None = None, max_clicks: int = 20
) -> int:
    """Return the index of the granularity that an oracle with the ground truth in hand picks for one object.

    Modes:
        "graco": fewest clicks. Without `target`, the clicks of a session are its length, as in the reference: right for
            sessions that ran to their own end, and equally for later ones cut one click past the best so far. Sessions
            that ran on (IoU curves) or were cut earlier (lock-step: all stop when the first arrives) need `target`.
        "best_noc80", "best_noc85", ...: fewest clicks to that IoU in per cent, the best for that one metric.
        "best_iou1", or in short "best": highest IoU after the first click.

    Equal numbers of clicks go to the highest first-click IoU, and equal IoUs to the smallest granularity. What is
    reported for the object then comes from the chosen session only, whatever other granularities reach.

    Args:
        sessions: One for each granularity, ascending: IoUs (K,), or what `click_session` returns.
        mode: One of the above.
        target: IoU that ends a session, for "graco".
        max_clicks: The number of clicks of a session that does not reach its target.

    Raises:
        UserError: Unknown mode; no sessions or an empty one; a session cut so early that the choice depends on
            clicks it did not make.

    Source: GraCo `isegm/inference/evaluation.py::evaluate_sample_oracle` (8001f0f) for "graco".
    """
    ious = [_ious_of(session) for session in sessions]
    if not ious or not all(len(one) for one in ious):
        raise UserError(
            expected="a session of at least one click for each granularity",
            found=f"lengths {[len(one) for one in ious]}",
            remedy="run every granularity's session before choosing",
        )
    first_ious = [one[0] if one[0] == one[0] else np.float32(-1) for one in ious]  # nan, an empty object, is no merit
    if mode == "graco":
        clicks = [len(one) for one in ious] if target is None else _clicks_to(ious, target, max_clicks)
    elif best_noc := re.fullmatch(r"best_noc(\d\d)", mode):
        clicks = _clicks_to(ious, int(best_noc[1]) / 100, max_clicks)
    elif mode in ("best", "best_iou1"):
        clicks = [0] * len(ious)
    else:
        raise UserError(
            expected="a granularity choice: graco, best_iou1 (or best), best_noc80, best_noc85, best_noc90 ...",
            found=repr(mode),
            remedy="name the oracle whose numbers you report; a fixed granularity needs no choice",
        )
    return min(range(len(ious)), key=lambda index: (clicks[index], -first_ious[index]))


def _ious_of(session: Session) -> _FLOAT32:
    has_clicks = isinstance(session, tuple) and len(session) == 2 and np.ndim(session[0]) == 1
    return np.asarray(session[0] if has_clicks else session, dtype=np.float32)  # type: ignore[index]


def _clicks_to(ious: list[_FLOAT32], target: float, max_clicks: int) -> list[int]:
    """Return the clicks of each session to the target; refuse sessions whose missing clicks could be fewer."""
    clicks = [number_of_clicks(one, target, max_clicks) for one in ious]
    cut = [k for k, one in enumerate(ious) if len(one) < max_clicks and not (one >= np.float32(target)).any()]
    undecided = [k for k in cut if len(ious[k]) < min(clicks)]
    if undecided:
        stopped = ious[undecided[0]]
        raise UserError(
            expected=f"sessions that reach IoU {target:g}, run for {max_clicks} clicks, or stop when another is first",
            found=f"session {undecided[0]} stopped after {len(stopped)} clicks at {stopped[-1]:g}",
            remedy="run it on, or give the target and the max_clicks with which the sessions were run",
        )
    return clicks


def summarize_sessions(
    sessions: Sequence[Session], thresholds: Sequence[float] = (0.8, 0.85, 0.9), max_clicks: int = 20
) -> dict[str, float]:
    """Return NoC, failures and 1-IoU over the sessions of a data set, one session an object.

    Args:
        sessions: IoUs after each click, (K,) each, or what `click_session` returns.
        thresholds: IoU targets, whole per cent.
        max_clicks: The clicks allowed, with which the sessions were run.

    Returns:
        "noc80" ...: mean number of clicks; "failures80" ...: number of sessions that used all clicks, which includes
        those that arrive with the very last one (the field's ">=20@80"); "unreached80" ...: number of sessions that
        never arrive; "one_click_iou": mean IoU after the first click, nan if an object is empty; "num_sessions".
        Without sessions all means are nan.

    Raises:
        UserError: A session stopped below one of the thresholds, so that its NoC is unknown; an empty session.

    Source: RITM `isegm/inference/utils.py::compute_noc_metric` (b9b4460).
    """
    ious = [_ious_of(session) for session in sessions]
    curve = iou_curve(ious)
    summary = {"num_sessions": float(len(ious)), "one_click_iou": float(curve[0]) if len(curve) else float("nan")}
    for threshold in thresholds:
        unreached = [one for one in ious if not (one[:max_clicks] >= np.float32(threshold)).any()]
        stopped = [one[-1] for one in unreached if len(one) < max_clicks]
        if stopped:
            raise UserError(
                expected=f"sessions that reach IoU {threshold:g} or run for {max_clicks} clicks",
                found=f"{len(stopped)} of {len(ious)} that stopped below, the first at {stopped[0]:g}",
                remedy="run the sessions with a max_iou of the highest threshold, or leave that threshold out",
            )
        clicks = [number_of_clicks(one, threshold, max_clicks) for one in ious]
        summary[f"noc{threshold * 100:g}"] = float(np.mean(clicks)) if clicks else float("nan")
        summary[f"failures{threshold * 100:g}"] = float(sum(count == max_clicks for count in clicks))
        summary[f"unreached{threshold * 100:g}"] = float(len(unreached))
    return summary


def iou_curve(sessions: Sequence[Session]) -> npt.NDArray[np.float64]:
    """Return the mean IoU over sessions after 1, 2, ... K clicks, float64 (K,).

    K is the length of the shortest session: beyond it a mean would be over other objects. Run sessions with
    `max_iou=1.01` for a curve over all clicks. Empty without sessions.

    Raises:
        UserError: A session has no clicks.

    Source: RITM `scripts/evaluate_model.py --print-ious` (b9b4460).
    """
    ious = [_ious_of(session) for session in sessions]
    if not ious:
        return np.zeros(0)
    shortest = min(len(one) for one in ious)
    if shortest == 0:
        raise UserError(
            expected="sessions of at least one click",
            found=f"{sum(len(one) == 0 for one in ious)} of {len(ious)} without any",
            remedy="leave out objects that were not evaluated",
        )
    return np.asarray(np.mean([one[:shortest] for one in ious], axis=0, dtype=np.float64))


def _check_positive(max_clicks: int) -> None:
    if max_clicks < 1:
        raise UserError(expected="max_clicks of at least 1", found=str(max_clicks), remedy="the field uses 20")
