"""A killed `test` goes on where it stopped; what is wrong with the data is named, counted and in the report."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unsam_lightning import module
from unsam_lightning.__main__ import main
from unsam_lightning.benchmarks.callback import gathered


def tables(root: Path) -> list[str]:
    return [path.read_text() for path in sorted(root.glob("*-test*/*_test_*.[cj]s*"))]


def test_results_are_gathered_on_rank_0_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_ddp.py` has the real processes; here is what each of them holds."""
    there = [["of rank 0"], ["of rank 1"]]

    def gather_object(mine: Any, parts: list[Any] | None) -> None:
        assert (parts is not None) == (mine == there[0])
        if parts is not None:
            parts[:] = there

    monkeypatch.setattr(torch.distributed, "gather_object", gather_object)
    monkeypatch.setattr(torch.distributed, "all_gather_object", None)
    ranks: list[Any] = [SimpleNamespace(world_size=2, is_global_zero=rank == 0) for rank in range(2)]
    assert [gathered(*rank) for rank in zip(ranks, there, strict=True)] == [there, []]
    alone: Any = SimpleNamespace(world_size=1, is_global_zero=True)
    assert gathered(alone, there[0]) == there[:1]


def test_killed_test_goes_on(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    evaluate = module.evaluate_sample
    fails_at = [1]

    def counted(*args: Any, index: int, **options: Any) -> Any:
        if index in fails_at:
            raise RuntimeError("power cut")
        measured.append(index)
        return evaluate(*args, index=index, **options)

    monkeypatch.setattr(module, "evaluate_sample", counted)
    args = ["test", "--config", str(tiny_run), "--data.num_workers", "0", "--trainer.default_root_dir"]
    with pytest.raises(RuntimeError, match="power cut"):
        main([*args, str(tmp_path / "killed")])
    assert measured == [0]
    assert not tables(tmp_path / "killed")
    fails_at.clear()
    assert main([*args, str(tmp_path / "killed")]) == 0
    assert measured == [0, 1, 2]
    assert not (tmp_path / "killed" / "unfinished").exists()
    assert main([*args, str(tmp_path / "whole")]) == 0
    assert measured == [0, 1, 2, 0, 1, 2]
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole") != []


@pytest.fixture
def odd_data(tmp_path: Path) -> Path:
    """Five images whose masks are sound, of another size, empty and not binary; the fifth image is cut off."""
    sound, grey = np.zeros((2, 40, 60), dtype=np.uint8)
    sound[5:30, 10:40] = 255
    grey[5:30, 10:40], grey[32:36] = 200, 99
    for folder in ("img", "gt"):
        (tmp_path / folder).mkdir()
    for key, mask in {"a": sound, "b": sound[:30], "c": 0 * sound, "d": grey, "e": sound}.items():
        Image.fromarray(np.full((40, 60, 3), 99, dtype=np.uint8)).save(tmp_path / f"img/{key}.png")
        Image.fromarray(mask).save(tmp_path / f"gt/{key}.png")
    (tmp_path / "img/e.png").write_bytes((tmp_path / "img/e.png").read_bytes()[:60])
    source = tmp_path / "odd.yaml"
    source.write_text(
        "format: unsam_lightning/source/1\nname: odd\nreader: mask_folder\nroot: .\n"
        "options: {images: img, masks: gt, values: binary}\n"
    )
    return source


def test_odd_data_are_named_counted_and_reported(
    tiny_run: Path, odd_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("img", "gt"):
        (tmp_path / folder / "a.png").rename(tmp_path / folder / os.fsdecode(b"caf\xe9.png"))  # no UTF-8
    options = ["--data.num_workers", "0", "--data.test_images", "9", "--data.benchmarks", f"[{odd_data}]"]
    assert main(["test", "--config", str(tiny_run), *options]) == 0
    printed = capsys.readouterr().out
    (tables,) = (tmp_path / "runs").glob("*-test/benchmark_test_*.json")
    content = json.loads(tables.read_text())
    assert {row["num_masks"] for row in content["rows"]} == {2}  # the first and d
    assert "\nodd: 2 of 5 images, at most 2 masks of each; 2 x 2 points\ntest at step 0, base model nano" in printed
    found = {reason: (kind["num_masks"], kind["num_left_out"]) for reason, kind in content["remarks"]["odd"].items()}
    assert found == {
        "mask of another size than the image": (1, 1),
        "empty mask": (1, 1),
        "map of other values than 0, 128 and 255": (1, 0),
        "image or annotation that cannot be read": (1, 1),
    }
    assert main(["report", str(tables.parent), "--out", str(tmp_path / "page.html")]) == 0
    page, markdown = (tmp_path / "page.html").read_text(), (tmp_path / "page.md").read_text()
    for text in (printed, page, markdown):
        for reason in found:
            assert reason in text
        for name in ("b (b.png is 60x30, the image 60x40)", "c (c.png)", "d: object1 (d.png)", "img/e.png"):
            assert name in text
    assert "image caf\\udce9, mask object1" in page  # which object a picture shows


def test_data_without_a_mask_are_refused(tiny_run: Path, odd_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key in "ade":
        Image.fromarray(np.zeros((40, 60), dtype=np.uint8)).save(odd_data.with_name("gt") / f"{key}.png")
    options = ["--data.num_workers", "0", "--data.test_images", "9", "--data.benchmarks", f"[{odd_data}]"]
    assert main(["test", "--config", str(tiny_run), *options]) == 2
    printed = capsys.readouterr()
    assert "odd: empty mask: 3" in printed.out
    assert "found none in 5 images of odd" in printed.err


@pytest.mark.parametrize(
    ("change", "found"),
    [("root: gone", "found nothing there"), ("root: img", "found no such entry among a.png, b.png, c.png")],
)
def test_missing_root_and_wrong_layout_are_one_line(
    tiny_run: Path, odd_data: Path, capsys: pytest.CaptureFixture[str], change: str, found: str
) -> None:
    odd_data.write_text(odd_data.read_text().replace("root: .", change))
    assert main(["test", "--config", str(tiny_run), "--data.benchmarks", f"[{odd_data}]"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert found in line
