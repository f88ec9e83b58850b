"""A run that was killed and goes on is the same run: batches, losses and weights."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from unsam_lightning.__main__ import main
from unsam_lightning.granularity import SWEEP

# Six batches an epoch and eight steps: the run is killed in mid-epoch, and the resumed one crosses into the next epoch.
KILL_AFTER_STEP = 4


def losses(run_dir: Path) -> dict[int, float]:
    """The loss of each step; a later start of the same run overwrites what an earlier one had logged."""
    found: dict[int, float] = {}
    for path in sorted(run_dir.glob("csv/version_*/metrics.csv")):
        for row in csv.DictReader(path.open()):
            if row.get("train/loss"):
                found[int(row["step"])] = float(row["train/loss"])
    return found


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_run_goes_on_as_if_nothing_had_happened(
    tiny_run: Path, tmp_path: Path, command: Any, ranks: int
) -> None:
    def fit(root: Path, *more: str, kill_when: tuple[str, int] | None = None) -> Path:
        args = ["fit", "--config", tiny_run, "--test_after_fit", "false", "--trainer.default_root_dir", root]
        args += ["--trainer.devices", ranks, "--trainer.strategy", "ddp" if ranks > 1 else "auto", *more]
        codes, log = command(*args, log=tmp_path / f"{root.name}.log", ranks=ranks, kill_when=kill_when)
        assert codes == [-signal.SIGKILL if kill_when else 0] * ranks, log[-3000:]
        return next(root.glob("*-fit"))

    whole = fit(tmp_path / "whole")
    pattern = str(tmp_path / "killed/*/checkpoints/last.ckpt")
    fit(tmp_path / "killed", kill_when=(pattern, KILL_AFTER_STEP))
    resumed = fit(tmp_path / "killed", "--ckpt_path", "last")

    expected = losses(whole)
    assert sorted(expected) == list(range(8))
    after = {step: loss for step, loss in losses(resumed).items() if step > KILL_AFTER_STEP}
    assert after
    assert after == {step: expected[step] for step in after}
    ours, theirs = weights(resumed), weights(whole)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_the_last_step_is_saved_and_a_run_can_be_killed_before_its_first_checkpoint(
    tiny_run: Path, tmp_path: Path, command: Any
) -> None:
    args = ["fit", "--config", tiny_run, "--test_after_fit", "false", "--checkpoint_every", 100]
    pattern = str(tmp_path / "runs/*/checkpoints/last.ckpt")
    codes, log = command(*args, log=tmp_path / "killed.log", kill_when=(pattern, 0))
    assert codes == [-signal.SIGKILL], log[-3000:]
    codes, log = command(*args, "--ckpt_path", "last", log=tmp_path / "again.log")
    assert codes == [0], log[-3000:]
    (run,) = (tmp_path / "runs").iterdir()
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8
    assert sorted(losses(run)) == list(range(8))


def test_a_run_that_its_user_stops_says_how_it_goes_on(tiny_run: Path, tmp_path: Path, command: Any) -> None:
    pattern = str(tmp_path / "runs/*/checkpoints/last.ckpt")
    args = ["fit", "--config", tiny_run, "--test_after_fit", "false"]
    codes, log = command(*args, log=tmp_path / "stopped.log", kill_when=(pattern, 0), kill_by=signal.SIGINT)
    assert codes == [1], log[-3000:]
    (checkpoint,) = (tmp_path / "runs").glob("*/checkpoints/last.ckpt")
    assert f"--ckpt_path last goes on from {checkpoint}" in log


def test_resume_without_a_run_says_so(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(tiny_run), "--ckpt_path", "last"]) == 2
    assert "expected a checkpoint of the last run" in capsys.readouterr().err


def test_the_dial_is_calibrated_by_default_and_stays_so_when_a_finished_run_is_asked_again(
    tiny_run: Path, tmp_path: Path, command: Any
) -> None:
    def run(name: str, *more: object) -> Path:
        args = [*more, "--config", tiny_run, "--trainer.default_root_dir", tmp_path / "runs"]
        codes, log = command(*args, log=tmp_path / f"{name}.log")
        assert codes == [0], log[-3000:]
        assert "across ranks is zero" not in log  # Lightning's advice where all labels are there
        return max((tmp_path / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)

    def calibration(folder: Path) -> Any:
        return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["unsam"]["calibration"]

    def rows(folder: Path) -> Any:
        return json.loads((folder / "benchmark_test_000008.json").read_text())["rows"]

    fitted = run("fit", "fit", "--test_after_fit", "false")
    assert calibration(fitted)["asked"] == list(SWEEP)
    assert "dial: calibrated on 8 clicks: 0.1>0.1 0.3>" in (tmp_path / "fit.log").read_text()
    last = fitted / "checkpoints" / "last.ckpt"
    # As a job does that was killed in the test after its training: the test must see the map.
    assert run("again", "fit", "--ckpt_path", last) == fitted
    assert rows(fitted) == rows(run("test", "test", "--ckpt_path", last))
    off = run("off", "fit", "--test_after_fit", "false", "--data.calibration_images", "0")
    assert calibration(off) is None
