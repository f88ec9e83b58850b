import fcntl
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from unsam_lightning import pack
from unsam_lightning.errors import UserError
from unsam_lightning.manifest import verify_manifest
from unsam_lightning.pack import Photo, pack_images, prepare_photo
from unsam_lightning.shards import ShardReader, decode_image

LIMITS = {"max_side": 1500, "max_pixels": 1_000_000}

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


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images and three broken files, in an order in which the broken ones fall into, between and after shards."""
    folder = tmp_path / "photos"
    for k in range(10):
        save(folder / f"{k:02d}.png", draw(k))
    for name in ("01b.jpg", "03b.jpg", "99.jpg"):
        (folder / name).write_bytes(b"no image")
    return folder


# One image -----------------------------------------------------------------------------------------------------------


def test_a_jpeg_that_needs_no_change_keeps_its_bytes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", QUARTERS, quality=50, exif=orientation(1))
    assert prepare_photo(path, **LIMITS) == Photo(path.read_bytes(), (48, 32), (48, 32))
    path = save(tmp_path / "b.jpg", QUARTERS, format="MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert prepare_photo(path, **LIMITS) == Photo(path.read_bytes(), (48, 32), (48, 32))


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


def png(width: int, height: int, header: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", struct.pack(">II", width, height) + header), *chunks, (b"IEND", b"")]:
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return body


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


def test_an_absurd_size_is_refused_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60_000, 50_000, bytes([8, 2, 0, 0, 0]), [(b"IDAT", zlib.compress(bytes(999)))]))
    save(tmp_path / "ok.png", QUARTERS)
    loaded = []
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", lambda self: loaded.append(self.size))
    with pytest.raises(UserError, match=r"2 broken files \(bomb.png: 60000 x 50000 pixels.*; ok.png: 48 x 32 pixels"):
        pack_images(tmp_path, tmp_path / "out", name="p", max_pixels=32 * 48 - 1)
    assert loaded == []
    monkeypatch.undo()
    pack_images(tmp_path, tmp_path / "out", name="p", max_pixels=32 * 48)
    assert yaml.safe_load((tmp_path / "out" / "p.yaml").read_text())["broken"] == [
        {"file": "bomb.png", "reason": "60000 x 50000 pixels, more than max_pixels 1536"}
    ]


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
    assert reasons["dangling.jpg"] == reasons["pipe.jpg"] == "not a regular file"
    assert all(isinstance(reason, str) and reason for reason in reasons.values()), reasons


# A folder ------------------------------------------------------------------------------------------------------------


def test_any_tree_of_any_names_is_packed_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my photos.v2"
    names = ["b.JPG", "a/b.jpeg", "a/b.PNG", "a b/ü 写真.x.WebP", "a/.hidden/c.png", ".jpg/d.jpg", "-x.JPEG"]
    for seed, name in enumerate(names):
        save(folder / name, draw(seed))
    for name in ("notes.txt", "a/film.gif", "jpg"):
        (folder / name).write_bytes(b"1")
    (folder / "a" / "broken.jpg").write_bytes(b"1")
    manifest = pack_images(folder, tmp_path / "out", images_per_shard=3, licence="CC0", source="drawn")

    reader = ShardReader(manifest)
    samples = [reader.read(index) for index in range(reader.num_samples)]
    assert [json.loads(sample["json"])["file"] for sample in samples] == sorted(names)
    assert [sample["__key__"] for sample in samples] == [f"my_photos_v2-{index:08d}" for index in range(7)]
    for sample in samples:
        about = json.loads(sample["json"])
        assert about == {
            "file": about["file"], "width": 32, "height": 24, "original_width": 32, "original_height": 24
        }  # fmt: skip
        expected = np.asarray(Image.open(folder / about["file"]).convert("RGB")).astype(int)
        assert abs(decode_image(sample["jpg"], "") - expected).mean() < 4

    listed = yaml.safe_load((tmp_path / "out" / "my_photos_v2.yaml").read_text())
    assert [shard["samples"] for shard in listed.pop("shards")] == [3, 3, 1]
    assert len(listed.pop("listing_sha256")) == 64
    assert listed == {
        "format": "unsam_lightning/images/1",
        "name": "my_photos_v2",
        "num_images": 7,
        "source": "drawn",
        "licence": "CC0",
        "options": {"images_per_shard": 3, "max_side": 1500, "max_pixels": 178_000_000},
        "image_size": {"width": {"min": 32, "median": 32, "max": 32}, "height": {"min": 24, "median": 24, "max": 24}},
        "ignored_files": 3,
        "broken": [{"file": "a/broken.jpg", "reason": "not a JPEG, PNG or WebP image"}],
    }
    assert verify_manifest(manifest.path) == manifest
    assert capsys.readouterr().out == (
        f"{tmp_path}/out/my_photos_v2.yaml: 7 images in 3 shards, 0.000 GB; 1 broken (listed in the manifest; first "
        "a/broken.jpg: not a JPEG, PNG or WebP image); 3 files of other types ignored\n"
    )


def test_the_same_images_give_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    pack_images(photos, tmp_path / "one", name="p", images_per_shard=3)
    copy = tmp_path / "elsewhere"
    for path in sorted(photos.iterdir(), reverse=True):  # another order on the disk, other times
        copy.mkdir(exist_ok=True)
        (copy / path.name).write_bytes(path.read_bytes())
        os.utime(copy / path.name, (1e9, 1e9))
    pack_images(copy, tmp_path / "two", name="p", images_per_shard=3)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert set(content(tmp_path / "one")) == {"p.yaml", *(f"p-00000{k}.tar" for k in range(4))}
    assert str(tmp_path).encode() not in b"".join(content(tmp_path / "one").values())
    broken = yaml.safe_load((tmp_path / "one" / "p.yaml").read_text())["broken"]
    assert [entry["file"] for entry in broken] == ["01b.jpg", "03b.jpg", "99.jpg"]


def test_file_names_that_are_no_utf8_are_written_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    save(folder / "a.jpg", QUARTERS)
    try:
        shutil.copy(folder / "a.jpg", os.fsdecode(os.fsencode(folder) + b"/b\xff.jpg"))
        shutil.copy(__file__, os.fsdecode(os.fsencode(folder) + b"/c\xff.jpg"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    manifest = pack_images(folder, tmp_path / "out")
    assert json.loads(ShardReader(manifest).read(1)["json"])["file"] == "b\\udcff.jpg"
    assert verify_manifest(manifest.path).extra["broken"][0]["file"] == "c\\udcff.jpg"


def test_links_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "store" / "x.png", draw(1))
    folder = tmp_path / "photos"
    save(folder / "a" / "y.png", draw(2))
    (folder / "a" / "circle").symlink_to(folder)
    (folder / "b").symlink_to(tmp_path / "store")
    (folder / "c").symlink_to(tmp_path / "store")
    (folder / "z.png").symlink_to(tmp_path / "store" / "x.png")
    reader = ShardReader(pack_images(folder, tmp_path / "out"))
    files = [json.loads(sample["json"])["file"] for sample in reader.iter_shard(0)]
    assert files == ["a/y.png", "b/x.png", "z.png"]


@pytest.mark.parametrize("inside", [".", "sub"])
def test_packing_into_the_folder_itself_reads_nothing_back(photos: Path, tmp_path: Path, inside: str) -> None:
    pack_images(photos, tmp_path / "out", name="p", images_per_shard=3)
    for _ in range(2):  # the second time the first one's shards lie there
        pack_images(photos, photos / inside, name="p", images_per_shard=3)
        (photos / inside / "p.yaml").rename(tmp_path / "p.yaml")
        for path in (photos / inside).glob("*.tar"):
            assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
        assert (tmp_path / "p.yaml").read_bytes() == (tmp_path / "out" / "p.yaml").read_bytes()
        (tmp_path / "p.yaml").rename(photos / inside / "p.yaml")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"name": "a/b"}, "name 'a/b'"),
        ({"name": "a.b"}, "name 'a.b'"),
        ({"name": ""}, "name ''"),
        ({"name": "x" * 65}, "name 'xxx"),
        ({"images_per_shard": 0, "max_side": -1, "max_pixels": 0}, "images_per_shard 0; max_side -1; max_pixels 0"),
    ],
)
def test_bad_arguments_are_refused(photos: Path, tmp_path: Path, options: dict, found: str) -> None:
    with pytest.raises(UserError) as caught:
        pack_images(photos, tmp_path / "out", **options)
    assert found in caught.value.found
    assert not (tmp_path / "out").exists()


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere, which is missing"):
        pack_images(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file, which is a file"):
        pack_images(tmp_path / "file", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found no files"):
        pack_images(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "a.txt").touch()
    with pytest.raises(UserError, match="found 1 files of other types"):
        pack_images(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "a.jpg").touch()
    with pytest.raises(UserError, match=r"found 1 broken files \(a.jpg: empty file"):
        pack_images(tmp_path / "empty", tmp_path / "out")
    assert not content(tmp_path / "out")
    save(tmp_path / "empty" / "a.jpg", QUARTERS)
    with pytest.raises(UserError, match="expected to write"):
        pack_images(tmp_path / "empty", tmp_path / "file" / "out")


def test_an_unreadable_folder_is_refused_not_skipped(photos: Path, tmp_path: Path, monkeypatch) -> None:
    (photos / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:  # as root, permissions would not stop us
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=r"locked: Permission denied"):
        pack_images(photos, tmp_path / "out")


def test_a_full_disk_is_explained_and_the_next_run_goes_on(photos: Path, tmp_path: Path, monkeypatch) -> None:
    pack_images(photos, tmp_path / "one", name="p", images_per_shard=3)
    fsync, num_calls = os.fsync, [0]

    def full(fd: int) -> None:
        num_calls[0] += 1
        if num_calls[0] > 4:  # run.json, shard 0, its journal, shard 1
            raise OSError(28, "No space left on device")
        fsync(fd)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"expected to write .*; found No space left on device; make room"):
        pack_images(photos, tmp_path / "two", name="p", images_per_shard=3)
    monkeypatch.setattr("os.fsync", fsync)
    pack_images(photos, tmp_path / "two", name="p", images_per_shard=3)
    assert content(tmp_path / "one") == content(tmp_path / "two")


# Again ---------------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_repeated(photos: Path, tmp_path: Path, monkeypatch) -> None:
    first = pack_images(photos, tmp_path / "out", name="p", images_per_shard=3)
    monkeypatch.setattr(pack, "prepare_photo", None)
    assert pack_images(photos, tmp_path / "out", name="p", images_per_shard=3) == first
    (tmp_path / "out" / "p-000001.tar").unlink()
    with pytest.raises(UserError, match=r"missing p-000001\.tar"):
        pack_images(photos, tmp_path / "out", name="p", images_per_shard=3)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"max_side": 20}, "options {'images_per_shard': 3, 'max_side': 1500"),
        ({"licence": "CC0"}, "licence 'unknown' instead of 'CC0'"),
        ({}, "listing_sha256"),
    ],
)
def test_a_manifest_of_other_content_is_never_replaced(photos: Path, tmp_path: Path, options: dict, found: str) -> None:
    pack_images(photos, tmp_path / "out", name="p", images_per_shard=3)
    before = content(tmp_path / "out")
    if not options:
        save(photos / "new.png", draw(99))
    with pytest.raises(UserError) as caught:
        pack_images(photos, tmp_path / "out", **{"name": "p", "images_per_shard": 3, **options})
    assert found in caught.value.found
    assert "choose another --name" in caught.value.remedy
    assert content(tmp_path / "out") == before


def test_shards_without_manifest_and_unfinished_runs_of_others_are_not_overwritten(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pack_images(photos, out, name="p", images_per_shard=3)
    pack_images(photos, out, name="p-2", images_per_shard=3)  # not taken for shards of p
    pack_images(photos, out, name="p", images_per_shard=3)
    (out / "p.yaml").unlink()
    with pytest.raises(UserError, match="found 4 without a manifest"):
        pack_images(photos, out, name="p", images_per_shard=3)
    (out / ".p.partial").mkdir()
    (out / ".p.partial" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="expected an unfinished run of the same images and options"):
        pack_images(photos, out, name="p", images_per_shard=3)


def test_two_runs_at_once_do_not_mix(photos: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out" / ".p.partial"
    partial.mkdir(parents=True)
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process that is at it"):
            pack_images(photos, tmp_path / "out", name="p")
    pack_images(photos, tmp_path / "out", name="p")


# Every run is killed at another moment: before and after each of the ten renames, and while a shard is being written.
KILLER = """
import os, signal, sys
from pathlib import Path
from unsam_lightning import pack

