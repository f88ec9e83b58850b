"""The LightningModule: it only connects views, model and losses, and says what is trained and saved.

`step` returns its result and logs nothing, so that a test, a benchmark and `training_step` share it.
Next in the tour: `benchmarks/interactive.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from unsam_lightning.benchmarks.evaluate import EvaluationConfig, ImageResult, evaluate_sample
from unsam_lightning.checkpoint import describe_adapter, load_adapter
from unsam_lightning.datamodule import BenchmarkItem
from unsam_lightning.decoder import AdapterConfig
from unsam_lightning.errors import UserError
from unsam_lightning.losses.consistency import consistency_loss
from unsam_lightning.losses.contrast import patch_contrast_loss
from unsam_lightning.losses.pairs import PairTerms, pair_terms
from unsam_lightning.model import Decoded, Embedding, UnSAM
from unsam_lightning.prompts import correction_clicks, first_clicks, propagate_clicks
from unsam_lightning.views import ViewPair, warp_maps


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each term; 0 switches a term off and costs nothing.

    Args:
        focal: Focal loss of the granularity pairs.
        dice: Dice loss of the pairs.
        iou: L1 error of the predicted IoU.
        consistency: Cross-view consistency.
        contrast: Patch contrast.
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    consistency: float = 0.5
    contrast: float = 0.1

    def pairs(self, terms: PairTerms) -> Tensor:
        """Return the weighted sum of the pair terms."""
        return self.focal * terms.focal + self.dice * terms.dice + self.iou * terms.iou


@dataclass(slots=True)
class StepResult:
    """What one step gives: the loss to minimise and its terms for the log, all numbers without gradients but the first.

    Args:
        loss: The weighted sum.
        terms: "loss_pairs", "loss_consistency", ...: unweighted values, detached.
        num_masks: Masks that took part.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    num_masks: int


