from pathlib import Path

import pytest

from unsam_lightning.aside import write_text_aside
from unsam_lightning.errors import UserError


def test_a_failed_write_keeps_the_old_file_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"expected to write .*m.yaml; found (Not a directory|File exists)"):
        write_text_aside(tmp_path / "file" / "m.yaml", "new")
    path = tmp_path / "folder" / "m.yaml"
    write_text_aside(path, "old\n")  # makes the folder
    (path.parent / f".{path.name}.tmp").mkdir()  # nothing can be written aside
    with pytest.raises(UserError):
        write_text_aside(path, "new")
    assert path.read_text() == "old\n"
