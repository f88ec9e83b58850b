"""Run folders: where one run keeps its config, checkpoints, metrics and pictures, and how a later one finds them.

runs/quickstart/2026-11-21_08-30-00-fit/{config.yaml, checkpoints/last.ckpt, benchmark_test_000100.csv, panels/, ...}
Next in the tour: `quiet.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from unsam_lightning.aside import explain_write_errors
from unsam_lightning.errors import UserError

#: Set by the first process, so that the processes it starts for other devices use the same folder.
_ENV = "UNSAM_RUN_DIR"


def new_run_dir(root: Path, stage: str) -> Path:
    """Return a folder for a new run; the same one in every process of the run.

    The run's first process makes it, so that no other run of the same second has it too.

    Args:
        root: `trainer.default_root_dir`.
        stage: "fit", "test", ... ends the folder's name.

    Raises:
        UserError: It cannot be made.
    """
    if _ENV in os.environ:
        return Path(os.environ[_ENV])
    job = _job()
    name = job or time.strftime("%Y-%m-%d_%H-%M-%S")
    path, count = root / f"{name}-{stage}", 1
    while job is None and _is_first_process() and not _make(path):
        count += 1
        path = root / f"{name}-{stage}-{count}"
    return remember(path)


def _job() -> str | None:
    """Return the name of the cluster's job, if this is one.

    Processes that a cluster starts side by side share a job id; a requeued job keeps it and so its folder. Inside an
    interactive allocation, but not under srun, each start is a run of its own.
    """
    slurm = os.environ.get("SLURM_JOB_ID") if "SLURM_STEP_ID" in os.environ else None
    job = slurm or os.environ.get("TORCHELASTIC_RUN_ID")
    return None if job is None or job == "none" else f"job-{job}"  # "none": torchrun's for a job without one


def go_on_in(root: Path, run_dir: Path) -> Path:
    """Use the folder of an earlier run for this one; a job links to it, see `requeued_checkpoint`."""
    link = _link(root)
    if _job() is not None and _is_first_process() and not link.exists():
        with explain_write_errors(link):
            root.mkdir(parents=True, exist_ok=True)
            link.symlink_to(run_dir.resolve(), target_is_directory=True)
    return remember(run_dir)


def requeued_checkpoint(root: Path) -> Path | None:
    """Return the newest checkpoint of the run that a requeued job began, or went on with; None without one."""
    if not os.environ.get("SLURM_RESTART_COUNT"):
        return None
    return newest_checkpoint(_link(root) if _link(root).exists() else new_run_dir(root, "fit"))


def _link(root: Path) -> Path:
    return root / f".{_job()}"  # a name that nothing takes for a second run


def _make(path: Path) -> bool:
    """Make a folder; tell whether it is new."""
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            return False
        return True


def _is_first_process() -> bool:
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def remember(path: Path) -> Path:
    """Use a folder for this process and those it starts."""
    os.environ[_ENV] = str(path)
    return path


def forget() -> None:
    """Let the next run in this process have a folder of its own; a start that failed leaves none."""
    path = os.environ.pop(_ENV, None)
    if path is not None and _is_first_process():
        with contextlib.suppress(OSError):  # there is something in it, or nobody has made it
            Path(path).rmdir()


def last_checkpoint(root: Path) -> Path:
    """Return the newest checkpoint of the `fit` below a root folder that trained last; starts that failed do not count.

    Raises:
        UserError: There is none.
    """
    runs = sorted(root.glob("*-fit*"), key=_age, reverse=True)
    for run in runs:
        if found := newest_checkpoint(run):
            return found
    raise UserError(
        expected=f"a checkpoint of the last run below {root}",
        found=f"none in {', '.join(run.name for run in runs[:3])}" if runs else "no run",
        remedy="start without --ckpt_path, or pass the checkpoint's own path",
    )


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of one run, ours or Lightning's of a requeued job; None if there is none."""
    found = [*run_dir.glob("checkpoints/last*.ckpt"), *run_dir.glob("hpc_ckpt_*.ckpt")]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _age(run_dir: Path) -> int:
    return max(map(_modified, (run_dir, *run_dir.glob("checkpoints/*"), *run_dir.glob("*.ckpt"))))


def run_of(checkpoint: Path) -> Path | None:
    """Return the folder of the run that a checkpoint lies in; None where it lies among other things.

    A run's folder is known by the name that `new_run_dir` gives, around a checkpoint in a place of `newest_checkpoint`;
    where a person has given it another name, by its config and its log.
    """
    found = checkpoint.resolve()
    is_inside = found.parent.name == "checkpoints"
    folder = found.parent.parent if is_inside else found.parent
    is_in_place = is_inside or found.name.startswith("hpc_ckpt_")
    if is_in_place and re.fullmatch(r".+-fit(-\d+)?", folder.name):
        return folder
    return folder if (folder / "config.yaml").is_file() and (folder / "csv").is_dir() else None


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # gone since it was listed: a file aside of a run at work, a start that has failed
        return 0
