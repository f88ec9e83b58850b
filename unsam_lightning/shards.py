"""Tar shards: read any sample by its index without reading the tar, write a shard that is complete or absent.

A sample is a key and some files: `{key}.jpg` and `{key}.json` in image shards, the same keys in label shards. The tars
are plain WebDataset shards. Next in the tour: `image_sample.py`.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import itertools
import os
from collections import OrderedDict
from collections.abc import Container, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from webdataset.writer import TarWriter

from unsam_lightning.aside import explain_write_errors, written_aside
from unsam_lightning.errors import UserError
from unsam_lightning.manifest import Manifest, ShardInfo, file_problem, scan_shard

#: A key and the sample's files by extension: ("photos-00000042", {"jpg": (offset, size), "json": ...}).
_Entry = tuple[str, dict[str, tuple[int, int]]]


class ShardReader:
    """Random access to the samples of a manifest's shards.

    Each shard is checked against the manifest, by its tar headers, when it is first used. Reads carry their own
    position, so a reader may be used after a fork; a pickled copy opens its own files.

    Args:
        manifest: Which shards there are; their files lie beside it.
        max_open: Tar files held open at a time.
        max_indexed: Shards whose headers are kept in memory, some 100 kB each for 256 samples.
    """

    def __init__(self, manifest: Manifest, *, max_open: int = 8, max_indexed: int = 512) -> None:
        self.manifest = manifest
        self._max_open, self._max_indexed = max_open, max_indexed
        self._ends = list(itertools.accumulate(shard.samples for shard in manifest.shards))
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()
        self._indexed: OrderedDict[int, list[_Entry]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict(), "_indexed": OrderedDict()}

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards."""
        return self._ends[-1]

    def shard_of(self, index: int) -> int:
        """Return the position in `manifest.shards` of the shard that holds sample `index`, 0 to `num_samples` - 1."""
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        return bisect.bisect_right(self._ends, index)

    def keys(self, shard: int) -> list[str]:
        """Return the keys of one shard in order.

        Raises:
            UserError: The shard is missing, damaged or not what the manifest lists.
        """
        return [key for key, _ in self._entries(shard)]

    def read(self, index: int, extensions: Container[str] | None = None) -> dict[str, Any]:
        """Return sample `index`: "__key__" -> its key (str), extension without dot -> content (bytes).

        Args:
            index: From 0 to `num_samples` - 1.
            extensions: Which files to read; all by default.

        Raises:
            UserError: The shard is missing, damaged or not what the manifest lists.
        """
        shard = self.shard_of(index)
        first = self._ends[shard] - self.manifest.shards[shard].samples
        key, files = self._entries(shard)[index - first]
        sample: dict[str, Any] = {"__key__": key}
        for extension, (offset, size) in files.items():
            if extensions is not None and extension not in extensions:
                continue
            try:
                # pread, not seek and read: forked DataLoader workers share the position of an inherited file.
                content = os.pread(self._open(shard).fileno(), size, offset)
            except OSError as error:
                raise self._error(shard, f"{key}.{extension} that cannot be read ({error.strerror})") from error
            if len(content) != size:
                raise self._error(shard, f"{len(content)} of {size} bytes of {key}.{extension}")
            sample[extension] = content
        return sample

    def _open(self, shard: int) -> BinaryIO:
        if shard not in self._files:
            self._files[shard] = (self.manifest.root / self.manifest.shards[shard].file).open("rb", buffering=0)
            if len(self._files) > self._max_open:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]

    def _entries(self, shard: int) -> list[_Entry]:
        if shard not in self._indexed:
            info = self.manifest.shards[shard]
            problem = file_problem(self.manifest.root, info)
            if problem.startswith("missing"):
                raise self._error(shard, problem)
            index, problems = scan_shard(self.manifest.root / info.file)
            if self.manifest.kind == "images":
                problems += [f"no {key}.jpg" for key, files in index.items() if "jpg" not in files][:3]
            if problem or problems or len(index) != info.samples:
                size = (self.manifest.root / info.file).stat().st_size
                raise self._error(shard, "; ".join([f"{len(index)} samples in {size} bytes", *problems]))
            self._indexed[shard] = list(index.items())
            if len(self._indexed) > self._max_indexed:
                self._indexed.popitem(last=False)
        self._indexed.move_to_end(shard)
        return self._indexed[shard]

    def _error(self, shard: int, found: str) -> UserError:
        info = self.manifest.shards[shard]
        return UserError(
            expected=f"{info.samples} samples in {info.bytes} bytes in {info.file}, as {self.manifest.path.name} lists",
            found=found,
            remedy=f"run `python -m unsam_lightning shards --verify {self.manifest.path}` to find all damaged shards",
        )


class _HashingFile:
    """What TarWriter writes to: a file that counts and hashes on the way, so that no shard is read again for it."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self.file, self.sha256, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        return self.file.write(data)


class ShardWriter:
    """Write one shard: a context manager that leaves the whole tar under its name, or nothing.

    The bytes depend on the samples alone (no times, no owners). `info` holds the manifest's entry after the block.
    Two writers of one path at once do not mix, see `written_aside`.

    Args:
        path: The tar file; an older one is replaced at the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: ShardInfo | None = None
        self._num_samples = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            aside = stack.enter_context(written_aside(self.path))
            self._sink = _HashingFile(aside.open("wb"))
            self._tar = TarWriter(self._sink, encoder=False, mtime=0)
            stack.push(self._close)
            self._end = stack.pop_all()
        return self

    def write(self, key: str, files: Mapping[str, bytes]) -> None:
        """Append a sample.

        Args:
            key: Unique in the shard, without dots, because WebDataset ends the key at the first dot.
            files: Extension without leading dot -> content, at least one; stored in the order of the extensions.

        Raises:
            UserError: The disk is full or may not be written.
        """
        if not files or "." in key:
            raise ValueError(f"sample {key!r} needs a key without dots and at least one file")
        with explain_write_errors(self.path):
            self._tar.write({"__key__": key, **files})
        self._num_samples += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.__exit__(kind, error, trace)
        if kind is None:
            self.info = ShardInfo(self.path.name, self._num_samples, self._sink.bytes, self._sink.sha256.hexdigest())

    def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if not self._num_samples:
                    raise ValueError(f"{self.path.name} got no samples")
                self._tar.close()
                self._sink.file.close()
        finally:
            if not self._sink.file.closed:
                with contextlib.suppress(OSError):  # a full disk fails again; the first error is the one to show
                    self._sink.file.close()
                self._sink.file = io.BytesIO()  # tarfile flushes its last block when collected: let it, to nowhere
                self._tar.close()
