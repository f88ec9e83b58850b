"""Which files of a folder tree are images, in an order that is the same on every machine.

Next in the tour: `photo.py`.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from unsam_lightning.errors import UserError, only_lasting_errors

#: Lower-case endings of the files that are taken; what is inside decides how they are read.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
#: Images with more pixels are refused unread, as decompression bombs, unless told otherwise; Pillow's own limit.
MAX_PIXELS = 178_000_000


def list_images(images_dir: Path, out_dir: Path, name: str) -> tuple[list[tuple[str, int]], int]:
    """Return relative path and size of each image file, sorted, and the number of other files.

    Args:
        images_dir: The folder; links to files and folders are followed, every folder is taken once.
        out_dir: Where the shards go; what packing under `name` left there is passed over.
        name: Of the packed data set.

    Returns:
        Paths with "/" and sizes in bytes (-1: no regular file, or one that may not be looked at); how many files have
        other endings.

    Raises:
        UserError: A folder cannot be read, or there is no image in any.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            expected="to read every folder below IMAGES_DIR",
            found=f"{error.filename}: {error.strerror}",
            remedy="make it readable or move it away",
        )

    # What earlier runs left in out_dir is not counted as ignored, or a second run would count differently.
    ours = re.compile(rf"\.?{re.escape(name)}(-\d{{6,}}\.tar|\.yaml|\.partial)((\.\w{{8}})?\.tmp)?")
    own_folder = os.path.realpath(out_dir)
    images, ignored_files, seen = [], 0, set()
    for folder, subfolders, names in os.walk(images_dir, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a second way to it, or a circle of links
            subfolders.clear()
            continue
        seen.add(real)
        if real == own_folder:
            subfolders[:] = [entry for entry in subfolders if not ours.fullmatch(entry)]
            names = [entry for entry in names if not ours.fullmatch(entry)]
        subfolders.sort()
        for path in (Path(folder, entry) for entry in names):
            if path.name.lower().endswith(SUFFIXES):
                images.append((path.relative_to(images_dir).as_posix(), _size(path)))
            else:
                ignored_files += 1
    if not images:
        raise UserError(
            expected=f"images ({', '.join(SUFFIXES)}) in {images_dir} or its subfolders",
            found=f"{ignored_files} files of other types" if ignored_files else "no files",
            remedy="give the folder that holds the images",
        )
    return sorted(images), ignored_files


def _size(path: Path) -> int:
    try:
        with only_lasting_errors(path):
            about = path.stat()
    except OSError:  # `prepare_photo` meets it too, and says why in the list of broken files
        return -1
    return about.st_size if stat.S_ISREG(about.st_mode) else -1
