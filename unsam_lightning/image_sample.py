"""One image as a sample of a shard: its files with a checksum, and its pixels once the checksum has been looked at.

A JPEG with noise in the middle decodes without an error; the CRC-32 beside it tells.
Next in the tour: `image_listing.py`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.errors import UserError


def image_files(jpeg: bytes, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of an image sample: `jpg`, and `json` with what is known about it and the JPEG's CRC-32."""
    return {"jpg": jpeg, "json": json.dumps({**about, "crc32": zlib.crc32(jpeg)}).encode()}


def read_image(sample: Mapping[str, Any], shard: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image sample, RGB uint8 (H, W, 3).

    Args:
        sample: As `ShardReader` gives it.
        shard: The shard's name, for the error message.

    Raises:
        UserError: The image is damaged: it cannot be decoded, or its bytes are not those that were packed.
    """
    where = f"{shard}, {sample['__key__']}"
    pixels = decode_image(sample["jpg"], where)
    # Shards that other tools made have no checksum.
    packed = json.loads(sample["json"]).get("crc32") if "json" in sample else None
    if packed is not None and packed != zlib.crc32(sample["jpg"]):
        raise UserError(
            expected=f"a readable image in {where}",
            found="bytes that are not those that were packed (their CRC-32 differs)",
            remedy="copy the shard again, or make it again from its images",
        )
    return pixels


def decode_image(data: bytes, where: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of an encoded image as stored: RGB uint8 (H, W, 3), no EXIF rotation.

    Decoded by OpenCV, with the same pixels as Pillow in about two thirds of the time.

    Args:
        data: A JPEG, PNG or WebP file.
        where: Shard and key, for the error message.

    Raises:
        UserError: The data are damaged or cut short.
    """
    pixels = None
    if data:
        # Neither OpenCV's own error (absurd sizes) nor its None (all other damage) says more than that it failed.
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise UserError(
            expected=f"a readable image in {where}",
            found=f"{len(data)} bytes that cannot be decoded",
            remedy="run `python -m unsam_lightning shards --verify MANIFEST`, then make a damaged shard again",
        )
    return np.asarray(pixels, dtype=np.uint8)