photos, root, num_renames = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

def die_at(owner, name, call):
    original, calls = getattr(owner, name), []
    def counted(*args, **options):
        calls.append(1)
        return kill() if len(calls) == call else original(*args, **options)
    setattr(owner, name, counted)

moments = [(os, "replace", k + 1) for k in range(num_renames)]
moments += [(pack.ShardWriter, "write", 2), (pack.ShardWriter, "write", 8), (pack.shutil, "rmtree", 1)]
for number, moment in enumerate(moments):
    child = os.fork()
    if not child:
        die_at(*moment)
        pack.pack_images(photos, root / str(number), name="p", images_per_shard=3)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, moment
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(photos: Path, tmp_path: Path, monkeypatch) -> None:
    undisturbed = tmp_path / "undisturbed"
    pack_images(photos, undisturbed, name="p", images_per_shard=3)
    num_renames = 1 + 2 * 4 + 1  # run.json; shard and journal, four times; the manifest
    root = tmp_path / "killed"
    root.mkdir()
    subprocess.run([sys.executable, "-c", KILLER, photos, root, str(num_renames)], check=True, timeout=120)

    num_read: list[int] = []
    original = prepare_photo

    def counted(path: Path, **limits: int) -> Photo | str:
        num_read[-1] += 1
        return original(path, **limits)

    monkeypatch.setattr(pack, "prepare_photo", counted)
    killed = sorted(root.iterdir(), key=lambda path: int(path.name))
    for folder in killed:
        assert content(folder) != content(undisturbed)
        num_read.append(0)
        pack_images(photos, folder, name="p", images_per_shard=3)
        assert content(folder) == content(undisturbed)
    # 13 files; the shards end after the files 4 (0, 1, 1b, 2), 8 (3, 3b, 4, 5), 11 and 13. A shard counts once its
    # journal has been renamed, which is every second rename from the third on. Nothing is left to do before rmtree.
    assert num_read == [13, 13, 13, 9, 9, 5, 5, 2, 2, 0, 13, 5, 0]


