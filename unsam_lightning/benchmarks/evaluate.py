"""One image through all benchmarks: what a rank does for each image of its share.

`evaluate_sample` needs no Trainer: a notebook can call it. Next in the tour: `benchmarks/tables.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from unsam_lightning.benchmarks.interactive import SessionResult, evaluate_interactive
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.whole_image import proposal_recall, propose_masks
from unsam_lightning.decoder import Embedding
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP
from unsam_lightning.model import UnSAM

#: IoUs to which clicks are counted: NoC80, NoC85, NoC90.
THRESHOLDS = (0.8, 0.85, 0.9)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and how finely.

    Args:
        fixed: Granularities of the sweep that are reported for themselves, with their sessions run to the end.
        max_clicks: Clicks of a session that does not reach the target.
        target: IoU that ends a session; not below the highest of `THRESHOLDS`.
        points_per_side: Grid of clicks for the whole-image proposals; 0 leaves them out.
        prompts_per_pass: Prompts decoded at a time; bounds the memory.
    """

    fixed: tuple[float, ...] = (0.1, 0.3, 0.6, 1.0)
    max_clicks: int = 20
    target: float = 0.9
    points_per_side: int = 16
    prompts_per_pass: int = 64

    def __post_init__(self) -> None:
        problems = [f"fixed granularity {g:g}, not one of {SWEEP}" for g in self.fixed if g not in SWEEP]
        problems += [f"target {self.target:g}, below {max(THRESHOLDS)}"] if self.target < max(THRESHOLDS) else []
        lowest = {"max_clicks": 1, "prompts_per_pass": 1, "points_per_side": 0}
        problems += [f"{name} {getattr(self, name)}" for name, low in lowest.items() if getattr(self, name) < low]
        if problems:
            raise UserError(
                expected="an evaluation that the tables can be made of",
                found="; ".join(problems),
                remedy="see EvaluationConfig, or `--help` under --model.evaluation",
            )


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """Everything measured on one image, plain values only: it travels between ranks.

    Args:
        dataset: Name of the data set.
        index: Position of the image in it; results are put in this order, whoever measured them.
        key: Name of the image.
        num_masks: Ground-truth masks.
        sessions: Click sessions of all masks and methods.
        recall: "base", "tuned" (all ten g) or "tuned g = 0.3" -> "AR@1000" etc. of this image's proposals; empty if
            left out or without masks.
    """

    dataset: str
    index: int
    key: str
    num_masks: int
    sessions: list[SessionResult]
    recall: dict[str, dict[str, float]] = field(default_factory=dict)


@torch.no_grad()
def evaluate_sample(
    model: UnSAM, sample: EvalSample, config: EvaluationConfig, *, dataset: str = "", index: int = 0
) -> ImageResult:
    """Return the results of the tuned model and of its untouched base on one image, which is encoded once.

    Args:
        model: In eval mode.
        sample: The image with its ground truth.
        config: What is measured.
        dataset: Recorded in the result.
        index: Recorded in the result.
    """
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(model.device)
    embedding = model.encode(image)
    sessions = evaluate_interactive(
        model,
        embedding,
        sample,
        fixed=config.fixed,
        max_clicks=config.max_clicks,
        target=config.target,
        prompts_per_pass=config.prompts_per_pass,
    )
    recall = _recall(model, embedding, sample, config) if config.points_per_side and len(sample.masks) else {}
    return ImageResult(
        dataset=dataset, index=index, key=sample.key, num_masks=len(sample.masks), sessions=sessions, recall=recall
    )


def _recall(
    model: UnSAM, embedding: Embedding, sample: EvalSample, config: EvaluationConfig
) -> dict[str, dict[str, float]]:
    """Return the recall of whole-image proposals: the base's, the tuned model's at each fixed g, and of all ten."""
    found = {}
    for granularities in (None, SWEEP):
        proposals = propose_masks(
            model,
            embedding,
            granularities=granularities,
            points_per_side=config.points_per_side,
            prompts_per_pass=config.prompts_per_pass,
        )
        if granularities is None:
            found["base"] = proposal_recall(proposals.distinct(), sample)
            continue
        found["tuned"] = proposal_recall(proposals.distinct(), sample)
        for g in config.fixed:
            at_g = proposals.select((proposals.granularity - g).abs() < 0.01)
            found[f"tuned g = {g:g}"] = proposal_recall(at_g.distinct(), sample)
    return found
