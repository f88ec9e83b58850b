import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from drawn_images import make_photos

from unsam_lightning import progress
from unsam_lightning.errors import UserError
from unsam_lightning.pack import pack_images
from unsam_lightning.verify import verify_manifest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


def test_without_a_terminal_progress_is_lines_with_rate_and_time(
    photos: Path, tmp_path: Path, capfd, monkeypatch
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    pack_images(photos, tmp_path / "out", name="p")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 13
    assert lines[-1].startswith("p: 13/13 images, ")
    assert lines[-1].endswith(" images/s, 0:00:00 left")


def test_verifying_shows_its_progress_in_shards(photos: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    manifest = pack_images(photos, tmp_path / "out", name="p", images_per_shard=4)
    (tmp_path / "out" / "p-000001.tar").unlink()
    capfd.readouterr()
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"missing p-000001\.tar"):
        verify_manifest(manifest.path)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"p: {k}/3 shards" for k in (1, 2, 3)]


def test_lines_come_only_now_and_then(capfd, monkeypatch) -> None:
    clock = iter([0.0, 4.0, 9.9, 10.0, 14.0, 20.1])  # the start, then five steps
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.show_progress("p", "files", total=9, done=2) as advance:
        for _ in range(5):
            advance()
    assert capfd.readouterr().err.splitlines() == [
        "p: 5/9 files, 0.3 files/s, 0:00:13 left",  # three in 10 s, without the two done before
        "p: 7/9 files, 0.2 files/s, 0:00:08 left",
    ]


def test_a_terminal_gets_a_bar_instead_of_lines(capfd, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with progress.show_progress("p", "files", total=3) as advance:
        for _ in range(3):
            advance()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err)
    assert re.search(r"p ━+ 3/3 [\d.]+ files/s, 0:00:00 left", shown)
    assert "p: " not in shown


def test_reading_a_manifest_costs_no_import_of_rich() -> None:
    code = "import sys, unsam_lightning.verify; print(sorted({'rich', 'torch', 'cv2'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
