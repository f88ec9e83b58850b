"""A killed `test` goes on where it stopped, and reports what an undisturbed one does."""

from pathlib import Path
from typing import Any

import pytest

from unsam_lightning import module
from unsam_lightning.__main__ import main


def tables(root: Path) -> list[str]:
    return [path.read_text() for path in sorted(root.glob("*-test*/*_test_*.[cj]s*"))]


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
