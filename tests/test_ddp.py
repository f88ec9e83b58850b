"""Two processes measure what one measures, to the last digit, and two train together."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unsam_lightning.__main__ import main
from unsam_lightning.model import UnSAM
from unsam_lightning.module import UnSAMModule


def table(root: Path) -> Any:
    return json.loads(next(root.glob("*/benchmark_test_*.json")).read_text())["rows"]


def everything(root: Path) -> dict[str, bytes]:
    """All that a test writes for people and for the report: tables, objects, dial, curves, pictures."""
    (run,) = root.iterdir()
    found = [*run.glob("benchmark_*"), *run.glob("objects_*"), *run.glob("cases_*/*")]
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def test_two_processes_measure_what_one_measures(tiny_run: Path, tmp_path: Path, command: Any) -> None:
    # Three images over two ranks: uneven on purpose.
    for ranks in (1, 2):
        args = ["test", "--config", tiny_run, "--trainer.default_root_dir", tmp_path / f"runs{ranks}"]
        args += ["--trainer.devices", ranks, "--trainer.strategy", "ddp" if ranks > 1 else "auto"]
        args += ["--model.evaluation.felzenszwalb", "true"]
        codes, log = command(*args, log=tmp_path / f"test{ranks}.log", ranks=ranks)
        assert codes == [0] * ranks, log[-3000:]
        assert not (tmp_path / f"runs{ranks}" / "unfinished").exists()  # kept results of all ranks are removed
    one, two = (everything(tmp_path / f"runs{ranks}") for ranks in (1, 2))
    assert {name.split("_")[0] for name in one} == {"benchmark", "objects", "cases"}
    assert one == two  # to the last byte
    content = json.loads(next(text for name, text in one.items() if name.endswith(".json")))
    assert {"automatic: the model chooses g", "whole image, regions at 5 scales"} <= {
        row["mode"] for row in content["rows"]
    }
    assert content["dial"]["tiny_test"]["num_sweeps"] == 6


def test_lightning_starts_the_second_process_itself(tiny_run: Path, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    more = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_steps", "2"]
    env = {key: value for key, value in os.environ.items() if key != "UNSAM_RUN_DIR"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "unsam_lightning", "fit", "--config", str(tiny_run), *more],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "run folder: " in done.stdout
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert table(tmp_path / "runs")


def test_uneven_batch_is_refused(tiny_run: Path, tmp_path: Path, command: Any) -> None:
    args = ["fit", "--config", tiny_run, "--data.batch_size", 3, "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    codes, log = command(*args, log=tmp_path / "fit.log", ranks=2)
    assert codes == [2, 2]
    assert "that 2 processes can share evenly; found --data.batch_size 3" in log


def test_bad_batch_size_on_one_process(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(tiny_run), "--data.batch_size", "100", "--data.num_workers", "0"]) == 2
    assert "expected at least one batch of 100 images; found 11 images" in capsys.readouterr().err


def test_two_processes_pretrain_together(tmp_path: Path, command: Any) -> None:
    config = tmp_path / "pretrain.yaml"
    model = {"phases": [{"frame": 64, "steps": 3}], "batch_size": 2, "num_prompts": 2, "disc_steps": 1}
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "default_root_dir": str(tmp_path / "run")}
    config.write_text(json.dumps({"model": model | {"num_workers": 0}, "trainer": trainer}))
    for strategy in ("ddp", "auto"):  # a step by clicks alone uses no box embedding: DDP has to be told
        args = ["pretrain", "--config", config, "--trainer.devices", "2", "--trainer.strategy", strategy]
        args += ["--trainer.default_root_dir", tmp_path / strategy]
        codes, log = command(*args, log=tmp_path / f"{strategy}.log", ranks=2)
        assert codes == [0, 0], log[-3000:]
        assert f"step 3 is in {tmp_path / strategy}" in log


def test_every_mask_weighs_alike_whichever_process_has_it() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    masks = torch.tensor([1.0, 2.0, 3.0, 10.0])  # a loss each, times the weight; DDP averages the gradients of two
    parts = [masks[:1], masks[1:]]
    mean_count = torch.tensor(2.0)
    strategy = SimpleNamespace(reduce=lambda count, reduce_op: mean_count)
    module: Any = UnSAMModule("nano")
    module._trainer = SimpleNamespace(world_size=2, strategy=strategy)
    gradients = [
        torch.autograd.grad((part * weight).mean() * module.share_of_masks(len(part)), weight)[0] for part in parts
    ]
    assert float(torch.stack(gradients).mean()) == pytest.approx(float(masks.mean()))
    module._trainer = SimpleNamespace(world_size=1)
    assert module.share_of_masks(3) == 1.0


def test_the_start_is_the_same_whatever_device_is_the_default() -> None:
    module, expected = UnSAMModule("nano", seed=3), UnSAM.from_pretrained("nano", seed=3).state_dict()
    with torch.device("meta"):  # as Lightning sets the GPU
        module.configure_model()
    found = module.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
