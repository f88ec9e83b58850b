"""Gathers the benchmark results of all ranks and reports them: terminal, JSON, CSV, every logger.

Next in the tour: `datamodule.py`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from unsam_lightning.aside import write_text_aside
from unsam_lightning.benchmarks.evaluate import ImageResult
from unsam_lightning.benchmarks.tables import METRICS, Row, tabulate, to_csv, to_json


class BenchmarkCallback(Callback):
    """Reports `validate`, `test` and the validations of `fit`.

    Args:
        run_dir: Where `benchmark_<stage>_<step>.json` and `.csv` are written.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.results: list[ImageResult] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a result."""
        self.results.append(outputs)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Report the validation."""
        self._report(trainer, module, "validate")

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Report the test."""
        self._report(trainer, module, "test")

    def _report(self, trainer: Trainer, module: Any, stage: str) -> None:
        gathered: list[Any] = [None] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(gathered, self.results)
        else:
            gathered = [self.results]
        self.results = []
        config = module.evaluation
        rows = tabulate(
            [result for part in gathered for result in part],
            fixed=config.fixed,
            max_clicks=config.max_clicks,
            target=config.target,
        )
        if not trainer.is_global_zero or not rows:
            return
        numbers = {key: value for row in rows for key, value in row.metrics().items()}
        # In `fit` the Trainer counts; in `test` of a checkpoint it stands at 0 and the checkpoint knows.
        trained_steps = trainer.global_step or module.trained_steps
        step = f"{stage}_{trained_steps:06d}"
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trained_steps)
        about = {
            "step": trained_steps,
            "base": {"name": module.model.base_name, "sha256": module.model.base_sha256},
            "precision": trainer.precision,
            "evaluation": asdict(config),
        }
        self.run_dir.mkdir(parents=True, exist_ok=True)
        write_text_aside(self.run_dir / f"benchmark_{step}.json", to_json(rows, about))
        write_text_aside(self.run_dir / f"benchmark_{step}.csv", to_csv(rows))
        print_table(rows, f"{stage} at step {trained_steps}, base model {module.model.base_name}")


def print_table(rows: list[Row], title: str) -> None:
    """Print the table to the terminal; IoU and recall in per cent, NoC in clicks."""
    table = Table(title=title, title_justify="left")
    for name in ("data set", "model", "mask chosen by", "masks"):
        table.add_column(name, justify="right" if name == "masks" else "left")
    for name in ("1-IoU %", "NoC80", "NoC85", "NoC90", "AR1000 %"):
        table.add_column(name, justify="right")
    previous = ""
    for row in rows:
        if previous and previous != row.dataset:
            table.add_section()
        previous = row.dataset
        cells = []
        for name in METRICS:
            value = getattr(row, name)
            is_share = name in ("one_click_iou", "ar1000")
            cells.append("" if value is None else f"{100 * value:.1f}" if is_share else f"{value:.2f}")
        table.add_row(row.dataset, row.model, row.mode, str(row.num_masks), *cells)
    Console(width=max(130, Console().width)).print(table)
