"""What a run shows and guards: progress with data_wait, calibration, a stop on bad losses, pictures.

Next in the tour: `run_checkpoints.py`.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from unsam_lightning.calibration import fit_calibration
from unsam_lightning.datamodule import UnSAMData
from unsam_lightning.metrics.dial import effective_granularity
from unsam_lightning.pairs import decode_masks
from unsam_lightning.prompts import deepest_pixel
from unsam_lightning.segment.interactive import Predictor
from unsam_lightning.segment.render import mark_clicks, overlay, paint_hierarchy, tile_rows, write_png
from unsam_lightning.state_dicts import write_checkpoint
from unsam_lightning.views import ViewPair


class Progress(TQDMProgressBar):
    """Progress bar with loss, rate, remaining time and `data_wait`: the share of time spent waiting for data."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)
        self._waited = self._worked = 0.0
        self._mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Start the clock."""
        super().on_train_epoch_start(trainer, *args)
        self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Time since the last step was waiting for data, augmentation included."""
        now = time.perf_counter()
        self._waited, self._mark = self._waited + now - self._mark, now
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Time since the batch arrived was work."""
        now = time.perf_counter()
        self._worked, self._mark = self._worked + now - self._mark, now
        pl_module.log("perf/data_wait", self._waited / max(self._waited + self._worked, 1e-9))
        super().on_train_batch_end(trainer, pl_module, *args)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what the bar shows beside the rate."""
        shown = {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
        total = self._waited + self._worked
        return {**shown, "data_wait": f"{self._waited / total:.0%}"} if total else dict(shown)


class Calibrate(Callback):
    """Fits the dial's map on held-out images at the end of `fit`, before the last checkpoint is saved.

    Args:
        clicks_per_image: Clicks, each deepest inside a pseudo-mask, spread over the image's masks.
    """

    STEPS = np.linspace(0.1, 1.0, 19).round(2).tolist()

    def __init__(self, clicks_per_image: int = 8) -> None:
        self.clicks_per_image = clicks_per_image
        self._tried_at: int | None = None  # the step after which it was fitted, or refused

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: whether this was done already."""
        return {"tried_at": self._tried_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._tried_at = state_dict["tried_at"]

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """Measure and fit; every process does the same and finds the same."""
        self._calibrate(trainer, module)

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        """Calibrate a resumed run that was killed between its last step and its calibration."""
        if module.model.calibration is not None or trainer.global_step in (0, self._tried_at):
            return
        module.to(trainer.strategy.root_device)  # Lightning has taken it off already
        if self._calibrate(trainer, module):
            for each in trainer.checkpoint_callbacks:
                each.on_train_end(trainer, module)

    @torch.no_grad()
    def _calibrate(self, trainer: Trainer, module: Any) -> bool:
        """Return whether there was anything to measure."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, UnSAMData) or not hasattr(data, "pairs") or not data.held_out:
            return False
        was_training = module.training
        module.eval()
        effective = [row for index in data.held_out for row in self._sizes(module.model, *data.pairs.read(index)[1:])]
        module.train(was_training)
        module.model.calibration = fit_calibration(self.STEPS, np.asarray(effective).reshape(-1, len(self.STEPS)))
        self._tried_at = trainer.global_step
        rank_zero_info(f"dial: {module.model.calibration or 'not calibrated, for its answers do not grow'}")
        return True

    def _sizes(self, model: Any, image: npt.NDArray[np.uint8], label: dict[str, Any]) -> list[npt.NDArray[np.float64]]:
        masks = decode_masks([entry["rle"] for entry in label["masks"]], label["height"], label["width"])
        chosen = masks[np.linspace(0, len(masks) - 1, min(self.clicks_per_image, len(masks))).astype(int)]
        predictor = Predictor(model, image)
        answers = (predictor.predict([deepest_pixel(mask)], [1], self.STEPS).masks for mask in chosen)
        return [effective_granularity(answer.sum((1, 2))) for answer in answers]


class Guard(Callback):
    """Stops a run whose loss is not finite, before it is saved, and keeps the batch.

    Args:
        run_dir: Where that batch is saved, as `non_finite.pt`.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: ViewPair, batch_idx: int
    ) -> None:
        """Look at the loss; on a GPU the host waits for the step here, the price of never saving a broken run."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is None or bool(torch.isfinite(loss).all()):
            return
        write_checkpoint({"views": asdict(batch), "step": trainer.global_step}, self.run_dir / "non_finite.pt")
        terms = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
        raise RuntimeError(
            f"the loss is not finite at step {trainer.global_step}: {terms}; images {', '.join(batch.keys)}; "
            f"the batch is in {self.run_dir / 'non_finite.pt'}"
        )


class Panels(Callback):
    """Pictures of some training images: pseudo-masks by granularity, the base's and the tuned model's masks.

    Written at the start and the end of `fit` and at each of its validations.

    Args:
        run_dir: Pictures go to `<run_dir>/panels/step_<n>.png` and to W&B.
        num_images: Rows of the picture, one click each.
    """

    GRANULARITIES = (0.1, 0.3, 0.6, 1.0)

    def __init__(self, run_dir: Path, num_images: int = 6) -> None:
        self.run_dir, self.num_images = run_dir, num_images

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw the start."""
        self._draw(trainer, module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw the state at a validation of `fit`."""
        if trainer.state.fn == "fit":
            self._draw(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw the end."""
        self._draw(trainer, module)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw the end of a run that was killed after its last step."""
        self._draw(trainer, module)

    def _draw(self, trainer: Trainer, module: Any) -> None:
        path = self.run_dir / "panels" / f"step_{trainer.global_step:06d}.png"
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        is_there = isinstance(data, UnSAMData) and hasattr(data, "pairs")  # no pairs without training batches
        if not trainer.is_global_zero or path.is_file() or not is_there:
            return
        was_training = module.training
        module.eval()
        dataset = data.pairs
        picked = np.linspace(0, len(dataset) - 1, min(self.num_images, len(dataset))).astype(int)
        rows = [panel_row(module.model, *dataset.read(int(index))[1:]) for index in picked]
        module.train(was_training)
        if not any(rows):
            return  # none of these images has a mask
        captions = ["click", "pseudo-masks by g", "base", *(f"tuned, g = {g:g}" for g in self.GRANULARITIES)]
        picture = tile_rows([row for row in rows if row], captions)
        write_png(path, picture)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("panels", [picture], step=trainer.global_step)


def panel_row(model: Any, image: npt.NDArray[np.uint8], label: dict[str, Any]) -> list[npt.NDArray[np.uint8]]:
    """Return the tiles of one image: click, pseudo-masks, the base's mask, the tuned model's at four granularities.

    The click lies deepest inside the largest pseudo-mask. Empty for an image without masks.
    """
    masks = decode_masks([entry["rle"] for entry in label["masks"]], label["height"], label["width"])
    if len(masks) == 0:
        return []
    granularity = [entry["granularity"] for entry in label["masks"]]
    largest = masks[int(masks.sum((1, 2)).argmax())]
    click = [deepest_pixel(largest)]
    predictor = Predictor(model, image)
    base = predictor.predict(click, [1], None).masks
    tuned = predictor.predict(click, [1], Panels.GRANULARITIES).masks
    predicted = [mark_clicks(overlay(image, mask), click, [1]) for mask in (*base, *tuned)]
    return [mark_clicks(image, click, [1]), paint_hierarchy(image, masks, granularity), *predicted]
