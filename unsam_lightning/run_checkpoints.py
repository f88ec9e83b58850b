"""When a run's checkpoint is written, and how: it is whole under its name at any moment.

Next in the tour: `loggers.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from unsam_lightning.state_dicts import write_checkpoint


class Checkpoints(ModelCheckpoint):
    """Keeps `<run_dir>/checkpoints/last.ckpt`: from step 0 on, every so many steps, and at the very end.

    Args:
        run_dir: The run's folder.
        every: Optimizer steps between checkpoints.
    """

    def __init__(self, run_dir: Path, every: int) -> None:
        super().__init__(
            run_dir / "checkpoints",
            save_top_k=0,
            save_last=True,
            every_n_train_steps=every,
            save_on_train_epoch_end=False,
            # Else the checkpoints of a run that goes on in a folder that was moved would be last-v1.ckpt, which the
            # next run would not go on from.
            enable_version_counter=False,
        )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the start, so that a run killed before its first checkpoint is found again."""
        super().on_train_start(trainer, module)
        if trainer.global_step == 0:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the end; Lightning does so only if nothing was saved before."""
        super().on_train_end(trainer, module)
        # Also where the last step is saved already: `Calibrate` has been at work since.
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Say how a run that its user stopped goes on."""
        super().on_exception(trainer, module, exception)
        if isinstance(exception, KeyboardInterrupt) and Path(self.last_model_path).is_file():
            rank_zero_info(f"stopped; the same command with --ckpt_path last goes on from {self.last_model_path}")


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint aside in its own folder, then renames it.

    Lightning's own goes through the folder for temporary files. From there to another file system, as a cluster's, a
    move is a copy over the last checkpoint, and a kill in the middle leaves half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint; a `UserError` where that fails, and the last one is still there."""
        write_checkpoint(checkpoint, Path(path))

    @staticmethod
    def among(plugins: Any) -> list[Any]:
        """Return a Trainer's plugins with this one, unless they write checkpoints already."""
        given = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
        return given if any(isinstance(each, CheckpointIO) for each in given) else [*given, WholeCheckpoints()]
