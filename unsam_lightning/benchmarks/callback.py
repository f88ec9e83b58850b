"""Gathers the benchmark results of all ranks and reports them: terminal, files in the run folder, every logger.

Next in the tour: `datamodule.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from unsam_lightning.aside import write_text_aside
from unsam_lightning.benchmarks.cases import choose_cases, draw_case
from unsam_lightning.benchmarks.evaluate import ImageResult
from unsam_lightning.benchmarks.kept import KeptResults, fingerprint
from unsam_lightning.benchmarks.objects import object_rows, objects_to_csv
from unsam_lightning.benchmarks.printing import (
    print_boundaries,
    print_dial,
    print_remarks,
    print_scope,
    print_table,
    sessions_note,
)
from unsam_lightning.benchmarks.subset import EvalSubset
from unsam_lightning.benchmarks.tables import (
    Row,
    boundary_numbers,
    dial_numbers,
    iou_by_granularity,
    remarks,
    tabulate,
    to_csv,
    to_json,
)
from unsam_lightning.errors import UserError
from unsam_lightning.segment.render import write_png

_Mine = TypeVar("_Mine")


class BenchmarkCallback(Callback):
    """Reports `validate`, `test` and the validations of `fit`.

    Writes `benchmark_<stage>_<step>.json` and `.csv` (the tables; the JSON also has the dial's numbers, IoU by
    granularity and what was odd in the data), `objects_<stage>_<step>.csv` (a row for each object and mode), and
    `cases_<stage>_<step>/` (pictures). Until then each image's result is kept in `unfinished/` beside the run folders:
    the same command started again goes on from there.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.results: list[ImageResult] = []

    def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Find what an interrupted evaluation of the same model has measured already."""
        self._keep(trainer, module, "validate")

    def on_test_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Find what an interrupted evaluation of the same model has measured already."""
        self._keep(trainer, module, "test")

    def _keep(self, trainer: Trainer, module: Any, stage: str) -> None:
        self.results = []
        # The last digits of a result depend on how it was computed. The stage keeps the files of two that follow each
        # other apart: one rank may begin the second while another still removes the first's.
        about = (stage, str(trainer.precision), module.device.type, module.compile_model)
        name = fingerprint(module.model, module.evaluation, about)
        module.kept = KeptResults(self.run_dir.parent / "unfinished" / name)

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
        self._report(trainer, module, "validate", trainer.val_dataloaders)

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Report the test."""
        self._report(trainer, module, "test", trainer.test_dataloaders)

    def _report(self, trainer: Trainer, module: Any, stage: str, loader: Any) -> None:
        parts = gathered(trainer, (self.results, module.kept.names))
        self.results = []
        if not trainer.is_global_zero:
            return
        results = [result for part, _ in parts for result in part]
        kept_names = [name for _, names in parts for name in names]
        datasets: list[EvalSubset] = [images.dataset for images in loader.dataset.dataset.datasets]
        oracle_targets = {images.name: images.oracle_target for images in datasets}
        objects, odd = object_rows(results, module.evaluation, oracle_targets), remarks(results)
        if not objects:
            print_remarks(odd)
            module.kept.forget(kept_names)
            if trainer.state.fn == "fit":
                return
            _refuse_nothing(results)
        rows = tabulate(results, objects, module.evaluation)
        dial, curves, boundaries = dial_numbers(results), iou_by_granularity(objects), boundary_numbers(results)
        # In `fit` the Trainer counts; in `test` it stands at 0 and the checkpoint knows, whichever way it came in.
        trained_steps = trainer.global_step or module.model.trained_steps
        step = f"{stage}_{trained_steps:06d}"
        numbers = {key: value for row in rows for key, value in row.metrics().items()}
        for dataset, found in dial.items():
            numbers |= {f"bench/{dataset}/dial/{key}": value for key, value in found.items() if value is not None}
        for dataset, models in boundaries.items():
            for model, values in models.items():
                numbers |= {f"bench/{dataset}/boundaries/{model}/{key}": value for key, value in values.items()}
        for dataset, curve in curves.items():
            numbers |= {f"bench/{dataset}/one_click_iou_at_g/{g}": value for g, value in curve.items()}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trained_steps)
            if isinstance(logger, WandbLogger):
                _log_tables(logger, rows, curves)
        about = {
            "step": trained_steps,
            "base": {"name": module.model.base_name, "sha256": module.model.base_sha256},
            "precision": trainer.precision,
            "evaluation": asdict(module.evaluation),
            "oracle_targets": oracle_targets,
            "of_videos": [images.name for images in datasets if images.of_videos],
        }
        write_text_aside(self.run_dir / f"objects_{step}.csv", objects_to_csv(objects))
        write_text_aside(self.run_dir / f"benchmark_{step}.csv", to_csv(rows))
        more = {"dial": dial, "one_click_iou_at_g": curves, "contours": boundaries, "remarks": odd}
        write_text_aside(self.run_dir / f"benchmark_{step}.json", to_json(rows, about, **more))
        self._draw(trainer, results, datasets, f"cases_{step}")
        module.kept.forget(kept_names)
        print_scope(datasets, results, module.evaluation.points_per_side)
        title = f"{stage} at step {trained_steps}, base model {module.model.base_name}"
        print_table(rows, ", ".join(filter(None, [title, sessions_note(module.evaluation.max_clicks)])))
        print_dial(dial)
        print_boundaries(boundaries)
        print_remarks(odd)

    def _draw(
        self, trainer: Trainer, results: Sequence[ImageResult], datasets: Sequence[EvalSubset], folder: str
    ) -> None:
        """Write pictures of the best, median and worst objects of each data set."""
        by_name = {images.name: images for images in datasets}
        for name in sorted({result.dataset for result in results} & by_name.keys()):
            for number, case in enumerate(choose_cases(results, name)):
                picture = draw_case(case, by_name[name][case.image])
                path = self.run_dir / folder / f"{name}_{number}_{case.rank}.png"
                write_png(path, picture, f"image {case.key}, mask {case.mask_id}")
                for logger in trainer.loggers:
                    if isinstance(logger, WandbLogger):
                        logger.log_image(f"cases/{name}_{number}_{case.rank}", [picture])


def gathered(trainer: Trainer, mine: _Mine) -> list[_Mine]:
    """Return what every rank has, in the order of the ranks, on rank 0; nothing on others, which would only hold it."""
    if trainer.world_size == 1:
        return [mine]
    parts: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(mine, parts)
    return parts or []


def _log_tables(logger: WandbLogger, rows: Sequence[Row], curves: dict[str, dict[str, float]]) -> None:
    """Log the table, and IoU against granularity, as tables that W&B shows and draws."""
    columns = list(Row.__dataclass_fields__)
    logger.log_table("bench/table", columns=columns, data=[[getattr(row, name) for name in columns] for row in rows])
    points = [[dataset, float(g), value] for dataset, curve in curves.items() for g, value in curve.items()]
    logger.log_table("bench/one_click_iou_by_g", columns=["dataset", "granularity", "iou"], data=points)


def _refuse_nothing(results: Sequence[ImageResult]) -> NoReturn:
    names = ", ".join(sorted({result.dataset for result in results}))
    raise UserError(
        expected="at least one mask to measure",
        found=f"none in {len(results)} images of {names}" if results else "no images",
        remedy="`python -m unsam_lightning data SOURCE.yaml --root DIR --verify` says what is wrong with them",
    )
