"""The one error that a user can cause: it says what was expected, what was found and what to do.

The command line prints it as one line and exits with code 2; every other exception is a defect of ours and keeps its
traceback. Next in the tour: `batch.py`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What the operating system says of one file or path, today and tomorrow.
_LASTING = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR}


class UserError(Exception):
    """A problem with the user's input.

    Args:
        expected: What the program needed, in words.
        found: What was there instead, with its value.
        remedy: What the user can do about it.
        text: Instead of the three, one line; or the traceback of such an error, from which alone PyTorch rebuilds what
            a DataLoader's worker raised.
    """

    def __init__(self, text: str | None = None, *, expected: str = "", found: str = "", remedy: str = "") -> None:
        if text is None:
            text = f"expected {expected}; found {found}; {remedy}"
        elif "Traceback (most recent call last)" in text:
            text = re.split(rf"^(?:\w+\.)*{type(self).__name__}: ", text.rstrip(), flags=re.MULTILINE)[-1]
        super().__init__(printable(text))  # it may name a file, and go into a report


@contextmanager
def exit_with_one_line() -> Iterator[None]:
    """End the process with one line and exit code 2 where a `UserError` comes out of the block."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def only_lasting_errors(path: Path) -> Iterator[None]:
    """Let those errors of the operating system out of the block that say something of the file `path` itself.

    Raises:
        UserError: In place of all others, which may pass: a disk or a network that fails, too many open files.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _LASTING:
            raise
        raise UserError(
            expected=f"to read {path}",
            found=f"{error.strerror or error}, which may pass",
            remedy="run the same command again, what is finished is kept; move the file away if it fails every time",
        ) from error


def printable(text: str) -> str:
    """Return the text with bytes of a file name that are no UTF-8 escaped, so that yaml, JSON and terminals take it."""
    return text.encode("utf-8", "backslashreplace").decode()


def first_line(error: Exception) -> str:
    """Return the type of another library's exception and the first line of what it says, for a `found`."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def look(path: Path) -> os.stat_result | None:
    """Return what the file system knows of a path, None where nothing is there.

    Raises:
        UserError: Nobody can tell: a folder on the way may not be searched, or no file can have that name.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(
            expected="a path that can be looked at",
            found=f"{str(path)[:200]}: {getattr(error, 'strerror', None) or error}",
            remedy="check its spelling, and whether its folders may be searched",
        ) from None


def is_file(path: Path) -> bool:
    """Tell whether a regular file is there; see `look`."""
    found = look(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: Path) -> bool:
    """Tell whether a folder is there; see `look`."""
    found = look(path)
    return found is not None and stat.S_ISDIR(found.st_mode)
