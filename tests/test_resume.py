"""A run that was killed and goes on is the same run: batches, losses and weights."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.environments import SLURMEnvironment

from unsam_lightning import callbacks
from unsam_lightning.__main__ import main
from unsam_lightning.granularity import SWEEP
from unsam_lightning.module import UnSAMModule
from unsam_lightning.run_checkpoints import Checkpoints, Requeue

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


def fit_here(config: Path, root: Path, *more: str) -> Path:
    """Run `fit` in this process and return its run folder."""
    args = ["fit", "--config", str(config), "--test_after_fit", "false", "--trainer.default_root_dir", str(root)]
    assert main([*args, "--data.num_workers", "0", "--checkpoint_every", "100", *more]) == 0
    return next(root.glob("*-fit"))


def cut_inside(patch: pytest.MonkeyPatch, step: int, then: Callable[[UnSAMModule], object]) -> None:
    """Have something done inside the first batch of an optimizer step, and a run die in the next step."""
    whole, done = UnSAMModule.training_step, []

    def training_step(module: UnSAMModule, pair: Any, batch_idx: int) -> torch.Tensor:
        if module.global_step > step:
            raise RuntimeError("killed")
        loss = whole(module, pair, batch_idx)
        if module.global_step == step and not done:
            done.append(then(module))
        return loss

    patch.setattr(UnSAMModule, "training_step", training_step)


def assert_same(resumed: Path, whole: Path) -> None:
    assert losses(resumed) == losses(whole)
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (resumed, whole))
    for part in (lambda content: content["state_dict"], lambda content: content["teacher"]["averages"]):
        assert part(ours).keys() == part(theirs).keys()
        for name, value in part(theirs).items():
            assert torch.equal(part(ours)[name], value), name


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The environment of a job; a file gets what SLURM is asked for, and `seen.ckpt` is what it finds saved then."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    look = f"cp {tmp_path}/jobs/*/checkpoints/last.ckpt {tmp_path}/seen.ckpt"
    scontrol.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/asked\n{look}\nexit 0\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    job = {"JOB_ID": 7, "JOB_NAME": "unsam", "STEP_ID": 0, "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in (job | {"NODELIST": "here"}).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    before = signal.getsignal(signal.SIGUSR1)
    yield tmp_path / "asked"
    signal.signal(signal.SIGUSR1, before)


# The last of five batches in an epoch, and, where gradients of two batches gather, the first one of a step.
@pytest.mark.parametrize(("step", "gathered"), [(4, 1), (1, 2)])
def test_slurms_warning_inside_a_step_saves_it_whole(
    tiny_run: Path, tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch, step: int, gathered: int
) -> None:
    more = ["--trainer.accumulate_grad_batches", str(gathered), "--trainer.max_steps", str(step + 3)]
    whole = fit_here(tiny_run, tmp_path / "whole", *more)
    with monkeypatch.context() as patch:
        cut_inside(patch, step, lambda module: os.kill(os.getpid(), signal.SIGUSR1))
        with pytest.raises(RuntimeError, match="killed"):
            fit_here(tiny_run, tmp_path / "jobs", *more)
    assert slurm.read_text() == "requeue 7\n"
    assert torch.load(tmp_path / "seen.ckpt", weights_only=True)["global_step"] == step + 1
    assert not list(tmp_path.glob("jobs/*/hpc_*"))  # Lightning would load it into the labels' encoder, and into `test`
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert_same(fit_here(tiny_run, tmp_path / "jobs", *more), whole)


def test_a_warning_outside_of_steps_is_answered_at_once_and_in_steps_by_all_processes_together(
    slurm: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    saved: list[int] = []
    trainer: Any = SimpleNamespace(training=True, is_global_zero=True, global_step=3, loggers=[])
    trainer.checkpoint_callbacks = [Checkpoints(slurm.parent, 100)]
    trainer.strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: True)  # another one was warned
    trainer._accelerator_connector = SimpleNamespace(cluster_environment=SLURMEnvironment())
    monkeypatch.setattr(Checkpoints, "save", lambda self, trainer: saved.append(trainer.global_step))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    callback, module = Requeue(), LightningModule()
    callback.setup(trainer, module, "predict")
    works = (slurm.parent / "bin" / "scontrol").read_text()
    (slurm.parent / "bin" / "scontrol").write_text("#!/bin/sh\necho no such job >&2\nexit 1\n")
    os.kill(os.getpid(), signal.SIGUSR1)
    assert "not requeued: scontrol requeue 7_2: no such job (1)" in capfd.readouterr().err
    (slurm.parent / "bin" / "scontrol").write_text(works)

    callback.on_train_start(trainer, module)
    callback.on_train_batch_start(trainer)
    callback.on_train_batch_end(trainer)
    assert not saved  # the step goes on in the next batch
    trainer.global_step = 4
    trainer.is_global_zero = False  # one of the processes asks for all
    callback.on_train_batch_end(trainer)
    assert (slurm.is_file(), saved) == (False, [4])
    trainer.is_global_zero = True
    callback.on_train_batch_end(trainer)
    assert (slurm.read_text(), saved) == ("requeue 7_2\n", [4, 4])
    os.kill(os.getpid(), signal.SIGUSR1)
    assert saved == [4, 4]
    callback.on_train_end(trainer, module)
    assert (slurm.read_text(), saved) == ("requeue 7_2\n", [4, 4, 4])


def test_no_requeue_where_it_is_not_wanted_or_nothing_can_be_saved(slurm: Path) -> None:
    trainer: Any = SimpleNamespace(training=True, is_global_zero=True, global_step=3, loggers=[])
    trainer.checkpoint_callbacks, module = [], LightningModule()
    trainer.strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    before = signal.getsignal(signal.SIGUSR1)
    trainer._accelerator_connector = SimpleNamespace(cluster_environment=SLURMEnvironment(auto_requeue=False))
    Requeue().setup(trainer, module, "fit")
    assert signal.getsignal(signal.SIGUSR1) is before
    trainer._accelerator_connector.cluster_environment = SLURMEnvironment()
    callback = Requeue()
    callback.setup(trainer, module, "fit")
    callback.on_train_start(trainer, module)
    callback.on_train_batch_start(trainer)
    os.kill(os.getpid(), signal.SIGUSR1)
    trainer.global_step = 4
    callback.on_train_batch_end(trainer)  # the job would begin anew each time
    assert not slurm.is_file()


def test_a_checkpoint_saved_inside_a_step_goes_on_with_its_batch(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(module: UnSAMModule) -> None:
        module.trainer.save_checkpoint(Path(module.trainer.default_root_dir) / "checkpoints" / "inside.ckpt")

    whole = fit_here(tiny_run, tmp_path / "whole")
    root, more = tmp_path / "cut", list[str]()
    for step in (2, 4):  # twice, for the counts of the first must not have drifted
        with monkeypatch.context() as patch:
            cut_inside(patch, step, save)
            with pytest.raises(RuntimeError, match="killed"):
                fit_here(tiny_run, root, *more)
        more = ["--ckpt_path", str(next(root.glob("*/checkpoints/inside.ckpt")))]
    assert_same(fit_here(tiny_run, root, *more), whole)


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


def test_a_run_killed_after_its_last_step_is_calibrated_when_it_is_asked_again(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(root: Path, *more: str) -> dict[str, Any]:
        run = fit_here(tiny_run, root, "--trainer.max_steps", "2", "--checkpoint_every", "1", *more)
        assert (run / "panels" / "step_000002.png").is_file()
        content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        return content

    def kill(*args: object) -> None:
        raise RuntimeError("killed")

    whole, root = fit(tmp_path / "whole"), tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "fit_calibration", kill)
        with pytest.raises(RuntimeError, match="killed"):
            fit(root)
    (last,) = root.glob("*/checkpoints/last.ckpt")
    copy = tmp_path / "copy" / "1-fit" / "checkpoints" / "last.ckpt"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(last.read_bytes())
    assert torch.load(last, weights_only=True)["unsam"]["calibration"] is None

    made_up = fit(root, "--ckpt_path", str(last))
    assert made_up["unsam"] == whole["unsam"] | {"config": made_up["unsam"]["config"]}
    assert made_up["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 2
    assert made_up["unsam"]["calibration"] is not None
    with monkeypatch.context() as patch:  # refused, as where the answers do not grow
        patch.setattr(callbacks, "fit_calibration", lambda *args: None)
        assert fit(copy.parents[2], "--ckpt_path", str(copy))["unsam"]["calibration"] is None
    monkeypatch.setattr(callbacks, "fit_calibration", kill)  # neither is measured once more
    for path in (last, copy):
        fit(path.parents[2], "--ckpt_path", str(path))


def test_a_run_that_goes_on_from_elsewhere_leaves_what_lies_there_alone(tiny_run: Path, tmp_path: Path) -> None:
    args = ["fit", "--config", str(tiny_run), "--test_after_fit", "false", "--trainer.max_steps"]
    assert main([*args, "1"]) == 0
    (first,) = (tmp_path / "runs").iterdir()
    (first / "checkpoints" / "last.ckpt").rename(tmp_path / "mine.ckpt")  # beside the config that a person wrote
    asked = tiny_run.read_text()
    assert main([*args, "2", "--ckpt_path", str(tmp_path / "mine.ckpt")]) == 0
    assert tiny_run.read_text() == asked
    (second,) = set((tmp_path / "runs").iterdir()) - {first}
    assert torch.load(second / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
