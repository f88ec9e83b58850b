"""The whole path through the command line: what a run leaves in its folder, and what it can be used for."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from unsam_lightning.__main__ import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder of one finished run on photographs that the run itself packed and labelled, with W&B offline."""
    root = tmp_path_factory.mktemp("end_to_end")
    rng = np.random.default_rng(1)
    (root / "photos").mkdir()
    for name in range(6):
        picture = np.kron(rng.integers(0, 255, (3, 4, 3)), np.ones((24, 30, 1))).astype(np.uint8)
        Image.fromarray(picture).save(root / "photos" / f"photo {name}.png")
    source = "format: unsam_lightning/source/1\nname: tiny\nreader: scenes\noptions: {num_images: 2, size: 96}\n"
    (root / "test.yaml").write_text(source)
    (root / "config.yaml").write_text(
        f"""
model:
  prompting: {{num_corrections: 1}}
  losses: {{consistency: 0.5, contrast: 0.1}}
  evaluation: {{fixed: [0.3, 1.0], points_per_side: 2, max_clicks: 3}}
data:
  images: {root}/photos
  benchmarks: [{root}/test.yaml]
  val_images: 1
  masks_per_benchmark_image: 2
  batch_size: 2
  masks_per_image: 4
  num_workers: 0
  cache_dir: {root}/cache
trainer: {{max_steps: 3, log_every_n_steps: 1, accelerator: cpu, default_root_dir: {root}/runs}}
"""
    )
    runner = request.getfixturevalue("command")
    codes, log = runner("fit", "--config", root / "config.yaml", log=root / "fit.log")
    assert codes == [0], log[-3000:]
    return next((root / "runs").glob("*-fit"))


def test_run_folder_is_self_contained(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["backbone"] == "nano"
    assert config["trainer"]["max_steps"] == 3
    assert "145,069 of 2,976,470 parameters train" in (finished.parent.parent / "fit.log").read_text()
    checkpoint = finished / "checkpoints" / "last.ckpt"
    assert checkpoint.stat().st_size < 5_000_000
    with next(finished.glob("csv/version_*/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    for key in ("train/loss", "train/loss_pairs", "train/loss_consistency", "train/loss_contrast", "perf/data_wait"):
        assert any(row[key] for row in rows), key
    assert any(row["bench/tiny/tuned/fixed_g_0.3/one_click_iou"] for row in rows)
    assert sorted(path.name for path in finished.glob("panels/*.png")) == ["step_000000.png", "step_000003.png"]
    assert list(finished.glob("wandb/offline-run-*"))
    logged = {
        path.name.split(".")[0].rsplit("_", 2)[0]: path for path in finished.glob("wandb/*/files/media/**/*.json")
    }
    table = json.loads(logged["table"].read_text())
    assert table["columns"][:3] == ["dataset", "model", "mode"]
    assert ["tuned", "whole image, grid: union of 10 g"] in [line[1:3] for line in table["data"]]
    assert "one_click_iou_by_g" in logged
    assert list(finished.glob("wandb/*/files/media/images/**/*.png")), "pictures of cases"


def test_benchmark_table_names_every_mode(finished: Path) -> None:
    content = json.loads((finished / "benchmark_test_000003.json").read_text())
    modes = [(row["model"], row["mode"]) for row in content["rows"]]
    assert modes == [
        ("otsu", "bright side of the threshold, no click"),
        ("otsu", "dark side of the threshold, no click"),
        ("base", "single mask"),
        ("base", "its own choice of 3 masks, then single"),
        ("base", "oracle: best of 3 masks per click"),
        ("tuned", "automatic: the model chooses g"),
        ("tuned", "fixed g = 0.3"),
        ("tuned", "fixed g = 1"),
        ("tuned", "oracle: GraCo's choice of 10 g"),
        ("tuned", "oracle: best of 10 g per metric"),
        ("base", "whole image, grid: 3 masks a point"),
        ("tuned", "whole image, grid: union of 10 g"),
        ("tuned", "whole image, grid: fixed g = 0.3"),
        ("tuned", "whole image, grid: fixed g = 1"),
    ]
    for row in content["rows"]:
        if "whole image" in row["mode"]:
            assert 0 <= row["ar1000"] <= 1
            assert row["noc90"] is None
        elif row["model"] == "otsu":
            assert 0 <= row["one_click_iou"] <= 1
            assert row["noc90"] is None
        else:
            assert 0 <= row["one_click_iou"] <= 1
            assert 1 <= row["noc80"] <= row["noc85"] <= row["noc90"] <= 3
    assert len((finished / "benchmark_test_000003.csv").read_text().splitlines()) == 1 + len(content["rows"])


def test_objects_dial_and_cases_lie_beside_the_table(finished: Path) -> None:
    content = json.loads((finished / "benchmark_test_000003.json").read_text())
    with (finished / "objects_test_000003.csv").open() as file:
        objects = list(csv.DictReader(file))
    for row in content["rows"]:
        mine = [float(one["noc90"]) for one in objects if one["mode"] == row["mode"] and one["noc90"]]
        assert not mine or np.mean(mine) == pytest.approx(row["noc90"])
    assert content["dial"]["tiny"]["num_sweeps"] == 4
    assert len(content["one_click_iou_at_g"]["tiny"]) == 10
    assert len(list(finished.glob("cases_test_000003/tiny_*.png"))) == 4
    assert not list(finished.parent.glob("unfinished"))


def test_report_of_the_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(finished), str(finished), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64") == 8
    assert page.count('role="img"') == 3  # no histogram: no object arrives before its last click
    assert "http" not in page
    assert "| tuned | automatic: the model chooses g |" in (tmp_path / "page.md").read_text()
    assert str(tmp_path / "page.html") in capsys.readouterr().out


def test_checkpoint_holds_only_what_trained(finished: Path) -> None:
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["unsam"]["base"]["name"] == "nano"
    assert all(key.startswith("model.decoder.") for key in content["state_dict"])
    assert not any(".base." in key for key in content["state_dict"])


def test_test_repeats_the_table_of_fit(finished: Path, command: Any, tmp_path: Path) -> None:
    config = finished.parent.parent / "config.yaml"
    codes, log = command("test", "--config", config, "--ckpt_path", "last", log=tmp_path / "test.log")
    assert codes == [0], log[-3000:]
    again = next(finished.parent.glob("*-test")) / "benchmark_test_000003.json"
    assert json.loads(again.read_text()) == json.loads((finished / "benchmark_test_000003.json").read_text())


def test_segment_uses_the_checkpoint(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = finished.parent.parent / "photos" / "photo 0.png"
    checkpoint = finished / "checkpoints" / "last.ckpt"
    args = ["segment", str(photo), "--checkpoint", str(checkpoint), "--click", "60", "36", "--not_click", "5", "5"]
    assert main([*args, "--granularity", "fine", "0.9", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "g = 0.2" in printed
    assert "note:" not in printed
    for name in ("photo 0_g0.2.png", "photo 0_g0.9.png"):
        with Image.open(tmp_path / name) as mask:
            assert mask.size == (120, 72)
    assert (tmp_path / "photo 0_masks.png").is_file()
    assert main(["segment", str(photo), "--click", "60", "36", "--out", str(tmp_path)]) == 0
    assert "note: nano has no trained adapter" in capsys.readouterr().out
