"""Video object segmentation: region similarity J, boundary F and their mean, by the rules of DAVIS and of SA-V.

Next in the tour: `metrics/dial.py`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.boundary import davis_f, mask_iou

#: Whose rules say which frames and objects count.
Mode: TypeAlias = Literal["semi-supervised", "unsupervised", "sa-v"]

_FLOAT64 = npt.NDArray[np.float64]
_VOID = 255
_MAX_PROPOSALS = 20


def davis_j_and_f(
    gt: npt.NDArray[Any],
    pred: npt.NDArray[Any],
    mode: Mode = "semi-supervised",
    *,
    exclude_void: bool | None = None,
    skip_ends: bool | None = None,
    as_reference: bool = False,
) -> dict[str, Any]:
    """Return J, F and J&F of one sequence.

    Rules:
        "semi-supervised": objects are 1 to the highest id of the first frame; the first and the last frame are not
            scored; void is background, so that a mask in it is wrong.
        "unsupervised": the same objects; all frames are scored; predicted ids are proposals, at most 20, each given to
            at most one object so that the mean J&F is highest; void does not count.
        "sa-v": the frames given are the annotated ones, of which the first and the last are not scored; every id but 0
            is an object, from the first scored frame with it in ground truth or prediction on; ids that are never in
            the ground truth do not count. Where objects overlap, one call for each, with masks of bool.

    Args:
        gt: uint8 (T, H, W): 0 background, objects, 255 void (an object in "sa-v"); or bool.
        pred: The same, without void.
        mode: Whose rules.
        exclude_void: True to leave void out also in "semi-supervised"; None for the rule of the mode.
        skip_ends: Whether the first and the last frame are not scored; None for the rule of the mode.
        as_reference: True to reproduce two defects of DAVIS's evaluator: the decay counts frames in 8 bits and is nan
            beyond 256 of them; "unsupervised" numbers objects by their proposals' order.

    Returns:
        "J_Mean", "J_Recall" (share of frames above 0.5), "J_Decay" (mean of the first quarter less that of the last),
        the same of F, "JandF_Mean": means over objects, in [0, 1]; "J_per_object" and "F_per_object": the means by the
        id in the ground truth.

    Raises:
        UserError: Different or too few frames, no object, or a predicted id that the rules do not allow.

    Source: davis2017-evaluation `davis2017/evaluation.py` (ac7c43f); sam2 `sav_dataset/utils/sav_benchmark.py`.
    Differs: fractions, also for SA-V, whose evaluator has per cent.
    """
    values = per_frame(gt, pred, mode, exclude_void=exclude_void, skip_ends=skip_ends, by_proposal=as_reference)
    statistics = np.array([[sequence_statistics(row, as_reference) for row in pair] for pair in values.values()])
    return _named(statistics.reshape(-1, 6).mean(axis=0)) | {
        f"{name}_per_object": dict(zip(values, statistics[:, k, 0].tolist(), strict=True))
        for k, name in enumerate("JF")
    }


def per_frame(
    gt: npt.NDArray[Any],
    pred: npt.NDArray[Any],
    mode: Mode = "semi-supervised",
    *,
    exclude_void: bool | None = None,
    skip_ends: bool | None = None,
    by_proposal: bool = False,
) -> dict[int, _FLOAT64]:
    """Return J and F of every object in every scored frame, float64 (2, F) by object.

    See `davis_j_and_f`; `by_proposal` numbers the objects of "unsupervised" by their proposals' order.
    """
    num_skipped = int(mode != "unsupervised" if skip_ends is None else skip_ends)
    if gt.ndim != 3 or gt.shape != pred.shape or len(gt) <= 2 * num_skipped:
        raise UserError(
            expected=f"label maps (T, H, W) of the same frames, at least {2 * num_skipped + 1} of them",
            found=f"{gt.shape} and a prediction of {pred.shape}",
            remedy="give the whole sequence, with its first and last frame",
        )
    truth, found = gt.astype(np.int64), pred.astype(np.int64)
    scored = slice(num_skipped, len(gt) - num_skipped)
    if mode == "sa-v":
        return _sav_per_frame(truth[scored], found[scored])
    is_void = truth == _VOID
    truth[is_void] = 0
    num_objects, num_found = int(truth[0].max()), int(found[scored].max())
    allowed = _MAX_PROPOSALS if mode == "unsupervised" else num_objects
    if num_objects == 0 or num_found > allowed:
        raise UserError(
            expected=f"objects in the first frame, and predicted ids of at most {allowed} in {mode} evaluation",
            found=f"{num_objects} objects, and the predicted id {num_found}",
            remedy="number the objects as in the first frame; void is no prediction",
        )
    counts_void = not (mode == "unsupervised" if exclude_void is None else exclude_void)
    void = None if counts_void or not is_void.any() else is_void[scored]
    objects, proposals = range(1, num_objects + 1), range(1, max(num_objects, num_found) + 1)
    if mode == "semi-supervised":
        return {k: _j_and_f(truth[scored] == k, found[scored] == k, void) for k in objects}
    table = np.array(  # (O, P, 2, F)
        [[_j_and_f(truth[scored] == k, found[scored] == p, void) for p in proposals] for k in objects]
    )
    chosen = linear_sum_assignment(table.mean(axis=(2, 3)), maximize=True)[1]
    order = np.argsort(chosen) if by_proposal else np.arange(num_objects)
    return {number: table[k, chosen[k]] for number, k in enumerate(order, start=1)}


def _sav_per_frame(truth: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> dict[int, _FLOAT64]:
    values = {}
    for k in np.unique(truth[truth != 0]).tolist():
        appears = ((truth == k) | (found == k)).any(axis=(1, 2))
        frames = slice(int(np.argmax(appears)), None)
        values[int(k)] = _j_and_f(truth[frames] == k, found[frames] == k, None)
    if not values:
        raise UserError(
            expected="an object in the ground truth between the first and the last frame",
            found="none",
            remedy="leave out what has no object to find",
        )
    return values


def _j_and_f(
    truth: npt.NDArray[np.bool_], found: npt.NDArray[np.bool_], void: npt.NDArray[np.bool_] | None
) -> _FLOAT64:
    frames = [(found[t], truth[t], None if void is None else void[t]) for t in range(len(truth))]
    return np.array([[measure(*frame) for frame in frames] for measure in (mask_iou, davis_f)])


def sequence_statistics(values: npt.ArrayLike, uint8_bins: bool = False) -> tuple[float, float, float]:
    """Return mean, recall and decay of one object's values over frames (F,), F at least 1.

    Recall is the share of frames above 0.5. Decay is the mean of the first quarter less that of the last; neighbouring
    quarters share a frame.

    Args:
        values: In [0, 1].
        uint8_bins: True to count frames in 8 bits as the reference does: decay nan beyond 256 frames.

    Source: davis2017-evaluation `davis2017/utils.py::db_statistics` (ac7c43f).
    """
    frames = np.asarray(values, dtype=np.float64)
    # Halves go up: 1e-10 is the reference's.
    ends = (np.round(np.linspace(1, len(frames), 5) + 1e-10) - 1).astype(np.int64)
    if uint8_bins:
        ends %= 256
    quarters = [frames[ends[k] : ends[k + 1] + 1] for k in (0, 3)]
    first, last = (float(quarter.mean()) if quarter.size else float("nan") for quarter in quarters)
    return float(frames.mean()), float((frames > 0.5).mean()), first - last


class JAndF(Metric):
    """J, F and J&F over a data set: the mean over the objects of all sequences; see `davis_j_and_f` for the names.

    Args:
        mode: Whose rules.
        exclude_void: See `davis_j_and_f`.
        **kwargs: torchmetrics' own.
    """

    full_state_update = False
    sums: Tensor
    num_objects: Tensor

    def __init__(self, mode: Mode = "semi-supervised", *, exclude_void: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mode: Mode = mode
        self.exclude_void = exclude_void
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_objects", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, gt: npt.NDArray[Any], pred: npt.NDArray[Any]) -> None:
        """Add one sequence, or in "sa-v" one object of it; (T, H, W) each."""
        values = per_frame(gt, pred, self.mode, exclude_void=self.exclude_void)
        statistics = [[number for row in pair for number in sequence_statistics(row)] for pair in values.values()]
        self.sums += torch.tensor(statistics, dtype=torch.float64, device=self.sums.device).sum(dim=0)
        self.num_objects += len(statistics)

    def compute(self) -> dict[str, float]:
        """Return the means over all objects of all processes; nan without any."""
        return _named((self.sums / self.num_objects).cpu().numpy())


def _named(means: _FLOAT64) -> dict[str, float]:
    """Return mean, recall and decay of J and of F (6,) by their names, and J&F."""
    names = [f"{name}_{kind}" for name in "JF" for kind in ("Mean", "Recall", "Decay")]
    numbers = dict(zip(names, means.tolist(), strict=True))
    return {"JandF_Mean": (numbers["J_Mean"] + numbers["F_Mean"]) / 2} | numbers
