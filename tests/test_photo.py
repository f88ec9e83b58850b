import errno
import io
import os
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn_images import QUARTERS, draw, png, save
from PIL import Image

from unsam_lightning.errors import UserError
from unsam_lightning.image_sample import decode_image
from unsam_lightning.pack import pack_images
from unsam_lightning.photo import Photo, prepare_photo, read_photo

LIMITS = {"max_side": 1500, "max_pixels": 1_000_000}


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def prepared(path: Path, **limits: int) -> np.ndarray:
    photo = prepare_photo(path, **{**LIMITS, **limits})
    assert isinstance(photo, Photo), photo
    pixels = decode_image(photo.jpeg, str(path)).astype(int)
    assert photo.size == (pixels.shape[1], pixels.shape[0])
    return pixels


def test_a_jpeg_that_needs_no_change_keeps_its_bytes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", QUARTERS, quality=50, exif=orientation(1))
    assert prepare_photo(path, **LIMITS) == Photo(path.read_bytes(), (48, 32), (48, 32))
    path = save(tmp_path / "b.jpg", QUARTERS, format="MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert prepare_photo(path, **LIMITS) == Photo(path.read_bytes(), (48, 32), (48, 32))


def test_the_pixels_alone_are_those_of_the_file_upright_and_opaque(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", noise, exif=orientation(6))
    pixels = read_photo(path, max_pixels=2400)
    np.testing.assert_array_equal(pixels, np.rot90(noise, -1))
    assert isinstance(pixels, np.ndarray)
    assert pixels.flags.writeable
    assert read_photo(path, max_pixels=2399) == "60 x 40 pixels, more than max_pixels 2399"
    path = save(tmp_path / "a.jpg", noise)
    np.testing.assert_array_equal(read_photo(path, max_pixels=2400), prepared(path))
    assert read_photo(tmp_path / "gone.png", max_pixels=1) == "no such file"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, value: int) -> None:
    upright = {  # what the eight values mean, by where the stored top left corner belongs
        1: QUARTERS,
        2: QUARTERS[:, ::-1],
        3: QUARTERS[::-1, ::-1],
        4: QUARTERS[::-1],
        5: QUARTERS.transpose(1, 0, 2),
        6: np.rot90(QUARTERS, -1),
        7: QUARTERS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(QUARTERS),
    }[value]
    options = {"lossless": True} if suffix == "webp" else {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    pixels = prepared(save(tmp_path / f"a.{suffix}", QUARTERS, exif=orientation(value), **options))
    assert pixels.shape == upright.shape
    assert abs(pixels - upright).max() <= 6


def test_a_long_side_is_reduced_after_turning(tmp_path: Path) -> None:
    smooth = cv2.GaussianBlur(draw(0, 80, 160), (0, 0), 6)
    path = save(tmp_path / "a.jpg", smooth, quality=100, subsampling=0, exif=orientation(6))
    photo = prepare_photo(path, max_side=50, max_pixels=10**6)
    assert isinstance(photo, Photo)
    assert (photo.size, photo.original) == ((25, 50), (80, 160))
    expected = cv2.resize(np.rot90(smooth, -1), (25, 50), interpolation=cv2.INTER_AREA)
    assert abs(prepared(path, max_side=50) - expected).mean() < 3
    thin = prepare_photo(save(tmp_path / "thin.png", np.zeros((1, 400, 3), np.uint8)), max_side=50, max_pixels=10**6)
    assert isinstance(thin, Photo)
    assert thin.size == (50, 1)


def test_reencoding_keeps_colour_at_full_resolution(tmp_path: Path) -> None:
    photo = prepare_photo(save(tmp_path / "a.png", QUARTERS), **LIMITS)
    assert isinstance(photo, Photo)
    with Image.open(io.BytesIO(photo.jpeg)) as image:
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3  # 4:4:4
        reference = io.BytesIO()
        Image.fromarray(QUARTERS).save(reference, "JPEG", quality=95)
        assert image.quantization == Image.open(reference).quantization


def test_cmyk_and_grey_and_one_bit_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(QUARTERS).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert abs(prepared(tmp_path / "cmyk.jpg") - QUARTERS).mean() < 6
    grey = np.linspace(0, 255, 32 * 48).astype(np.uint8).reshape(32, 48)
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=95)
    assert abs(prepared(tmp_path / "grey.jpg") - grey[..., None]).max() <= 6
    Image.fromarray(grey > 99).save(tmp_path / "bit.png")
    assert abs(prepared(tmp_path / "bit.png") - 255 * (grey > 99)[..., None]).mean() < 2


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 32).astype(np.uint16)[:, None].repeat(48, 1)
    expected = wide[..., None] / 257.0
    cv2.imwrite(str(tmp_path / "grey.png"), wide)
    assert abs(prepared(tmp_path / "grey.png") - expected).max() <= 3
    cv2.imwrite(str(tmp_path / "rgb.png"), np.stack([wide] * 3, -1))
    assert abs(prepared(tmp_path / "rgb.png") - expected).max() <= 3
    cv2.imwrite(str(tmp_path / "rgba.png"), np.stack([wide, wide, wide, np.full_like(wide, 65535)], -1))
    assert abs(prepared(tmp_path / "rgba.png") - expected).max() <= 3


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    alpha = np.full((32, 48, 1), 255, np.uint8)
    alpha[:, :24], alpha[:16, :24] = 0, 128
    expected = QUARTERS * (alpha / 255) + 255 * (1 - alpha / 255)
    rgba = np.concatenate([QUARTERS, alpha], -1)
    for name, options in (("a.png", {}), ("a.webp", {"lossless": True})):
        assert abs(prepared(save(tmp_path / name, rgba, **options)) - expected).mean() < 2


