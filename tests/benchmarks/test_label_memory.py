"""The command that measures the memory of labelling."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from unsam_lightning.benchmarks.label_memory import main, peak_gb
from unsam_lightning.errors import UserError


def test_command_labels_the_enlarged_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    y, x = np.mgrid[:40, :60]
    photo = np.stack([(x > 30) * 200, (y > 20) * 200, np.full_like(x, 60)], -1).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    before = peak_gb()
    main([str(tmp_path / "photo.png"), "--width", "300", "--height", "200"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("300 x 200: ")
    assert int(line.split()[3]) >= 2
    assert 0.05 < before <= peak_gb() < 50


def test_no_photograph_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a photograph at .*nothing.png"):
        main([str(tmp_path / "nothing.png")])
