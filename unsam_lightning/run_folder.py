"""Run folders: where one run keeps its config, checkpoints, metrics and pictures, and how a later one finds them.

runs/quickstart/2026-11-21_08-30-00-fit/{config.yaml, checkpoints/last.ckpt, benchmark_test_000100.csv, panels/, ...}
Next in the tour: `cli.py`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from unsam_lightning.errors import UserError

#: Set by the first process, so that the processes it starts for other devices use the same folder.
_ENV = "UNSAM_RUN_DIR"


def new_run_dir(root: Path, stage: str) -> Path:
    """Return a folder for a new run; the same one in every process of the run.

    Args:
        root: `trainer.default_root_dir`.
        stage: "fit", "test", ... ends the folder's name.
    """
    if _ENV in os.environ:
        return Path(os.environ[_ENV])
    # Processes that a cluster starts side by side share a job id; a requeued job keeps it and so its folder.
    job = os.environ.get("SLURM_JOB_ID", os.environ.get("TORCHELASTIC_RUN_ID"))
    is_job = job is not None and job != "none"  # torchrun's name for a job without one
    name = f"job-{job}" if is_job else time.strftime("%Y-%m-%d_%H-%M-%S")
    path, count = root / f"{name}-{stage}", 1
    while not is_job and path.exists():
        count += 1
        path = root / f"{name}-{stage}-{count}"
    return remember(path)


def remember(path: Path) -> Path:
    """Use a folder for this process and those it starts."""
    os.environ[_ENV] = str(path)
    return path


def forget() -> None:
    """Let the next run in this process have a folder of its own."""
    os.environ.pop(_ENV, None)


def last_checkpoint(root: Path) -> Path:
    """Return the newest checkpoint of the newest `fit` below a root folder.

    Raises:
        UserError: There is none.
    """
    found = [*root.glob("*/checkpoints/last*.ckpt"), *root.glob("*/hpc_ckpt_*.ckpt")]
    if not found:
        raise UserError(
            expected=f"a checkpoint of an earlier run below {root}",
            found="none",
            remedy="start without --ckpt_path, or pass the checkpoint's own path",
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)
