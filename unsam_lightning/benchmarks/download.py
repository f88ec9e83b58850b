"""Download files that may be large from servers that may break off, and unpack them.

Next in the tour: `benchmarks/verify_data.py`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http
import http.client
import math
import re
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NoReturn

from unsam_lightning.aside import explain_write_errors, write_text_aside
from unsam_lightning.errors import UserError, first_line
from unsam_lightning.progress import show_progress
from unsam_lightning.source_file import CHECKSUMS, RemoteFile

_CHUNK = 1 << 20
_ZIP, _TAR = (".zip",), (".tar", ".tar.gz", ".tgz")


def download(file: RemoteFile, folder: Path, tries: int = 5, pause_s: float = 1.0, timeout_s: float = 60.0) -> Path:
    """Return the downloaded file, of the size and checksum that its manifest states.

    What has come is kept as `<name>.part`, and a later call asks for the rest. The rest is added only if it is of the
    same version (ETag or date) and begins where the part ends; otherwise everything is fetched again. A file of the
    right name that is already there is verified and used.

    Args:
        file: What to fetch.
        folder: Where it goes.
        tries: How often in a row the server may fail without sending anything new.
        pause_s: Wait before the second try; doubles with each.
        timeout_s: For the server's next word.

    Raises:
        UserError: The server refuses, keeps failing, or gives another size or content than stated (then the part is
            deleted); the disk cannot be written.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if not target.is_file():
        with explain_write_errors(target):
            folder.mkdir(parents=True, exist_ok=True)
        failures = 0
        while (problem := _fetch_rest(file, part, timeout_s)) is not None:
            reason, is_new = problem
            failures = 1 if is_new else failures + 1
            if failures >= tries:
                raise UserError(
                    expected=f"the whole of {file.url}",
                    found=f"{reason}, {tries} times without anything new",
                    remedy="run the same command later: it goes on where this ended",
                )
            time.sleep(pause_s * 2 ** (failures - 1))
        _verify(file, part)
        with explain_write_errors(target):
            part.rename(target)
            _version_file(part).unlink(missing_ok=True)
    else:
        _verify(file, target, is_ours=False)
    return target


