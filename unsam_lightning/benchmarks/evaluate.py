"""One image through all benchmarks: what a rank does for each image of its share.

`evaluate_sample` needs no Trainer: a notebook can call it. Next in the tour: `benchmarks/kept.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch

from unsam_lightning.benchmarks.baselines import felzenszwalb_masks, otsu_masks
from unsam_lightning.benchmarks.boundaries import boundary_counts
from unsam_lightning.benchmarks.dial_sweeps import DialSweeps
from unsam_lightning.benchmarks.interactive import evaluate_interactive
from unsam_lightning.benchmarks.sample import EvalSample, Remark
from unsam_lightning.benchmarks.sessions import SessionResult
from unsam_lightning.benchmarks.whole_image import Proposals, mask_recall, proposal_recall, propose_masks
from unsam_lightning.decoder import Embedding
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.clicker import Clicker
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import Precision, image_tensor

#: IoUs to which clicks are counted: NoC80, NoC85, NoC90; also NoC95 where the target is as high.
THRESHOLDS = (0.8, 0.85, 0.9)
HIGHEST_THRESHOLD = 0.95

#: Clicks of a session that does not reach its target, in RITM's, SimpleClick's and GraCo's protocol.
PROTOCOL_CLICKS = 20

#: Of which proposals contours are made.
CONTOURED = ("base", "tuned", "base, equal calls", "tuned and base, equal calls")

#: Granularities that share the decoder calls with the base's three masks; every other one of the sweep.
SHARING = SWEEP[1::2]

#: A metric's states as plain lists, which travel between ranks and add up.
State = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and how finely.

    Args:
        fixed: Granularities of the sweep that are reported for themselves, with their sessions run to the end.
        max_clicks: Clicks of a session that does not reach the target; the protocol has 20. With fewer NoC is lower and
            GraCo's choice nearer to the best of ten, and the tables name the limit; with 1 they have neither.
        target: IoU that ends a session; not below 0.9. From 0.95 on there is a NoC95.
        points_per_side: Grid of clicks for the whole-image proposals; 0 leaves them out.
        equal_calls: Also judge the base on a grid of sqrt(10) times the points a side: as many decoder calls as the
            union of ten granularities, and three times its masks. And five of the ten granularities together with the
            base on a grid of half of these calls.
        felzenszwalb: Also judge Felzenszwalb's regions as whole-image proposals; needs scikit-image.
        memory_gb: Bounds what the decoder and the sessions hold at a time, model and image embedding not counted.
        precision: Of the decoder on a CPU: "bfloat16" takes half the time where the processor has instructions for it.
    """

    fixed: tuple[float, ...] = (0.1, 0.3, 0.6, 1.0)
    max_clicks: int = PROTOCOL_CLICKS
    target: float = 0.9
    points_per_side: int = 16
    equal_calls: bool = False
    felzenszwalb: bool = False
    memory_gb: float = 2.0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        problems = [f"fixed granularity {g:g}, not one of {SWEEP}" for g in self.fixed if g not in SWEEP]
        problems += [f"target {self.target:g}, below {max(THRESHOLDS)}"] if self.target < max(THRESHOLDS) else []
        lowest = {"max_clicks": 1, "points_per_side": 0, "memory_gb": 0.01}
        problems += [f"precision {self.precision}"] if self.precision not in get_args(Precision) else []
        problems += [f"{name} {getattr(self, name)}" for name, low in lowest.items() if getattr(self, name) < low]
        if problems:
            raise UserError(
                expected="an evaluation that the tables can be made of",
                found="; ".join(problems),
                remedy="see EvaluationConfig, or `--help` under --model.evaluation",
            )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """IoUs to which clicks can be counted; none where every session has one click."""
        if self.max_clicks == 1:
            return ()
        return (*THRESHOLDS, HIGHEST_THRESHOLD) if self.target >= HIGHEST_THRESHOLD else THRESHOLDS


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """Everything measured on one image, plain values only: it travels between ranks and into files.

    Args:
        dataset: Name of the data set.
        index: Position of the image in it; results are put in this order, whoever measured them.
        key: Name of the image.
        num_masks: Ground-truth masks.
        sessions: Click sessions of all masks and methods.
        area_px: Pixels of every ground-truth mask, by its name.
        otsu: IoU of the two sides of Otsu's threshold with every mask, by its name: {"bright": ..., "dark": ...}.
        dial: State of `metrics.dial.Dial`; empty without masks.
        recall: "base", "base, equal calls", "tuned" (all ten g), "tuned g = 0.3",
            "tuned and base, equal calls" or "felzenszwalb" -> state of
            `metrics.proposals.AverageRecall` of this image's proposals; empty if left out or without masks.
        boundaries: one of `CONTOURED` -> state of `metrics.boundary_bsds.BSDSBoundary`; empty where the masks are no
            segmentations.
        remarks: What the reader and the evaluation found odd: name of the mask, reason, detail, whether it was used.
    """

    dataset: str
    index: int
    key: str
    num_masks: int
    sessions: list[SessionResult]
    area_px: dict[str, int] = field(default_factory=dict)
    otsu: dict[str, dict[str, float]] = field(default_factory=dict)
    dial: State = field(default_factory=dict)
    recall: dict[str, State] = field(default_factory=dict)
    boundaries: dict[str, State] = field(default_factory=dict)
    remarks: list[tuple[str, str, str, bool]] = field(default_factory=list)


