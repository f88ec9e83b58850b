"""When a run's checkpoint is written, and how: whole under its name at any moment, and also on SLURM's warning.

Next in the tour: `loggers.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
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

    def save(self, trainer: Trainer) -> None:
        """Save now; every process calls it."""
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the start, so that a run killed before its first checkpoint is found again."""
        super().on_train_start(trainer, module)
        if trainer.global_step == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the end; Lightning does so only if nothing was saved before."""
        super().on_train_end(trainer, module)
        # Also where the last step is saved already: `Calibrate` has been at work since.
        self.save(trainer)

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take back the count of a step that had begun and not ended when it was saved: its batch comes again."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            if counts["ready"] > counts["processed"]:
                counts["ready"] = counts["started"] = counts["processed"]
                progress["is_last_batch"] = False

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Say how a run that its user stopped goes on."""
        super().on_exception(trainer, module, exception)
        if isinstance(exception, KeyboardInterrupt) and Path(self.last_model_path).is_file():
            rank_zero_info(f"stopped; the same command with --ckpt_path last goes on from {self.last_model_path}")


class Requeue(Callback):
    """Has SLURM requeue the job when it warns of the time limit (SIGUSR1), with all that was trained in `last.ckpt`.

    Lightning would save at the signal itself, mostly inside a step: weights, optimizer and counts of different moments,
    without the gradients that have gathered. It would also load that file into whatever the requeued job runs first,
    such as the encoder of the labels. Here a warning waits for the end of the optimizer step under way, and all
    processes save at the same one. Labels, validations and tests keep their results on disk and are requeued at once: a
    validation inside `fit` comes again, after the steps since the last checkpoint.
    """

    def __init__(self) -> None:
        self._listens = self._is_warned = self._trains = self._is_requeued = False
        self._step = 0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Listen, in a job; Lightning leaves a signal alone that has a handler already."""
        job = trainer._accelerator_connector.cluster_environment
        self._listens, self._trains = isinstance(job, SLURMEnvironment) and job.auto_requeue, False
        if self._listens:
            signal.signal(job.requeue_signal or signal.SIGUSR1, partial(self._on_warning, trainer, os.getpid()))

    def _on_warning(self, trainer: Trainer, process: int, *args: object) -> None:
        if os.getpid() != process:
            return  # a loader's worker, which has the handler from the process that it was forked from
        self._is_warned = True
        if not (self._trains and trainer.training):
            self._answer(trainer)

    def _answer(self, trainer: Trainer) -> None:
        if self._is_warned and trainer.is_global_zero and not self._is_requeued:
            self._is_requeued = requeue()
        self._is_warned = False  # the warning of another process may still come

    def _save(self, trainer: Trainer) -> None:
        savers = [each for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoints)]
        if not savers and self._is_warned:  # the job would begin anew each time
            rank_zero_info("not requeued: this run writes no checkpoints (--trainer.enable_checkpointing)")
            self._is_warned = False
        for each in savers:
            each.save(trainer)
        for logger in trainer.loggers:
            logger.save()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """From now on a warning waits."""
        self._trains = True

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Note which optimizer step this batch is of."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Answer after an optimizer step; between two of them gradients gather, which no checkpoint holds."""
        if not self._listens or trainer.global_step == self._step:
            return
        # Never set to False by what was known before: a warning can come while the processes ask each other.
        if trainer.strategy.reduce_boolean_decision(self._is_warned, all=False):
            self._is_warned = True
            self._save(trainer)
            self._answer(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save before the dial is calibrated, as before a validation."""
        self._trains = False
        if self._listens:
            self._save(trainer)
            self._answer(trainer)


def requeue() -> bool:
    """Ask SLURM to put this job into its queue again; say whether it does, and why not."""
    job = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], check=False, capture_output=True, text=True)
        found = f"{done.stderr.strip()} ({done.returncode})" if done.returncode else ""
    except OSError as error:
        found = str(error)
    said = f"not requeued: scontrol requeue {job}: {found}" if found else f"job {job} is requeued"
    os.write(2, f"{said}\n".encode())  # a signal can come inside a print, and there is no printing inside a print
    return not found


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
