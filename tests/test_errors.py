import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from unsam_lightning.errors import UserError, exit_with_one_line, first_line, is_file, is_folder, look


def test_the_three_parts_are_in_the_message() -> None:
    error = UserError(expected="12 shards", found="11: missing a.tar", remedy="copy it again")
    assert str(error) == "expected 12 shards; found 11: missing a.tar; copy it again"


def test_survives_pickling_and_copying() -> None:
    error = UserError(expected="a", found="b", remedy="c")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is UserError
        assert str(twin) == str(error)


def test_a_name_that_is_no_utf8_can_be_written_into_a_report() -> None:
    error = UserError(expected="a", found=os.fsdecode(b"caf\xe9.png"), remedy="c")
    assert str(error).encode() == b"expected a; found caf\\udce9.png; c"


def test_what_nobody_can_look_at_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    assert is_file(tmp_path / "a")
    assert not is_file(tmp_path / "a" / "b")
    assert not is_folder(tmp_path / "gone")
    assert is_folder(tmp_path)
    with pytest.raises(UserError, match="x: File name too long; check its spelling"):
        look(Path("x" * 5000))
    with pytest.raises(UserError, match="null byte"):
        look(Path("a\0b"))
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(UserError, match=f"found {tmp_path}/a: Permission denied"):
        is_file(tmp_path / "a")


def refuse(path: Path, **_: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


class Refusing(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise UserError(expected="UserError: in the text", found=f"sample {index}", remedy="see\nthe second line")


def test_comes_out_of_a_dataloader_worker_with_its_message_alone() -> None:
    batches: Any = iter(DataLoader(Refusing(), num_workers=1))
    with pytest.raises(UserError) as caught:
        next(batches)
    batches._shutdown_workers()  # else the error's traceback keeps them until some later collection, which waits 5 s
    assert str(caught.value) == "expected UserError: in the text; found sample 0; see\nthe second line"


def test_one_line_is_the_message_whole() -> None:
    assert str(UserError("gone; found UserError: b; fetch it")) == "gone; found UserError: b; fetch it"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (EOFError(), "EOFError: "),
        (OSError("x" * 300), "OSError: " + "x" * 111),
    ],
)
def test_first_line_is_one_short_line_also_of_a_silent_exception(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_command_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_with_one_line():
        raise UserError(expected="a", found="b", remedy="c")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: expected a; found b; c\n"
    with pytest.raises(ZeroDivisionError), exit_with_one_line():
        _ = 1 / 0