@torch.no_grad()
def evaluate_sample(
    model: UnSAM, sample: EvalSample, config: EvaluationConfig, *, dataset: str = "", index: int = 0
) -> ImageResult:
    """Return the results of the tuned model and of its untouched base on one image, which is encoded once.

    Args:
        model: In eval mode.
        sample: The image with its ground truth. Masks without a pixel are left out and remarked on; an image without
            masks is not looked at.
        config: What is measured.
        dataset: Recorded in the result.
        index: Recorded in the result.
    """
    sample = _without_empty(sample)
    remarks = [(one.mask_id, one.reason, one.detail, one.kept) for one in sample.remarks]
    if not sample.ids:
        return ImageResult(dataset=dataset, index=index, key=sample.key, num_masks=0, sessions=[], remarks=remarks)
    image = image_tensor(sample.image, model.device)
    embedding = model.encode(image)
    sweeps = DialSweeps(model, embedding, sample, config.memory_gb, config.precision)
    sessions = evaluate_interactive(
        model,
        embedding,
        sample,
        fixed=config.fixed,
        max_clicks=config.max_clicks,
        target=config.target,
        memory_gb=config.memory_gb,
        precision=config.precision,
        on_sweep=sweeps,
    )
    proposals = _propose(model, embedding, config) if config.points_per_side else {}
    boundaries = boundary_counts({name: proposals[name] for name in CONTOURED if name in proposals}, sample)
    recall = {name: _state(proposal_recall(found.distinct(), sample)) for name, found in proposals.items()}
    if config.felzenszwalb:
        recall["felzenszwalb"] = _state(mask_recall(felzenszwalb_masks(sample.image), sample))
    return ImageResult(
        dataset=dataset,
        index=index,
        key=sample.key,
        num_masks=len(sample.masks),
        sessions=sessions,
        area_px={name: int(np.count_nonzero(mask == 1)) for name, mask in zip(sample.ids, sample.masks, strict=True)},
        otsu=_otsu(sample),
        dial=_state(sweeps.dial),
        recall=recall,
        boundaries={name: _state(metric) for name, metric in boundaries.items()},
        remarks=remarks,
    )


def _without_empty(sample: EvalSample) -> EvalSample:
    """Return a sample without the masks that have no pixel, and with a remark on each."""
    filled = (sample.masks == 1).any(axis=(1, 2))
    if filled.all():
        return sample
    names = [name for name, is_filled in zip(sample.ids, filled, strict=True) if not is_filled]
    remarks = [*sample.remarks, *(Remark(name, "no pixel of the object", "left out") for name in names)]
    kept = [name for name in sample.ids if name not in names]
    return replace(sample, masks=sample.masks[filled], ids=kept, remarks=remarks)


def _otsu(sample: EvalSample) -> dict[str, dict[str, float]]:
    sides = otsu_masks(sample.image)
    return {
        name: {side: float(np.float32(Clicker(mask).iou(found))) for side, found in sides.items()}
        for name, mask in zip(sample.ids, sample.masks, strict=True)
    }


def _state(metric: Any) -> State:
    """Return a metric's states as plain lists."""
    return {name: value.tolist() for name, value in metric.metric_state.items()}


def _propose(model: UnSAM, embedding: Embedding, config: EvaluationConfig) -> dict[str, Proposals]:
    """Return the whole-image proposals of the base, of the tuned model at all ten g, at each fixed g, and of both."""

    def propose(granularities: tuple[float, ...] | None, points_per_side: int) -> Proposals:
        return propose_masks(
            model,
            embedding,
            granularities=granularities,
            points_per_side=points_per_side,
            memory_gb=config.memory_gb,
            precision=config.precision,
        )

    base, tuned = (propose(granularities, config.points_per_side) for granularities in (None, SWEEP))
    found = {"base": base, "tuned": tuned}
    found |= {f"tuned g = {g:g}": tuned.select((tuned.granularity - g).abs() < 0.01) for g in config.fixed}
    if config.equal_calls:
        found["base, equal calls"] = propose(None, round(config.points_per_side * len(SWEEP) ** 0.5))
        finer = int(config.points_per_side * (len(SWEEP) - len(SHARING)) ** 0.5)
        share = torch.isin(tuned.granularity, tuned.granularity.new_tensor(SHARING))
        found["tuned and base, equal calls"] = tuned.select(share).joined(propose(None, finer))
    return found