def _fetch_rest(file: RemoteFile, part: Path, timeout_s: float) -> tuple[str, bool] | None:
    """Fetch what the part lacks; return None if it is whole, else what happened and whether anything new came.

    Raises:
        UserError: It is no use to try again.
    """
    have = part.stat().st_size if part.is_file() else 0
    version_file = _version_file(part)
    version = version_file.read_text(encoding="utf-8") if version_file.is_file() else ""
    if have and not version and not any(getattr(file, kind) for kind in CHECKSUMS):
        have = 0  # nothing would tell a rest of another version
    headers = {"User-Agent": "unsam_lightning", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})
    before = have
    try:
        with urllib.request.urlopen(urllib.request.Request(file.url, headers=headers), timeout=timeout_s) as answer:
            start, total = _extent(answer)
            if start not in (0, have):
                part.unlink(missing_ok=True)
                return f"a rest from byte {start} instead of {have}", False
            if total is not None and file.bytes not in (None, total):
                _discard(part)
                _raise_other(file, f"{total} bytes on the server", f"{file.bytes} bytes")
            with explain_write_errors(part):
                tag = answer.headers.get("ETag", "")
                version = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
                write_text_aside(version_file, version)
            have = _append(answer, part, start, total if total is not None else file.bytes, file.name)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if have == file.bytes:  # the part was whole
                return None
            _discard(part)
            return "the server has no rest", False
        if error.code < 500:
            raise UserError(
                expected=f"to download {file.url}",
                found=f"HTTP {error.code} {error.reason}",
                remedy="open the address in a browser; the file, put where it belongs by hand, is verified and used",
            ) from None
        return f"HTTP {error.code} {error.reason}", False
    except (OSError, http.client.HTTPException) as error:  # URLError, timeouts, broken connections, short answers
        now = part.stat().st_size if part.is_file() else 0
        return first_line(error), now > before
    total = total if total is not None else file.bytes
    return None if total is None or have >= total else (f"{have} of {total} bytes", have > before)


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return where an answer begins and how large the whole file is, None where the server does not say."""
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if stated is None:
            return -1, None
        return int(stated[1]), int(stated[2]) if stated[2] != "*" else None
    length = answer.headers.get("Content-Length")
    return 0, int(length) if length is not None else None


def _append(answer: http.client.HTTPResponse, part: Path, start: int, total: int | None, name: str) -> int:
    """Write an answer behind the first `start` bytes of the part; return the part's size then."""
    have = start
    # Without a stated size there is nothing to show the progress towards.
    shown = show_progress(name, "MiB", math.ceil((total or 0) / _CHUNK), start // _CHUNK)
    with explain_write_errors(part):
        file = part.open("r+b" if start else "wb")
        file.seek(start)
    with file, shown if total is not None else contextlib.nullcontext() as advance:
        # Only the writing is explained as such: an answer that ends early is an OSError too.
        while data := answer.read(_CHUNK):
            with explain_write_errors(part):
                file.write(data)
            for _ in range((have + len(data)) // _CHUNK - have // _CHUNK):
                if advance is not None:
                    advance()
            have += len(data)
    return have


def _verify(file: RemoteFile, path: Path, is_ours: bool = True) -> None:
    """Compare size and checksum with the manifest; without a checksum, see at least that an archive is one.

    Raises:
        UserError: They differ; the file is deleted if we fetched it.
    """
    size = path.stat().st_size
    kind = next((kind for kind in CHECKSUMS if getattr(file, kind)), "")
    found, stated = f"{size} bytes", f"{file.bytes} bytes"
    wrong = file.bytes not in (None, size)
    if not wrong and kind:
        with path.open("rb") as opened:
            found = f"{kind} {hashlib.file_digest(opened, kind).hexdigest()}"
        stated = f"{kind} {getattr(file, kind)}"
        wrong = found != stated
    if not wrong and not kind and _is_archive(file.name):
        with path.open("rb") as opened:
            begin = opened.read(40)
        stated, found = "an archive", f"{size} bytes that begin with {begin!r}"
        wrong = not (zipfile.is_zipfile(path) if file.name.endswith(_ZIP) else tarfile.is_tarfile(path))
    if wrong:
        if is_ours:
            _discard(path)
        _raise_other(file, found, stated)


def _raise_other(file: RemoteFile, found: str, stated: str) -> NoReturn:
    raise UserError(
        expected=f"{stated} as stated for {file.url}",
        found=found,
        remedy="run the command again; if it stays so, the file has changed: compare with its publisher",
    )


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _is_archive(name: str) -> bool:
    return name.endswith(_ZIP + _TAR)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar into a folder; any other file is left as it is.

    Raises:
        UserError: The archive is broken, or names a place outside the folder, or the disk cannot be written.
    """
    if not _is_archive(archive.name):
        return
    try:
        if archive.name.endswith(_ZIP):
            with zipfile.ZipFile(archive) as opened:
                for name in opened.namelist():
                    if ".." in PurePosixPath(name).parts or name.startswith("/"):
                        raise zipfile.BadZipFile(f"{name!r} would land outside")
                with explain_write_errors(folder):
                    opened.extractall(folder)
        else:
            with tarfile.open(archive) as tar, explain_write_errors(folder):
                _extract_tar(tar, folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            expected=f"a sound archive {archive}",
            found=first_line(error),
            remedy="delete it and run the command again",
        ) from None


def _extract_tar(tar: tarfile.TarFile, folder: Path) -> None:
    try:
        tar.extractall(folder, filter="data")
    except gzip.BadGzipFile as error:  # an OSError, but none of writing
        raise tarfile.ReadError(str(error)) from None