def test_a_shard_lost_before_the_end_is_written_again(photos: Path, tmp_path: Path, monkeypatch) -> None:
    pack_images(photos, tmp_path / "one", name="p", images_per_shard=3)

    def stop(manifest: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack, "write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            pack_images(photos, tmp_path / "two", name="p", images_per_shard=3)
    os.truncate(tmp_path / "two" / "p-000001.tar", 100)
    pack_images(photos, tmp_path / "two", name="p", images_per_shard=3)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_without_a_terminal_progress_is_lines_with_rate_and_time(
    photos: Path, tmp_path: Path, capfd, monkeypatch
) -> None:
    monkeypatch.setattr(pack, "LOG_SECONDS", 0.0)
    pack_images(photos, tmp_path / "out", name="p")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 13
    assert lines[-1].startswith("p: 13/13 images, ")
    assert lines[-1].endswith(" images/s, 0:00:00 left")


def test_real_photos_are_kept_or_reduced(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "SA-1B_images_unlabelled"
    manifest = pack_images(folder, tmp_path, name="sa", max_side=1500)
    reader = ShardReader(manifest)
    assert reader.num_samples == len(list(folder.rglob("*.jpg")))
    for sample in reader.iter_shard(0):
        about = json.loads(sample["json"])
        height, width, _ = decode_image(sample["jpg"], "").shape
        assert (height, width) == (about["height"], about["width"])
        assert max(height, width) == min(1500, max(about["original_width"], about["original_height"]))
        assert width / height == pytest.approx(about["original_width"] / about["original_height"], rel=2e-3)