class UnSAMModule(LightningModule):
    """Trains a granularity adapter on a frozen SAM-2.

    Args:
        backbone: nano, tiny, small, base_plus, large, a hub id, a checkpoint path (SAM-2, official UnSAMv2 or ours).
        backbone_config: YAML of the backbone's architecture, for a size that has no name.
        adapter: Preset of the adapter's shape, "default", "official" or "compact".
        losses: Weights of the terms.
        num_corrections: Correction clicks after the first click, each a decoder pass with the previous mask.
        lr: Peak learning rate.
        min_lr: Learning rate at the end of the cosine.
        warmup_steps: Optimizer steps of linear warm-up.
        weight_decay: Of AdamW.
        evaluation: What `validate` and `test` measure.
        seed: Of the adapter's random start.
    """

    def __init__(
        self,
        backbone: str = "nano",
        backbone_config: str | None = None,
        adapter: Literal["default", "official", "compact"] = "default",
        losses: LossWeights = LossWeights(),
        num_corrections: int = 3,
        lr: float = 1e-4,
        min_lr: float = 1e-5,
        warmup_steps: int = 0,
        weight_decay: float = 1e-5,
        evaluation: EvaluationConfig = EvaluationConfig(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone, self.backbone_config, self.seed = backbone, backbone_config, seed
        self.adapter = AdapterConfig.preset(adapter)
        self.losses = losses
        self.evaluation = evaluation
        self.num_corrections = num_corrections
        self.lr, self.min_lr, self.warmup_steps, self.weight_decay = lr, min_lr, warmup_steps, weight_decay
        self.model: UnSAM

    @property
    def strict_loading(self) -> bool:
        """False: a checkpoint holds only what trained; `on_load_checkpoint` checks that strictly."""
        return False

    def configure_model(self) -> None:
        """Build the model; late, so that on several GPUs each process builds it for its own."""
        if not hasattr(self, "model"):
            self.model = UnSAM.from_pretrained(
                self.backbone, self.backbone_config, adapter=self.adapter, seed=self.seed
            ).train()

    def training_step(self, pair: ViewPair, batch_idx: int) -> Tensor:
        """Return the loss of one batch and log its terms."""
        # One seed for dropout and for every click, derived from the batch: a resumed run draws the same numbers.
        torch.manual_seed(pair.seed)
        result = self.step(pair)
        self.log("train/loss", result.loss, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in result.terms.items()})
        self.log("train/num_masks", float(result.num_masks))
        return result.loss

    def step(self, pair: ViewPair, generator: torch.Generator | None = None) -> StepResult:
        """Return the three losses on two views of a batch.

        Args:
            pair: The views; on this module's device.
            generator: Source of the clicks; the global one by default.
        """
        chosen = (pair.first.valid & pair.second.valid).nonzero()  # (P, 2): image, mask
        image_index, mask_index = chosen.unbind(1)
        granularity = pair.granularity[image_index, mask_index]
        both = self.model.encode(torch.cat((pair.first.images, pair.second.images)))
        first, second = _split(both)
        masks = pair.first.masks[image_index, mask_index]  # (P, h, w)
        clicks = first_clicks(masks, generator)  # (P, 1, 2)
        decoded = self._decode(first, image_index, clicks, granularity)
        pairs = [pair_terms(decoded.masks[:, 0], masks, decoded.iou[:, 0])]
        pairs += self._corrections(first, image_index, clicks, granularity, masks, decoded, generator)
        terms = {"loss_focal": pairs[0].focal, "loss_dice": pairs[0].dice, "loss_iou": pairs[0].iou}
        pairs_loss = torch.stack([self.losses.pairs(each) for each in pairs]).mean()
        loss, terms = pairs_loss, {**terms, "loss_pairs": pairs_loss}
        if self.losses.consistency > 0:
            terms["loss_consistency"] = self._consistency(pair, second, image_index, clicks, granularity, decoded)
            loss = loss + self.losses.consistency * terms["loss_consistency"]
        if self.losses.contrast > 0:
            assert decoded.pixels is not None
            seen = pair.first.seen[image_index]
            terms["loss_contrast"] = patch_contrast_loss(decoded.pixels, masks, seen, generator)
            loss = loss + self.losses.contrast * terms["loss_contrast"]
        return StepResult(loss, {name: value.detach() for name, value in terms.items()}, len(chosen))

    def _decode(
        self,
        embedding: Embedding,
        index: Tensor,
        clicks: Tensor,
        granularity: Tensor,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Decoded:
        """Decode prompts of several images; clicks without labels are inside."""
        if labels is None:
            labels = torch.ones(clicks.shape[:2], device=clicks.device)
        return self.model.decode(embedding, clicks, labels, granularity, masks=masks, image_index=index)

    def _corrections(
        self,
        embedding: Embedding,
        index: Tensor,
        clicks: Tensor,
        granularity: Tensor,
        masks: Tensor,
        decoded: Decoded,
        generator: torch.Generator | None,
    ) -> list[PairTerms]:
        """Return the pair terms after each correction click; the previous logits are the mask prompt."""
        terms = []
        labels = torch.ones(clicks.shape[:2], dtype=torch.long, device=clicks.device)
        for _ in range(self.num_corrections):
            logits = decoded.masks.detach()
            more_clicks, more_labels = correction_clicks(logits[:, 0], masks, generator)
            clicks, labels = torch.cat((clicks, more_clicks), 1), torch.cat((labels, more_labels), 1)
            decoded = self._decode(embedding, index, clicks, granularity, labels=labels, masks=logits)
            terms.append(pair_terms(decoded.masks[:, 0], masks, decoded.iou[:, 0]))
        return terms

    def _consistency(
        self,
        pair: ViewPair,
        second: Embedding,
        index: Tensor,
        clicks: Tensor,
        granularity: Tensor,
        teacher: Decoded,
    ) -> Tensor:
        """Return the consistency loss: prompts go through the warp to the second view, so does the teacher's mask."""
        matrix = pair.warp()[index]
        moved, visible = propagate_clicks(clicks, matrix, pair.second.seen[index])
        keep = visible.nonzero()[:, 0]
        student = self._decode(second, index[keep], moved[keep], granularity[keep])
        logits = torch.cat((teacher.masks.detach(), torch.ones_like(teacher.masks)), 1)[keep]
        warped = warp_maps(logits, matrix[keep])  # the second channel is 1 where the first view saw anything
        shown = warp_maps(pair.first.seen[index[keep], None].float(), matrix[keep])[:, 0] > 0.99
        both_see = shown & (warped[:, 1] > 0.99) & pair.second.seen[index[keep]]
        return consistency_loss(student.masks[:, 0], warped[:, 0], both_see)

    def validation_step(self, item: BenchmarkItem, batch_idx: int) -> ImageResult:
        """Return what one benchmark image measures; `BenchmarkCallback` gathers the results of all ranks."""
        return evaluate_sample(self.model, item.sample, self.evaluation, dataset=item.dataset, index=item.index)

    def test_step(self, item: BenchmarkItem, batch_idx: int) -> ImageResult:
        """Return what one benchmark image measures, as in `validation_step`."""
        return self.validation_step(item, batch_idx)

    def configure_optimizers(self) -> Any:
        """Return AdamW over what trains, with linear warm-up and a cosine by optimizer step."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        floor = self.min_lr / self.lr

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            progress = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what trained, and say what it belongs to."""
        trained = {f"model.{name}" for name in self.model.trained_names()}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["unsam"] = describe_adapter(self.model)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another base model or another adapter shape."""
        if "unsam" not in checkpoint:
            raise UserError(
                expected="a checkpoint that `fit` of this package wrote",
                found="one without the key 'unsam'",
                remedy="pass it as --model.backbone if it is a SAM-2 or an UnSAMv2 release",
            )
        load_adapter(self.model, checkpoint, "the checkpoint")


def _split(both: Embedding) -> tuple[Embedding, Embedding]:
    """Return the embeddings of the first and the second half of the images."""
    half = len(both.image) // 2
    parts = [
        Embedding(both.image[s], (both.high_res[0][s], both.high_res[1][s])) for s in (slice(half), slice(half, None))
    ]
    return parts[0], parts[1]
