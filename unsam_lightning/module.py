"""The LightningModule: it only connects data, model, objective and evaluation, and says what is trained and saved.

Next in the tour: `segment/interactive.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.asking import Prompting
from unsam_lightning.benchmarks.evaluate import EvaluationConfig, ImageResult, evaluate_sample
from unsam_lightning.benchmarks.kept import KeptResults
from unsam_lightning.checkpoint import adapter_state, load_adapter
from unsam_lightning.datamodule import BenchmarkItem
from unsam_lightning.errors import UserError
from unsam_lightning.losses.contrast import Contrast
from unsam_lightning.model import UnSAM
from unsam_lightning.objective import LossWeights, StepResult, training_objective
from unsam_lightning.teacher import Teacher, Teaching
from unsam_lightning.views import ViewPair


class UnSAMModule(LightningModule):
    """Trains a granularity adapter on a frozen SAM-2.

    Args:
        backbone: nano, tiny, small, base_plus, large, a hub id, a checkpoint path (SAM-2, official UnSAMv2 or ours).
        backbone_config: YAML of the backbone's architecture, for a size that has no name.
        backbone_base: Where a backbone that is one of our checkpoints finds its base, if not under its recorded name.
        adapter: Its shape: "default", "official", "compact", or the fields of `AdapterConfig`; a checkpoint of
            ours or an official UnSAMv2 brings its own shape along.
        losses: Weights of the terms.
        contrast: Of the patch contrast: which patches, how sharply.
        prompting: How the masks of a batch are asked for: corrections, boxes, memory.
        teaching: Of the consistency: whose answer teaches, and from when on.
        lr: Peak learning rate.
        min_lr: Learning rate at the end of the cosine.
        warmup_steps: Optimizer steps of linear warm-up.
        weight_decay: Of AdamW.
        compile: Compile encoder and decoder by `torch.compile`: minutes at the start, then faster steps.
        evaluation: What `validate` and `test` measure.
        seed: Of the adapter's random start.
    """

    def __init__(
        self,
        backbone: str = "nano",
        backbone_config: str | None = None,
        backbone_base: str | None = None,
        adapter: Literal["default", "official", "compact"] | AdapterConfig = "default",
        losses: LossWeights = LossWeights(),  # noqa: B008 - frozen, and the signature is where defaults live
        contrast: Contrast = Contrast(),  # noqa: B008
        prompting: Prompting = Prompting(),  # noqa: B008
        teaching: Teaching = Teaching(),  # noqa: B008
        lr: float = 1e-4,
        min_lr: float = 1e-5,
        warmup_steps: int = 0,
        weight_decay: float = 1e-5,
        compile: bool = False,
        evaluation: EvaluationConfig = EvaluationConfig(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (lr > 0 and min_lr >= 0 and warmup_steps >= 0):
            raise UserError(
                expected="lr > 0 and min_lr, warmup_steps of at least 0",
                found=f"lr {lr:g}, min_lr {min_lr:g}, warmup_steps {warmup_steps}",
                remedy="see --model.* in `fit --help`",
            )
        self.backbone, self.backbone_config, self.backbone_base = backbone, backbone_config, backbone_base
        self.seed = seed
        self.adapter = adapter if isinstance(adapter, AdapterConfig) else AdapterConfig.preset(adapter)
        self.compile_model = compile
        self.losses, self.contrast, self.prompting, self.teaching = losses, contrast, prompting, teaching
        self.teacher: Teacher | None = None
        self._teacher_state: dict[str, Any] | None = None
        self.evaluation = evaluation
        self.lr, self.min_lr, self.warmup_steps, self.weight_decay = lr, min_lr, warmup_steps, weight_decay
        self.run_config: str | None = None  # YAML of the run, for its checkpoints; the command line sets it
        self.kept: KeptResults | None = None  # of the evaluation under way; `BenchmarkCallback` sets it
        self.model: UnSAM

    @property
    def strict_loading(self) -> bool:
        """False: a checkpoint holds only what trained; `on_load_checkpoint` checks that strictly."""
        return False

    def configure_model(self) -> None:
        """Build the model; late, so that on several GPUs each process builds it for its own."""
        if not hasattr(self, "model"):
            with torch.device("cpu"):  # Lightning makes a GPU the default, whose generator gives another start
                model = self.pretrained(adapter=self.adapter, seed=self.seed)
            self.model = model.train()
            if self.compile_model:
                self.model.compile()

    def pretrained(self, **options: Any) -> UnSAM:
        """Return a new model of the backbone, in eval mode; `options` as of `UnSAM.from_pretrained`."""
        return UnSAM.from_pretrained(self.backbone, self.backbone_config, base=self.backbone_base, **options)

    def on_fit_start(self) -> None:
        """Say what trains, and make the teacher."""
        if self.losses.consistency > 0 and self.teaching.decay > 0:
            self.teacher = Teacher(self.model, self.teaching.decay)
            if self._teacher_state is not None:
                self.teacher.load(self._teacher_state)
        self.model.training_config = self.run_config
        rank_zero_info(self.model.size_report())

    def on_train_start(self) -> None:
        """Forget the dial's map, which is fitted anew after the training; not where there is nothing left to train."""
        self.model.calibration, self.model.is_tuned = None, True

    def training_step(self, pair: ViewPair, batch_idx: int) -> Tensor:
        """Return the loss of one batch and log its terms."""
        # One seed for dropout and for every click, derived from the batch: a resumed run draws the same numbers.
        torch.manual_seed(pair.seed)
        result = self.step(pair)
        self.log("train/loss", result.loss, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in result.terms.items()})
        self.log("train/num_masks", float(result.num_masks))
        return result.loss * self.share_of_masks(result.num_masks)

    def share_of_masks(self, num_masks: int) -> Tensor | float:
        """Return the masks of this process over the mean of all: DDP's mean of gradients then is that over all masks.

        Source: SAM-2's training divides by the number of objects of all processes.
        """
        if self.trainer.world_size == 1:
            return 1.0
        mine = torch.tensor(float(num_masks), device=self.device)
        mean = cast(Tensor, self.trainer.strategy.reduce(mine.clone(), reduce_op="mean"))
        return mine / mean.clamp(min=1.0)

    def step(self, pair: ViewPair) -> StepResult:
        """Return the losses of one batch, without logging them."""
        weights = replace(self.losses, consistency=self.losses.consistency * self.teaching.ramp(self.global_step))
        teacher = None
        if self.teacher is not None:
            # Before the step and not after it: a checkpoint is written between the two.
            self.teacher.follow(self.global_step)
            teacher = self.teacher.model
        return training_objective(self.model, pair, weights, self.prompting, teacher=teacher, contrast=self.contrast)

    def validation_step(self, item: BenchmarkItem, batch_idx: int) -> ImageResult:
        """Return what one benchmark image measures; `BenchmarkCallback` gathers the results of all ranks."""

        def measure() -> ImageResult:
            return evaluate_sample(self.model, item.sample, self.evaluation, dataset=item.dataset, index=item.index)

        return self.kept.measured(item.sample, item.dataset, item.index, measure) if self.kept else measure()

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
        checkpoint.update(adapter_state(self.model))
        if self.teacher is not None:
            checkpoint["teacher"] = self.teacher.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another base model or another adapter shape."""
        if "unsam" not in checkpoint:
            raise UserError(
                expected="a checkpoint that `fit` of this package wrote",
                found="one without the key 'unsam'",
                remedy="pass it as --model.backbone if it is a SAM-2 or an UnSAMv2 release",
            )
        load_adapter(self.model, checkpoint, "the checkpoint")
        self._teacher_state = checkpoint.get("teacher")
