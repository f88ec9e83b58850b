"""Shared fixtures: the reference data, and one thread, because two were slower on a busy machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden values and real annotated images beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (golden values and real images), which is not beside this checkout")
    return SHARED


@pytest.fixture
def tiny_run(tmp_path: Path) -> Path:
    """A config that runs the whole path on a dozen small scenes in seconds; run folders go to tmp_path / "runs"."""
    source = "format: unsam_lightning/source/1\nreader: scenes\n"
    (tmp_path / "train.yaml").write_text(
        source + "name: tiny_train\noptions: {num_images: 12, size: 96, first_seed: 7, images_per_shard: 5}\n"
    )
    (tmp_path / "test.yaml").write_text(source + "name: tiny_test\noptions: {num_images: 3, size: 96}\n")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
model:
  losses: {{consistency: 0.5, contrast: 0.1}}
  prompting: {{num_corrections: 1}}
  lr: 1.0e-3
  evaluation: {{fixed: [0.5], points_per_side: 2, max_clicks: 2}}
data:
  images: {tmp_path}/train.yaml
  benchmarks: [{tmp_path}/test.yaml]
  val_images: 0
  test_images: 3
  masks_per_benchmark_image: 2
  batch_size: 2
  masks_per_image: 3
  num_workers: 2
  cache_dir: {tmp_path}/cache
trainer:
  max_steps: 8
  log_every_n_steps: 1
  accelerator: cpu
  default_root_dir: {tmp_path}/runs
wandb: {{mode: disabled}}
checkpoint_every: 1
"""
    )
    return config


class CommandRunner:
    """Runs `python -m unsam_lightning ...` in forked processes; see zygote.py."""

    def __init__(self) -> None:
        env = {key: value for key, value in os.environ.items() if key != "UNSAM_RUN_DIR"} | {"OMP_NUM_THREADS": "1"}
        self.zygote = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )

    def __call__(
        self,
        *args: object,
        log: Path,
        ranks: int = 1,
        nodes: int = 1,
        kill_when: tuple[str, int] | float | None = None,
        kill_by: int = signal.SIGKILL,
    ) -> tuple[list[int], str]:
        """Return the exit codes of all ranks and what they printed; killed at a checkpoint's step or after seconds."""
        request = {"args": [str(a) for a in args], "log": str(log), "ranks": ranks, "nodes": nodes}
        request |= {"kill_when": kill_when, "kill_by": kill_by}
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        print(json.dumps(request), file=self.zygote.stdin, flush=True)
        codes = json.loads(self.zygote.stdout.readline())
        return codes, log.read_text()


@pytest.fixture(scope="session")
def command() -> Iterator[CommandRunner]:
    """Run the command line as a user does, without the seconds that its imports take."""
    runner = CommandRunner()
    yield runner
    runner.zygote.terminate()
    runner.zygote.wait()
