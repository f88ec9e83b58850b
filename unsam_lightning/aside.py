"""Atomic file writes, by a temporary file, fsync and rename; and a lock between processes.

Next in the tour: `progress.py`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from unsam_lightning.errors import UserError

_LOOK_AGAIN_S = 0.5
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)  # NFS without its lock daemon says ENOLCK


def write_text_aside(path: Path, text: str) -> None:
    """Write a UTF-8 file aside, sync it and rename it: a killed process leaves the old file or the new one.

    Raises:
        UserError: The file cannot be written.
    """
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield the name to write a file under; when the block ends well, sync the file and rename it to `path`.

    The folder is made if it is not there. The name is this writer's own: of two at once the later one's file is whole
    under `path`. What killed writers of `path` left is removed.

    Raises:
        UserError: The file cannot be written.
    """
    # Not the process id: containers on one file system have the same ones.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with explain_write_errors(path):
        held = _create(aside, path)
        try:
            with contextlib.suppress(OSError):  # no locks here: then nobody takes this for a leftover either
                fcntl.flock(held, fcntl.LOCK_EX)
            yield aside
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            os.close(held)
            aside.unlink(missing_ok=True)


def _create(aside: Path, path: Path) -> int:
    """Return the descriptor of a new file aside; its folder is made, again if others remove it while it is empty."""
    for tries_left in reversed(range(20)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            return os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except (FileNotFoundError, FileExistsError):  # pathlib's word for a folder that goes while it is looked at
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers of a file left beside it: files aside that no process holds."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
        # Held by a writer at work, gone since, or on a file system without locks: left alone.
        with contextlib.suppress(OSError), leftover.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


@contextlib.contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn a failed write (full disk, quota, permission) inside the block into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            expected=f"to write {path}",
            found=str(error.strerror or error),
            remedy="make room or choose another place, then run the same command again; what is finished is kept",
        ) from error


@contextlib.contextmanager
def lock(path: Path, purpose: str) -> Iterator[None]:
    """Be the only process inside the block: others wait, and say so. The end of a process frees its lock in any case.

    Where the file system has no locks, as on some clusters, nobody can tell, and none waits.

    Args:
        path: A file, made where it is missing, with its folder, and left empty.
        purpose: What only one process may do, for the line that is printed: "packs x into y".

    Raises:
        UserError: The file cannot be written or locked.
    """
    has_said = False
    while (descriptor := _locked(path)) is None:
        if not has_said:
            print(f"waiting for another process, which {purpose}", flush=True)
            has_said = True
        time.sleep(_LOOK_AGAIN_S)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock of a file, made where missing; None where another process holds it."""
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                stack.callback(os.close, descriptor)
                _flock(descriptor)
                # Whoever had it may have removed the file at the end: a lock on that one keeps nobody out.
                if not os.path.samestat(os.fstat(descriptor), path.stat()):
                    return None
            except (BlockingIOError, FileNotFoundError):
                return None
            stack.pop_all()
            return descriptor


def _flock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
