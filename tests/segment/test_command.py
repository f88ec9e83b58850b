"""`segment` from the command line, on images as people have them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsam_lightning.__main__ import main


def test_a_name_that_is_no_utf8_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(photo)
    out = tmp_path / "out"
    assert main(["segment", str(photo), "--click", "5", "5", "--granularity", "0.5", "--out", str(out)]) == 0
    assert f"{out}/caf\\udce9_g0.5.png" in capsys.readouterr().out
    assert sorted(os.fsencode(path.name) for path in out.iterdir()) == [b"caf\xe9_g0.5.png", b"caf\xe9_masks.png"]
