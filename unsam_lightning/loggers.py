"""Where a run's numbers and pictures go: a CSV file always, Weights & Biases as asked, both in the run folder.

Next in the tour: `run_folder.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, WandbLogger


@dataclass(frozen=True, kw_only=True)
class WandbOptions:
    """Weights & Biases.

    Args:
        mode: offline writes to the run folder and never asks for a login; `wandb sync` uploads later.
        project: Name of the project.
        name: Name of the run; the run folder's name by default.
        group: Groups runs, e.g. the seeds of an experiment.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "unsam_lightning"
    name: str | None = None
    group: str | None = None


def run_loggers(run_dir: Path, options: WandbOptions) -> list[Any]:
    """Return the loggers of a run.

    Args:
        run_dir: The CSV log goes to `csv/version_<n>/metrics.csv`, one version for each start; W&B's files to `wandb/`.
        options: Of W&B.
    """
    loggers: list[Any] = [CSVLogger(run_dir, name="csv")]
    if options.mode != "disabled":
        run_dir.mkdir(parents=True, exist_ok=True)
        if options.mode == "offline":
            os.environ.setdefault("WANDB_SILENT", "true")  # its advice on uploading would bury our table
        wandb = WandbLogger(
            save_dir=run_dir,
            offline=options.mode == "offline",
            project=options.project,
            name=options.name or run_dir.name,
            group=options.group,
            # A resumed run goes on in the same W&B run.
            id=f"{run_dir.parent.name}-{run_dir.name}",
            resume="allow",
        )
        wandb._wandb_init.pop("anonymous", None)  # Lightning always names it, and W&B warns where it is named
        loggers.append(wandb)
    return loggers
