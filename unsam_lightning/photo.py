"""One image file becomes upright RGB pixels or a JPEG of them, or a reason why it cannot.

16-bit values are scaled to 8 bits, transparency is laid on white (what a browser shows), colour profiles are not
applied. Next in the tour: `pack_journal.py`.
"""

from __future__ import annotations

import contextlib
import io
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from unsam_lightning.errors import UserError, only_lasting_errors

_UPRIGHT = {  # EXIF orientation -> what makes the image upright; 1 and unknown values mean "as it is"
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Photo:
    """One image as it goes into a shard; `original` is its upright size in pixels before it was reduced."""

    jpeg: bytes
    size: tuple[int, int]
    original: tuple[int, int]


def prepare_photo(path: Path, *, max_side: int, max_pixels: int) -> Photo | str:
    """Return an image file as it goes into a shard, or the reason why it cannot.

    A JPEG that is RGB, upright and small enough keeps its bytes; all else becomes JPEG quality 95 without chroma
    subsampling. Of an animation the first frame is taken.

    Args:
        path: The file; its ending does not matter.
        max_side: A longer side above this is reduced to it (Lanczos), in pixels.
        max_pixels: An image with more pixels is refused before it is decoded.
    """
    return _or_reason(lambda: _to_photo(_read(path, max_pixels), max_side))


def read_photo(path: Path, *, max_pixels: int) -> npt.NDArray[np.uint8] | str:
    """Return the pixels of an image file, upright and opaque, as `prepare_photo` would pack them, but whole.

    Args:
        path: See there.
        max_pixels: See there.

    Returns:
        RGB uint8 (H, W, 3), or the reason why there are none.
    """
    return _or_reason(lambda: np.array(_read(path, max_pixels).rgb))  # a copy: Pillow lends its own read-only


class _Upright(NamedTuple):
    """An image file as upright RGB, and its bytes where they are a JPEG of just that."""

    rgb: Image.Image
    jpeg: bytes | None


def _or_reason(make: Callable[[], _Made]) -> _Made | str:
    """Return what `make` makes of a file, or why it cannot."""
    try:
        return make()
    except (MemoryError, UserError):  # the machine's state, not the file's
        raise
    except FileNotFoundError:
        return "no such file"
    except UnidentifiedImageError:  # its text holds a memory address
        return "not a JPEG, PNG or WebP image"
    except Exception as error:  # damaged files make the decoders raise SyntaxError, ValueError, struct.error and more
        return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _read(path: Path, max_pixels: int) -> _Upright:
    """Decode a file; `ValueError` with the reason where it is not one to decode."""
    with only_lasting_errors(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        data = path.read_bytes()
    if not data:
        raise ValueError("empty file (0 bytes)")
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels, more than max_pixels {max_pixels}")
        image.load()
        turn = _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
        # MPO: what Pillow calls a JPEG with a preview or a depth map behind the picture.
        if image.format in ("JPEG", "MPO") and image.mode == "RGB" and turn is None:
            return _Upright(image, data)
        rgb = _to_rgb(image)
    return _Upright(rgb if turn is None else rgb.transpose(turn), None)


def _to_photo(upright: _Upright, max_side: int) -> Photo:
    rgb, original = upright.rgb, upright.rgb.size
    if max(original) > max_side:
        width, height = (max(1, round(side * max_side / max(original))) for side in original)
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
    elif upright.jpeg is not None:
        return Photo(upright.jpeg, original, original)
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=95, subsampling=0)
    return Photo(buffer.getvalue(), rgb.size, original)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
        wide = np.asarray(image).astype(np.int64)
        grey = (wide >> 8).astype(np.uint8)  # the high byte, as Pillow does for 16-bit colour
        grey[wide == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


@contextlib.contextmanager
def only_our_limits() -> Iterator[None]:
    """Switch off Pillow's own limit and warnings: `max_pixels` and the reasons in the manifest replace them."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
