"""`segment` from the command line, on images as people have them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsam_lightning import commands
from unsam_lightning.__main__ import main


def test_a_name_that_is_no_utf8_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(photo)
    out = tmp_path / "out"
    assert main(["segment", str(photo), "--click", "5", "5", "--granularity", "0.5", "--out", str(out)]) == 0
    assert f"{out}/caf\\udce9_g0.5.png" in capsys.readouterr().out
    assert sorted(os.fsencode(path.name) for path in out.iterdir()) == [b"caf\xe9_g0.5.png", b"caf\xe9_masks.png"]


def test_a_strip_wider_than_any_jpeg_is_segmented(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 70_000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    out = tmp_path / "out"
    assert main(["segment", str(tmp_path / "wide.png"), "--click", "69000", "5", "--out", str(out)]) == 0
    with Image.open(out / "wide_g0.1.png") as mask:
        assert mask.size == (70_000, 20)
    with Image.open(out / "wide_masks.png") as picture:
        assert picture.width <= 4 * (16_384 + 4)


def test_too_many_pixels_are_refused_by_our_limit_alone(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    args = ["segment", str(tmp_path / "a.png"), "--click", "5", "5", "--out", str(tmp_path)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow would refuse twice as many and warn of fewer
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        assert main(args) == 0
    monkeypatch.setattr(commands, "MAX_PIXELS", 2399)
    assert main(args) == 2
    assert "a.png: 60 x 40 pixels, more than max_pixels 2399" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--granularity", "abc"], "abc is neither a number from 0.1 to 1 nor one of fine, medium, coarse"),
        (["--granularity", "0.5", "1.7"], "1.7 is neither"),
        (["--granularity", "0.5", "--automatic"], "--automatic finds the granularities"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    options: list[str], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(tmp_path / "a.png"), "--click", "5", "5", *options]) == 2
    assert found in capsys.readouterr().err
