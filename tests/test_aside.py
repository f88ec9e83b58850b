import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from unsam_lightning.aside import _locked, lock, write_text_aside, written_aside
from unsam_lightning.errors import UserError


def test_a_failed_write_keeps_the_old_file_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"expected to write .*m.yaml; found (Not a directory|File exists)"):
        write_text_aside(tmp_path / "file" / "m.yaml", "new")
    path = tmp_path / "folder" / "m.yaml"
    write_text_aside(path, "old\n")  # makes the folder

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_text_aside(path, "new")
    assert path.read_text() == "old\n"
    assert [each.name for each in path.parent.iterdir()] == ["m.yaml"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    with written_aside(path) as first, written_aside(path) as second:
        first.write_text("first, and long")
        second.write_text("second")
    assert path.read_text() == "first, and long"  # the outer one ends last
    assert [each.name for each in tmp_path.iterdir()] == ["m.yaml"]


def test_the_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    write_text_aside(tmp_path / "m.yaml", "new")
    (tmp_path / "other").touch()
    assert stat.S_IMODE((tmp_path / "m.yaml").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


KILLED = """
import os, signal, sys
from pathlib import Path
from unsam_lightning.aside import written_aside

with written_aside(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_killed_writers_go_and_those_of_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "[m].yaml"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 1  # the second one has removed the first one's
    (tmp_path / ".other.yaml.01234567.tmp").touch()
    with written_aside(path) as held:
        write_text_aside(path, "new")
        assert held.exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == [".other.yaml.01234567.tmp", "[m].yaml"]


def test_folder_that_another_removes_while_it_is_empty_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, removals, create = tmp_path / "a" / "b" / "file", [3], os.open

    def late(file: Path, *options: int) -> int:
        if removals[0]:
            removals[0] -= 1
            path.parent.rmdir()
        return create(file, *options)

    monkeypatch.setattr(os, "open", late)
    write_text_aside(path, "text")
    assert removals == [0]
    assert path.read_text() == "text"


def test_a_second_process_waits_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "folder" / ".lock"
    held = lock(path, "packs")
    held.__enter__()
    released: list[float] = []

    def release() -> None:
        released.append(time.monotonic())
        held.__exit__(None, None, None)

    timer = threading.Timer(0.7, release)
    timer.start()
    with lock(path, "packs"):
        assert released
    assert capsys.readouterr().out == "waiting for another process, which packs\n"
    assert [each.name for each in path.parent.iterdir()] == [".lock"]


def test_who_waited_for_a_file_that_is_gone_locks_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "partial" / "lock"
    order: list[str] = []

    def wait(name: str) -> None:
        with lock(path, "packs"):
            order.append(f"{name} begins")
            time.sleep(0.2)
            order.append(f"{name} ends")

    with lock(path, "packs"):
        waiting = [threading.Thread(target=wait, args=(name,)) for name in "ab"]
        for thread in waiting:
            thread.start()
        time.sleep(0.2)
        shutil.rmtree(path.parent)
    for thread in waiting:
        thread.join(30)
    assert [line.split()[1] for line in order] == ["begins", "ends"] * 2


def test_a_lock_is_a_file_that_is_open_for_writing_as_nfs_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def nfs(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", nfs)
    with lock(tmp_path / ".lock", "packs"):
        assert _locked(tmp_path / ".lock") is None


def test_without_locks_none_is_refused_and_other_failures_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    number = errno.ENOLCK
    path = tmp_path / ".lock"
    with lock(path, "packs"), lock(path, "packs"):
        pass
    number = errno.EIO
    with pytest.raises(UserError, match=r"to write .*\.lock; found Input/output error"), lock(path, "packs"):
        pass
