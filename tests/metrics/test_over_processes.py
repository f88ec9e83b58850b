"""Two processes with unequal shares have what one process has that sees all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch.distributed
from pycocotools import mask as coco_mask
from torchmetrics import Metric

from unsam_lightning.metrics.boundary import BoundaryQuality
from unsam_lightning.metrics.boundary_bsds import BSDSBoundary
from unsam_lightning.metrics.click_totals import ClickTotals
from unsam_lightning.metrics.contours import boundary_pixels
from unsam_lightning.metrics.dial import Dial
from unsam_lightning.metrics.mean_iou import MeanIoU
from unsam_lightning.metrics.proposals import AverageRecall
from unsam_lightning.metrics.regions import RegionScores
from unsam_lightning.metrics.video import JAndF

SIDE = 40


def squares(rng: np.random.Generator, number: int) -> np.ndarray:
    masks = np.zeros((number, SIDE, SIDE), dtype=bool)
    for mask in masks:
        y, x, height, width = *rng.integers(0, 12, size=2), *rng.integers(8, 25, size=2)
        mask[y : y + height, x : x + width] = True
    return masks


def labels(rng: np.random.Generator) -> np.ndarray:
    return squares(rng, 3).astype(np.uint8).sum(axis=0)


def proposals(rng: np.random.Generator) -> tuple:
    rles = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in squares(rng, 4)]
    return squares(rng, 2), rles, rng.random(4).tolist()


def clip(rng: np.random.Generator) -> tuple:
    return np.repeat(squares(rng, 1), 5, axis=0), np.concatenate([squares(rng, 4), np.zeros((1, SIDE, SIDE), bool)])


#: Each metric, and one random update of it.
CASES: dict[str, tuple[Callable[[], Metric], Callable[[np.random.Generator], tuple]]] = {
    "boundary": (BoundaryQuality, lambda rng: tuple(squares(rng, 2))),
    "bsds": (
        lambda: BSDSBoundary([0.1, 0.2]),
        lambda rng: tuple([boundary_pixels(mask) for mask in squares(rng, 2)] for _ in range(2)),
    ),
    "clicks": (lambda: ClickTotals(max_clicks=3), lambda rng: (rng.random(3),)),
    "dial": (lambda: Dial([0.1, 0.5, 1.0]), lambda rng: (squares(rng, 3), squares(rng, 2), squares(rng, 3))),
    "mean_iou": (lambda: MeanIoU(5), lambda rng: (labels(rng), labels(rng))),
    "recall": (AverageRecall, proposals),
    "regions": (lambda: RegionScores([1, 2]), lambda rng: ([labels(rng), labels(rng)], [labels(rng)])),
    "video": (JAndF, clip),
}
UPDATES = 5


def numbers(seeds: range) -> dict[str, dict[str, float]]:
    """What every metric says after the updates of some seeds."""
    found = {}
    for name, (make, draw) in CASES.items():
        metric = make()
        for seed in seeds:
            metric.update(*draw(np.random.default_rng(seed)))
        found[name] = metric.compute()
    return found


def child(rank: int, folder: Path) -> None:
    code = 1
    try:
        torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
        share = range(2) if rank else range(2, UPDATES)
        (folder / f"{rank}.json").write_text(json.dumps(numbers(share)))
        torch.distributed.destroy_process_group()
        code = 0
    finally:
        os._exit(code)


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict, dict]:
    folder = tmp_path_factory.mktemp("processes")
    alone = numbers(range(UPDATES))
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            child(rank, folder)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    return alone, first, second


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_what_one_has(shares: tuple[dict, dict, dict], name: str) -> None:
    alone, first, second = (each[name] for each in shares)
    assert first == pytest.approx(alone, abs=1e-12, nan_ok=True)
    assert second == pytest.approx(alone, abs=1e-12, nan_ok=True)
    assert numbers(range(2))[name] != pytest.approx(alone, abs=1e-6, nan_ok=True)