def test_palettes_keep_their_colours_and_their_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(QUARTERS).quantize(8)
    palette.save(tmp_path / "opaque.png")
    assert abs(prepared(tmp_path / "opaque.png") - QUARTERS).max() <= 6
    first = np.asarray(palette)[0, 0]
    palette.save(tmp_path / "hole.png", transparency=bytes(0 if k == first else 255 for k in range(8)))
    expected = QUARTERS.copy()
    expected[:16, :24] = 255
    assert abs(prepared(tmp_path / "hole.png") - expected).mean() < 3


@pytest.mark.parametrize("colour_type", [0, 2])
def test_sixteen_bit_colour_keys_are_read(tmp_path: Path, colour_type: int) -> None:
    # Left half 0x1234 per channel, which is declared transparent; right half 0x8000.
    channels = 3 if colour_type == 2 else 1
    row = b"\0" + b"\x12\x34" * 8 * channels + b"\x80\x00" * 8 * channels
    chunks = [(b"tRNS", b"\x12\x34" * channels), (b"IDAT", zlib.compress(row * 16))]
    (tmp_path / "a.png").write_bytes(png(16, 16, bytes([16, colour_type, 0, 0, 0]), chunks))
    pixels = prepared(tmp_path / "a.png")
    assert abs(pixels[:, 9:] - 128).max() <= 4
    if colour_type == 0:  # Pillow drops the 16-bit key of colour images: they stay opaque
        assert pixels[:, :7].min() >= 251


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_animations_give_their_first_frame(tmp_path: Path, suffix: str) -> None:
    rest = [Image.fromarray(255 - QUARTERS), Image.fromarray(QUARTERS[::-1])]
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", QUARTERS, save_all=True, append_images=rest, duration=100, **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert abs(prepared(path) - QUARTERS).max() <= 6


def test_the_content_decides_not_the_ending(tmp_path: Path) -> None:
    assert abs(prepared(save(tmp_path / "png.JPG", QUARTERS, format="PNG")) - QUARTERS).max() <= 6
    Image.fromarray(QUARTERS).save(tmp_path / "gif.png", "GIF")
    assert prepare_photo(tmp_path / "gif.png", **LIMITS) == "not a JPEG, PNG or WebP image"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = path.read_bytes()
    for length in (1, 10, 100, len(whole) // 2, len(whole) - 50):
        path.write_bytes(whole[:length])
        reason = prepare_photo(path, **LIMITS)
        assert isinstance(reason, str)
        assert reason
        assert "0x" not in reason  # a memory address would make two runs differ
        assert str(tmp_path) not in reason


def test_a_file_in_a_locked_folder_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:  # as root, permissions would not stop us
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        assert prepare_photo(tmp_path / "a.png", **LIMITS) == "Permission denied"
    assert prepare_photo(tmp_path / ("x" * 5000), **LIMITS) == "File name too long"


@pytest.mark.parametrize("name", ["stat", "read_bytes"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ETIMEDOUT])
def test_a_passing_failure_is_no_reason_to_leave_an_image_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    for n in range(3):
        save(tmp_path / "photos" / f"{n}.png", QUARTERS)

    with monkeypatch.context() as patch:
        original = getattr(Path, name)

        def fail(path: Path, **options: bool) -> Any:
            if path.name == "1.png":
                raise OSError(number, os.strerror(number), str(path))
            return original(path, **options)

        patch.setattr(Path, name, fail)
        with pytest.raises(UserError, match=rf"to read .*1\.png; found {os.strerror(number)}.*; run the same command"):
            pack_images(tmp_path / "photos", tmp_path / "out")
    manifest = pack_images(tmp_path / "photos", tmp_path / "out")
    assert (manifest.num_samples, manifest.extra["broken"]) == (3, [])


def test_files_that_are_no_images_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    (tmp_path / "none.png").write_bytes(png(0, 5, bytes([8, 2, 0, 0, 0]), [(b"IDAT", zlib.compress(b""))]))
    damaged = bytearray(save(tmp_path / "damaged.png", QUARTERS).read_bytes())
    damaged[60] ^= 255
    (tmp_path / "damaged.png").write_bytes(damaged)
    reasons = {path.name: prepare_photo(path, **LIMITS) for path in tmp_path.iterdir()}
    assert reasons["empty.jpg"] == "empty file (0 bytes)"
    assert reasons["text.jpg"] == "not a JPEG, PNG or WebP image"
    assert reasons["dangling.jpg"] == "no such file"
    assert reasons["pipe.jpg"] == "not a regular file"
    assert all(isinstance(reason, str) and reason for reason in reasons.values()), reasons
