import os
import re
import time
from pathlib import Path

import pytest

from unsam_lightning.errors import UserError
from unsam_lightning.run_folder import (
    forget,
    go_on_in,
    last_checkpoint,
    new_run_dir,
    remember,
    requeued_checkpoint,
    run_of,
)

ENV = "UNSAM_RUN_DIR"


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", ENV):
        monkeypatch.setenv(name, "x")  # so that what the tests set is undone
        monkeypatch.delenv(name)


def test_name_is_the_time_and_the_stage(tmp_path: Path) -> None:
    path = new_run_dir(tmp_path, "fit")
    assert path.parent == tmp_path
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-fit", path.name)
    assert os.environ[ENV] == str(path)


def test_a_failed_start_leaves_no_folder(tmp_path: Path) -> None:
    new_run_dir(tmp_path, "fit")
    forget()
    assert list(tmp_path.iterdir()) == []
    (new_run_dir(tmp_path, "fit") / "config.yaml").touch()
    forget()
    assert len(list(tmp_path.glob("*-fit/config.yaml"))) == 1


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(UserError, match=f"to write {tmp_path}/runs/.*-fit; found "):
        new_run_dir(tmp_path / "runs", "fit")


@pytest.mark.parametrize("elastic_id", [None, "none"])
def test_runs_of_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elastic_id: str | None
) -> None:
    if elastic_id is not None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", elastic_id)
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    names = []
    for _ in range(3):
        monkeypatch.delenv(ENV, raising=False)
        names.append(new_run_dir(tmp_path, "fit").name)  # not one of them has written anything yet
    assert names == ["now-fit", "now-fit-2", "now-fit-3"]


@pytest.mark.parametrize("rank", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_ranks_that_were_started_side_by_side_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    monkeypatch.setenv(rank, "0")
    first = new_run_dir(tmp_path, "fit")
    monkeypatch.delenv(ENV)
    monkeypatch.setenv(rank, "1")
    assert new_run_dir(tmp_path, "fit") == first
    forget()
    assert first.is_dir()  # the first one's, though it is still empty


def test_started_processes_use_the_same_folder(tmp_path: Path) -> None:
    first = new_run_dir(tmp_path, "fit")
    assert new_run_dir(tmp_path / "elsewhere", "fit") == first
    assert remember(tmp_path / "resumed") == new_run_dir(tmp_path, "fit") == tmp_path / "resumed"


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"])
def test_requeued_job_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "4711")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    first = new_run_dir(tmp_path, "fit")
    first.mkdir()
    monkeypatch.delenv(ENV)
    assert first.name == "job-4711-fit"
    assert new_run_dir(tmp_path, "fit") == first


def test_starts_inside_an_allocation_are_runs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")  # salloc, but no srun
    assert "4711" not in new_run_dir(tmp_path, "fit").name


def test_the_next_run_of_a_process_has_a_folder_of_its_own(tmp_path: Path) -> None:
    remember(tmp_path / "first")
    forget()
    assert new_run_dir(tmp_path, "fit") != tmp_path / "first"
    forget()
    forget()  # a second time does no harm


def touch(path: Path, at: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (at, at))
    return path


def test_last_checkpoint_is_the_newest_of_all_kinds(tmp_path: Path) -> None:
    old = touch(tmp_path / "b-fit" / "checkpoints" / "last.ckpt", 100)
    touch(tmp_path / "b-fit" / "checkpoints" / "best.ckpt", 900)
    assert last_checkpoint(tmp_path) == old
    newer = touch(tmp_path / "a-fit" / "checkpoints" / "last-v1.ckpt", 200)
    assert last_checkpoint(tmp_path) == newer
    newest = touch(tmp_path / "a-fit" / "hpc_ckpt_3.ckpt", 300)
    assert last_checkpoint(tmp_path) == newest
    touch(tmp_path / "c-fit" / "config.yaml", 400)  # a start that failed before its first checkpoint
    assert last_checkpoint(tmp_path) == newest


def test_no_checkpoint_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"run below {tmp_path}; found no run; start without --ckpt_path"):
        last_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("checkpoint", "run", "others"),
    [
        ("2026-11-21_08-30-00-fit/checkpoints/last.ckpt", "2026-11-21_08-30-00-fit", []),
        ("2026-11-21_08-30-00-fit-2/hpc_ckpt_3.ckpt", "2026-11-21_08-30-00-fit-2", []),
        ("best/checkpoints/last.ckpt", "best", ["config.yaml", "csv/version_0/metrics.csv"]),  # renamed
        ("best/hpc_ckpt_3.ckpt", "best", ["config.yaml", "csv/version_0/metrics.csv"]),
        ("mine/passed_on.ckpt", None, ["config.yaml"]),  # a person's own config
        ("my-fit/passed_on.ckpt", None, ["config.yaml"]),
        ("mine/checkpoints/last.ckpt", None, ["config.yaml"]),
    ],
)
def test_the_run_of_a_checkpoint_is_known_by_its_marks(
    tmp_path: Path, checkpoint: str, run: str | None, others: list[str]
) -> None:
    folder = tmp_path / checkpoint.split("/")[0]
    for name in others:
        touch(folder / name, 100)
    touch(tmp_path / checkpoint, 100)
    assert run_of(tmp_path / checkpoint) == (None if run is None else tmp_path / run)


def test_a_requeued_job_goes_on_with_its_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    earlier = touch(tmp_path / "a-fit" / "checkpoints" / "last.ckpt", 100)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert requeued_checkpoint(tmp_path) is None  # it is the first time
    go_on_in(tmp_path, tmp_path / "a-fit")
    forget()
    another = touch(tmp_path / "b-fit" / "checkpoints" / "last.ckpt", 900)  # of a job that trains meanwhile
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    found = requeued_checkpoint(tmp_path)
    assert found is not None
    assert found.resolve() == earlier
    assert last_checkpoint(tmp_path) == another
    assert sorted(path.name for path in tmp_path.glob("*-fit*")) == ["a-fit", "b-fit"]  # a link is no second run

    monkeypatch.setenv("SLURM_JOB_ID", "8")  # this one has a folder of its own, whatever it began with
    assert requeued_checkpoint(tmp_path) is None
    forget()
    own = touch(tmp_path / "job-8-fit" / "checkpoints" / "last.ckpt", 200)
    assert requeued_checkpoint(tmp_path) == own
    forget()
