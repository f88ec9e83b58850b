"""`NanoPretraining`: supervised training of a small SAM-2; it only connects.

Next in the tour: `pretrain_export.py`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from unsam_lightning.backbone import build_sam, load_base
from unsam_lightning.decoder import Embedding
from unsam_lightning.losses.multimask import MultimaskTerms, multimask_terms
from unsam_lightning.pretrain_data import MAX_TARGETS, Phase, PhaseSampler, PromptBatch, ScenePrompts
from unsam_lightning.pretrain_optimizer import MuonAdamW
from unsam_lightning.pretrain_passes import decode_all, encode_with_gradient, set_frame
from unsam_lightning.pretrain_start import RegionHead, Start, learn_discs, start_local, steps_of
from unsam_lightning.prompts import correction_clicks


class NanoPretraining(LightningModule):
    """Trains a SAM-2 image model: clicks, boxes, corrections with a mask prompt.

    Args:
        architecture: A name or yaml that `backbone.build_sam` knows.
        weights: What to start from, a name or file that `backbone.load_base` knows; nothing starts from random weights.
        first_image: Number of the first scene; another one lets a run from `weights` see scenes those have not seen.
        phases: Sizes and steps, in order: small images first, because they cost a fraction.
        batch_size: Images in a batch of all processes together.
        num_prompts: Prompts for each image.
        box_share: Share of steps whose first prompt is a box instead of a click.
        correction_share: Share of prompts that get a second pass: a correction click, and the first pass's best mask as
            mask prompt.
        chain_weight: Weight of the other right answers of a click, against 1 for the wanted mask.
        region_weight: Of the head that teaches the encoder regions, see `pretrain_start.py`.
        lr: Learning rate after the warm-up.
        warmup_steps: Steps of linear warm-up.
        decay_share: Last share of all steps, in which the learning rate falls linearly to 0.
        weight_decay: Of matrices and filters.
        ema_decay: Of the running average of the weights, which is what is exported.
        disc_steps: Steps of the start without images, see `pretrain_start.py`; none from `weights`.
        num_workers: Processes that draw scenes, for each training process.
        seed: Of the start, the prompts and everything else drawn.
    """

    def __init__(
        self,
        architecture: str = "nano",
        weights: str | None = None,
        first_image: int = 0,
        phases: tuple[Phase, ...] = (Phase(frame=128, steps=20_000), Phase(frame=256, steps=10_000)),
        batch_size: int = 8,
        num_prompts: int = 16,
        box_share: float = 0.15,
        correction_share: float = 0.25,
        chain_weight: float = 0.5,
        region_weight: float = 1.0,
        lr: float = 1e-3,
        warmup_steps: int = 200,
        decay_share: float = 0.3,
        weight_decay: float = 0.05,
        ema_decay: float = 0.999,
        disc_steps: int = 200,
        num_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.phases, self.batch_size, self.num_prompts = phases, batch_size, num_prompts
        self.box_share, self.correction_share, self.chain_weight = box_share, correction_share, chain_weight
        self.lr, self.warmup_steps, self.decay_share = lr, warmup_steps, decay_share
        self.weight_decay, self.num_workers, self.seed = weight_decay, num_workers, seed
        self.architecture, self.first_image = architecture, first_image
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if weights is None:
                self.sam = build_sam(architecture)
                start_local(self.sam)
                self.start = Start(weights="random weights", sha256="", steps=0)
            else:
                base = load_base(weights, architecture)
                self.sam = base.sam
                self.start = Start(weights=base.name, sha256=base.sha256, steps=steps_of(weights))
            self.regions = RegionHead(self.sam.hidden_dim)
        self.disc_steps, self.region_weight = disc_steps if weights is None else 0, region_weight
        self.average = AveragedModel(self.sam, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
        self.average.requires_grad_(False)

    @property
    def num_steps(self) -> int:
        """Number of optimizer steps of the whole training."""
        return sum(phase.steps for phase in self.phases)

    def train_dataloader(self) -> DataLoader[PromptBatch]:
        """Return the batches from where the run stands."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        sampler = PhaseSampler(
            self.phases,
            self.batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            # Lightning saves this count in every checkpoint: it is the data position.
            batches_done=lambda: progress.total.processed,
            first_image=self.first_image,
        )
        return DataLoader(
            ScenePrompts(self.num_prompts, seed=self.seed),
            batch_sampler=sampler,
            num_workers=self.num_workers,
            prefetch_factor=4 if self.num_workers else None,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def on_train_start(self) -> None:
        """Learn discs, in a new run from random weights."""
        if self.global_step == 0 and self.disc_steps:
            set_frame(self.sam, self.phases[0].frame)
            torch.manual_seed(self.seed)  # the same on every rank, so that they start alike
            iou = learn_discs(self.sam, steps=self.disc_steps)
            print(f"discs around clicks are learnt to an IoU of {iou:.2f}")

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch and log its terms."""
        # Derived from the images: a resumed run draws the same numbers, ranks draw different ones.
        torch.manual_seed(self.seed + int(batch.number[0]))
        passes, regions, ious = self.step(batch)
        terms = MultimaskTerms(*(torch.stack(values).mean() for values in zip(*passes, strict=True)))
        loss = terms.single + terms.three + terms.iou + 0.05 * terms.score  # the score is 1 always: easily learnt
        loss = loss + self.region_weight * regions
        if not torch.isfinite(loss):  # before anything takes it in: weights, their average, a checkpoint
            raise RuntimeError(f"the loss is not finite at step {self.global_step}, scenes {batch.number.tolist()}")
        self.log("train/loss_regions", regions.detach())
        self.log_dict({f"train/loss_{name}": value.detach() for name, value in terms._asdict().items()})
        self.log_dict({f"train/iou_{name}": value for name, value in ious.items()}, prog_bar=True)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])
        return loss

    def step(self, batch: PromptBatch) -> tuple[list[MultimaskTerms], Tensor, dict[str, Tensor]]:
        """Return the loss terms of the passes, the region head's loss, and mean IoUs of the first pass for the log."""
        set_frame(self.sam, batch.images.shape[-1])
        embedding = encode_with_gradient(self.sam, batch.images)
        index = torch.arange(len(batch.images), device=self.device).repeat_interleave(batch.targets.shape[1])
        targets = batch.targets.flatten(0, 1).float() / 255  # (P, G, h, w)
        weights = batch.is_target.flatten(0, 1) * self._answer_weights()
        regions, region_iou = self.regions(embedding, batch.clicks_xy, targets, weights)
        if float(torch.rand(())) < self.box_share:
            points = batch.boxes.flatten(0, 1).reshape(-1, 2, 2)
            labels = torch.tensor([2, 3], device=self.device).expand(len(points), -1)
            weights = weights * (torch.arange(MAX_TARGETS, device=self.device) == 0)
        else:
            points = batch.clicks_xy.flatten(0, 1)[:, None]
            labels = torch.ones(points.shape[:2], dtype=torch.long, device=self.device)
        logits, iou, score = decode_all(self.sam, embedding, index, points, labels)
        terms, true_iou = multimask_terms(logits, iou, score, targets, weights)
        passes = [terms]
        chosen = torch.rand(len(points)).argsort()[: round(self.correction_share * len(points))].to(self.device)
        if len(chosen):
            passes.append(self._correct(embedding, index, points, labels, logits.detach(), true_iou, targets, chosen))
        own = true_iou[:, 1:].gather(1, iou[:, 1:].argmax(1, keepdim=True))
        best = true_iou[:, 1:].amax(1).mean()
        ious = {"single": true_iou[:, 0].mean(), "best": best, "own": own.mean(), "regions": region_iou}
        return passes, regions, ious

    def _correct(
        self,
        embedding: Embedding,
        index: Tensor,
        points: Tensor,
        labels: Tensor,
        logits: Tensor,
        true_iou: Tensor,
        targets: Tensor,
        chosen: Tensor,
    ) -> MultimaskTerms:
        """Return the terms of some prompts after one correction click on the best mask so far."""
        best = logits[chosen, true_iou[chosen].argmax(1)]  # (C, h, w)
        wanted = targets[chosen, :1]
        more_points, more_labels = correction_clicks(best, wanted[:, 0] > 0.5, None)
        logits, iou, score = decode_all(
            self.sam,
            embedding,
            index[chosen],
            torch.cat((points[chosen], more_points), 1),
            torch.cat((labels[chosen], more_labels), 1),
            best[:, None],
        )
        return multimask_terms(logits, iou, score, wanted, torch.ones_like(wanted[:, :, 0, 0]))[0]

    def _answer_weights(self) -> Tensor:
        return torch.tensor([1.0] + [self.chain_weight] * (MAX_TARGETS - 1), device=self.device)

    @property
    def origin(self) -> dict[str, Any]:
        """What a run cannot change on its way; with another it is another run."""
        return {"start": asdict(self.start), "first_image": self.first_image, "seed": self.seed}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the run is, for `pretrain` when it goes on and for the export."""
        settings = ("architecture", "batch_size", "num_prompts", "lr", "decay_share")
        about = self.origin | {name: getattr(self, name) for name in settings}
        checkpoint["pretraining"] = about | {"phases": [asdict(phase) for phase in self.phases]}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the new weights into the running average; here, for a checkpoint is written right after the step."""
        super().optimizer_step(*args, **kwargs)
        self.average.update_parameters(self.sam)

    def configure_optimizers(self) -> Any:
        """Return the optimizer with warm-up, a constant stretch and a linear decay to 0, by optimizer step.

        The constant stretch has no end of its own: a run from a checkpoint before the decay can be made longer.
        """
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        optimizer = MuonAdamW(trained, self.lr, self.weight_decay)
        total = self.num_steps
        decay_steps = max(1, round(self.decay_share * total))

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / max(1, self.warmup_steps), max(0.0, (total - step) / decay_steps))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
