"""Where a data set's files lie below its root: archives unpack into folders of their own; splits are lists of names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from unsam_lightning.benchmarks.readers.image_file import IMAGE_SUFFIXES, files_by_stem
from unsam_lightning.errors import UserError

#: How deep below its root a data set may lie: archives of archives' folders (BSDS500-master/BSDS500/data).
MAX_DEPTH = 3


def find_layout(root: Path, needed: Sequence[str]) -> Path:
    """Return the folder that holds all files and folders of `needed`: the root, or the one sub-folder that does.

    The highest is taken, at most `MAX_DEPTH` levels below the root, because archives differ in the folders that they
    wrap around their data.

    Args:
        root: Of the data set.
        needed: Relative paths with "/"; "." is there always.

    Raises:
        UserError: There is no such folder, or more than one sub-folder is like that; says what is there.
    """
    if not root.is_dir():
        raise UserError(
            expected=f"the data set's folder at {root}",
            found="a file" if root.exists() else "nothing there",
            remedy="check the path; `python -m unsam_lightning data NAME --root DIR` fetches what is public",
        )
    whole = layout_places(root, needed)
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise UserError(
            expected=f"one folder with {', '.join(needed)} in {root}",
            found=f"{len(whole)}: {', '.join(str(place.relative_to(root)) for place in whole[:5])}",
            remedy="give one of them as the root",
        )
    raise_missing(root, [path for path in needed if not (root / path).exists()])


def layout_places(root: Path, needed: Sequence[str]) -> list[Path]:
    """Return the highest folders at or below an existing root that hold all of `needed`; none if there is none."""
    places = [root]
    for _ in range(MAX_DEPTH + 1):
        if whole := [place for place in places if all((place / path).exists() for path in needed)]:
            return whole
        places = [path for place in places for path in _folders_in(place)]
    return []


def _folders_in(folder: Path) -> list[Path]:
    try:
        # scandir knows what is a folder without asking for each of the 118,000 files of COCO's.
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise UserError(
            expected=f"to look into {folder}", found=str(error.strerror), remedy="make it readable or give another root"
        ) from None


def raise_missing(folder: Path, missing: Sequence[str]) -> NoReturn:
    """Raise the `UserError` for files and folders that an existing folder lacks, with what is there instead."""
    entries = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    shown = ", ".join(entries[:12]) + (f" and {len(entries) - 12} more" if len(entries) > 12 else "")
    raise UserError(
        expected=f"{', '.join(missing)} in {folder}",
        found=f"no such entry among {shown}" if entries else "an empty folder",
        remedy="give the folder that holds them; `python -m unsam_lightning data NAME --root DIR` says what is needed",
    )


def read_split(path: Path) -> list[str]:
    """Return the names in a split list: the first word of each line, in the file's order.

    A word like "/JPEGImages/480p/bear/00000.jpg" (DAVIS 2016) stands for its folder, "bear".

    Raises:
        UserError: The file cannot be read, is empty, or lists a name twice (on lines of single names).
    """
    try:
        words = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(expected=f"a list of names at {path}", found=str(error), remedy="check the file") from None
    names = [word.rsplit("/", 2)[-2] if "/" in word else word for word in words]
    doubles = [word for word, count in Counter(words).items() if count > 1 and "/" not in word]
    if doubles or not names:
        raise UserError(
            expected=f"names in {path}, each once",
            found=f"{len(doubles)} twice: {', '.join(doubles[:10])}" if doubles else "an empty file",
            remedy="correct the list",
        )
    return list(dict.fromkeys(names))


def pair_files(images: Path, annotations: Path, suffix: str, split: Path | None) -> list[tuple[str, Path, Path]]:
    """Return name, image and annotation of each item: of a split in its order, or of all images sorted by name.

    Raises:
        UserError: A folder is missing; images or annotations without a counterpart, all of them named (with a split,
            only the split's matter); see `files_by_stem` and `read_split`.
    """
    image_files = files_by_stem(images, IMAGE_SUFFIXES)
    annotation_files = files_by_stem(annotations, (suffix,))
    names = sorted(image_files.keys() | annotation_files.keys()) if split is None else read_split(split)
    lacking = [f"{name} without image" for name in names if name not in image_files]
    lacking += [f"{name} without {suffix}" for name in names if name not in annotation_files]
    if lacking:
        raise UserError(
            expected=f"an image in {images} and a {suffix} in {annotations} for each name"
            + (" of the split" * bool(split)),
            found=f"{len(lacking)} missing: {', '.join(lacking[:10])}",
            remedy="complete the download, or remove what has no counterpart",
        )
    return [(name, image_files[name], annotation_files[name]) for name in names]
