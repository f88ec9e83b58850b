"""The `data` command: fetch what is public of a data set, say what is not, and verify what is there.

Next in the tour: `commands.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import yaml

from unsam_lightning.aside import explain_write_errors, write_text_aside
from unsam_lightning.benchmarks.download import download, unpack
from unsam_lightning.benchmarks.readers.layout import layout_places
from unsam_lightning.benchmarks.verify_data import verify_data
from unsam_lightning.errors import UserError
from unsam_lightning.source_file import IMAGE_READERS, RemoteFile, Source, find_file, read_source, read_yaml


def list_data() -> Iterator[str]:
    """Yield a line for each data set that has a manifest: its name, how it is fetched, what it is."""
    for path in _manifest_files():
        source = read_source(path)
        if source.reader == "images":
            continue
        how = "drawn" if source.reader == "scenes" else "by hand" if source.by_hand and not source.files else "download"
        yield f"{source.name:24} {how:9} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}"


def _manifest_files() -> list[Path]:
    return sorted(find_file("data_manifests").glob("*.yaml"))


def find_manifest(name: str) -> Source:
    """Return the manifest whose file or data set has that name, or the source file at that path.

    Raises:
        UserError: There is none; or it is one of training images, which `shards` packs; or see `read_source`.
    """
    path = find_file(name) if name.endswith((".yaml", ".yml")) else find_file(f"data_manifests/{name}.yaml")
    if not path.is_file():  # the list and the tables show the data set's name, which need not be the file's
        path = next((file for file in _manifest_files() if read_source(file).name == name), path)
    if not path.is_file():
        names = ", ".join(line.split()[0] for line in list_data())
        raise UserError(expected="a data set with a manifest", found=name, remedy=f"choose one of {names}")
    source = read_source(path)
    if source.reader in IMAGE_READERS:
        drawn = source.reader == "scenes"
        refusal = UserError(
            expected="a data set to fetch",
            found=f"{source.name}, which is drawn" if drawn else f"{source.name}, which is a folder of images",
            remedy="nothing needs to be fetched" if drawn else "pack it with `python -m unsam_lightning shards`",
        )
        raise _with_hand(refusal, source)
    return source


def prepare_data(
    source: Source, root: Path, *, out: Path | None = None, fetch: bool = True, quick: bool = False
) -> Path:
    """Return a source file, `<out>/<name>.yaml`, for the data set verified in the root.

    Downloads what is missing and public, unpacks it, opens the data set, verifies it, prints the report and writes it
    to `<out>/<name>.report.yaml` with all that is left out by name.

    Args:
        source: The manifest.
        root: Folder for the data set; sets that share files (COCO, LVIS, PACO) may share one.
        out: Folder for source file and report; the root if not given.
        fetch: Whether to download; else only what is there is verified.
        quick: See `verify_data`.

    Raises:
        UserError: A download fails; something must be fetched by hand (says what and why); the layout is another; files
            cannot be read or counts are not as stated (after the report is written); the source file itself would be
            overwritten.
    """
    out = out or root
    path = out / f"{source.name}.yaml"
    is_own = path.resolve() == source.path.resolve()  # written by an earlier run, or by the user's hand
    if is_own and source.root != root.resolve():
        raise UserError(
            expected="a source file elsewhere, because it is written with its root",
            found=f"{source.path}, which would be overwritten",
            remedy="add `root: .` to it, or give another --out",
        )
    source = dataclasses.replace(source, root=root.resolve())
    if fetch:
        with explain_write_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        for file in source.files:
            _fetch(file, root, source)
    try:
        report = verify_data(source, quick)
    except UserError as error:  # it cannot be opened: where a person must fetch it, say so
        raise _with_hand(error, source) from None
    print(f"{source.name} in {root}:")
    for line in report.lines():
        print(f"  {line}")
    report_path = out / f"{source.name}.report.yaml"
    write_text_aside(report_path, yaml.safe_dump(dataclasses.asdict(report), sort_keys=False, width=120))
    if problems := report.problems():
        raise UserError(
            expected=f"a whole copy of {source.name} in {root}",
            found="; ".join(problems),
            remedy=f"see {report_path} and fetch again what is missing or broken",
        )
    if is_own:
        return path
    # Relative where both are one folder, so that it can be moved.
    content = {**read_yaml(source.path), "root": "." if out.resolve() == source.root else str(source.root)}
    head = "# Written by `python -m unsam_lightning data`, with the root where the data set was verified.\n"
    write_text_aside(path, head + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True))
    return path


def _fetch(file: RemoteFile, root: Path, source: Source) -> None:
    """Download and unpack a file unless what it makes is there whole."""
    unpacking = root / f".{file.name}.unpacking"  # there while files may be half written
    if layout_places(root, file.makes) and not unpacking.exists():
        return
    stated = f"{file.bytes / 1e6:,.0f} MB" if file.bytes else "size not published"
    checked = "checksum" if file.sha256 or file.md5 else "no checksum is published: only its form can be checked"
    print(f"downloading {file.url} ({stated}, {checked})")
    try:
        archive = download(file, root)
    except UserError as error:
        raise _with_hand(error, source) from None
    with explain_write_errors(unpacking):
        unpacking.touch()
    unpack(archive, root)
    unpacking.unlink()
    if not layout_places(root, file.makes):
        there = ", ".join(sorted(path.name for path in root.iterdir() if not path.name.startswith("."))[:12])
        raise UserError(
            expected=f"{', '.join(file.makes)} from {file.name}",
            found=f"{there} in {root}",
            remedy="the archive has changed: correct `makes` and `options` in a copy of the manifest",
        )
    if archive.name not in file.makes:
        print(f"unpacked; {archive} is no longer needed")


def _with_hand(error: UserError, source: Source) -> UserError:
    return UserError(f"{error}. To be fetched by hand: {source.by_hand}") if source.by_hand else error
