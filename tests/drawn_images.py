"""Images as tests need them: drawn, written in any format, and a small folder of them with broken files between."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# Four quarters of plain colour: JPEG keeps them within a few grey levels, and any turn or flip shows.
CORNERS = np.array([[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [200, 200, 0]]], np.uint8)
QUARTERS = CORNERS.repeat(16, 0).repeat(24, 1)  # (32, 48, 3)


def draw(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def png(width: int, height: int, header: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", struct.pack(">II", width, height) + header), *chunks, (b"IEND", b"")]:
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return body


def make_photos(folder: Path) -> Path:
    """Ten images and three broken files, in an order in which the broken ones fall into, between and after shards."""
    for k in range(10):
        save(folder / f"{k:02d}.png", draw(k))
    for name in ("01b.jpg", "03b.jpg", "99.jpg"):
        (folder / name).write_bytes(b"no image")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
