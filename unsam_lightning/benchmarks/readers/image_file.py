"""Image files of a benchmark: the files of a folder by stem, and one of them as RGB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from unsam_lightning.benchmarks.sample import Remark
from unsam_lightning.errors import UserError

#: Formats of photographs that are read; for masks only those without loss serve.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def files_by_stem(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Return the files of a folder with one of the suffixes, by name without suffix, sorted by it.

    Suffixes match in any case; sub-folders, other files and hidden files are left out.

    Raises:
        UserError: No such folder, no such file in it, or two that differ in the suffix only.
    """
    kinds = ", ".join(suffixes)
    if not folder.is_dir():
        raise UserError(
            expected=f"a folder of {kinds} files at {folder}",
            found="a file" if folder.exists() else "nothing there",
            remedy="check the path",
        )
    files: dict[str, Path] = {}
    doubles: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in files:
            doubles.append(f"{files[path.stem].name} and {path.name}")
        files.setdefault(path.stem, path)
    if doubles or not files:
        raise UserError(
            expected=f"{kinds} files in {folder}, one for each name",
            found="; ".join(doubles) or f"none of them among {sum(1 for _ in folder.iterdir())} entries",
            remedy="keep one file of each name" if doubles else "check the path",
        )
    return dict(sorted(files.items()))


def read_rgb(path: Path, upright: bool = True) -> npt.NDArray[np.uint8]:
    """Return an image file as uint8 (H, W, 3), RGB, turned upright by its EXIF orientation unless told not to.

    Raises:
        UserError: The file is broken, too large to be safe, or has more than 8 bits a channel.
    """
    with open_image(path) as file:
        if file.mode.startswith(("I", "F")):  # Pillow would clip 16 bits to 255
            raise UserError(
                expected=f"an image of 8 bits a channel in {path}",
                found=f"Pillow mode {file.mode}",
                remedy="convert it to 8 bits with the contrast that you mean",
            )
        try:
            turned = ImageOps.exif_transpose(file) if upright else file
            return np.array(turned.convert("RGB"), dtype=np.uint8)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on truncated files of its many formats
            raise broken_file(path, error) from error


def read_rgb_of_size(path: Path, size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], list[Remark]]:
    """Return an image (see `read_rgb`) whose annotation says how large it is, and what is odd about it.

    Annotations made on the stored pixels, against the file's EXIF orientation, are believed.

    Args:
        path: The file.
        size: Height and width as annotated.

    Raises:
        UserError: It has another size, upright and as stored; or see `read_rgb`.
    """
    image = read_rgb(path)
    if image.shape[:2] == size:
        return image, []
    stored = read_rgb(path, upright=False)
    if stored.shape[:2] == size:
        return stored, [Remark("", "image annotated as stored, against its EXIF orientation", kept=True)]
    raise UserError(
        expected=f"an image of {size[1]}x{size[0]} (width x height), as its annotation says, in {path}",
        found=f"{image.shape[1]}x{image.shape[0]}",
        remedy="take image and annotation from the same copy of the data set",
    )


def open_image(path: Path) -> Image.Image:
    """Return an image file opened by Pillow, its header read, its pixels not.

    Raises:
        UserError: The file is no image or too large to be safe (Pillow's limit for decompression bombs).
    """
    try:
        return Image.open(path)
    except (OSError, Image.DecompressionBombError) as error:
        raise broken_file(path, error) from error


def broken_file(path: Path, error: Exception) -> UserError:
    """Return the error for a file whose content cannot be read."""
    return UserError(
        expected=f"a readable file {path}",
        found=f"{type(error).__name__}: {error}",
        remedy="copy or download it again",
    )
