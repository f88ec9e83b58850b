import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from unsam_lightning.errors import UserError
from unsam_lightning.image_sample import decode_image
from unsam_lightning.manifest import Manifest, ShardInfo, sha256_file
from unsam_lightning.shards import ShardReader, ShardWriter

COUNTS = (3, 3, 1)


def content_of(index: int, extension: str) -> bytes:
    return f"{extension} {index} ".encode() * (100 * index + 1)


def write_shards(folder: Path) -> Manifest:
    shards, index = [], 0
    for number, count in enumerate(COUNTS):
        with ShardWriter(folder / f"p-00000{number}.tar") as writer:
            for _ in range(count):
                writer.write(f"p-{index:08d}", {ext: content_of(index, ext) for ext in ("json", "jpg")})
                index += 1
        assert writer.info is not None
        shards.append(writer.info)
    return Manifest(folder / "p.yaml", "images", "p", shards)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_shards(tmp_path)


def encode(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def draw(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_written_info_describes_the_file(manifest: Manifest) -> None:
    for info, count in zip(manifest.shards, COUNTS, strict=True):
        path = manifest.root / info.file
        assert info == ShardInfo(path.name, count, path.stat().st_size, sha256_file(path))
    assert sorted(os.listdir(manifest.root)) == ["p-000000.tar", "p-000001.tar", "p-000002.tar"]


def test_the_same_samples_give_the_same_bytes_at_any_time(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "again").mkdir()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert write_shards(tmp_path / "again").shards == manifest.shards


def test_webdataset_reads_the_shards(manifest: Manifest) -> None:
    urls = [str(manifest.root / info.file) for info in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [(sample["__key__"], sample["jpg"]) for sample in samples] == [
        (f"p-{index:08d}", content_of(index, "jpg")) for index in range(sum(COUNTS))
    ]


def test_an_exception_leaves_no_file_and_the_older_one_untouched(manifest: Manifest) -> None:
    path = manifest.root / "p-000000.tar"
    before = path.read_bytes()

    def interrupted() -> None:
        with ShardWriter(path) as writer:
            writer.write("a", {"jpg": b"1" * 50_000})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert not list(manifest.root.glob(".*"))


def test_two_writers_of_one_shard_do_not_mix(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar") as outer, ShardWriter(tmp_path / "a.tar") as inner:
        outer.write("a", {"jpg": b"outer" * 5_000})
        inner.write("a", {"jpg": b"inner"})
    assert outer.info is not None
    manifest = Manifest(tmp_path / "a.yaml", "images", "a", [outer.info])  # it ends last
    assert ShardReader(manifest).read(0)["jpg"] == b"outer" * 5_000
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize(("key", "files"), [("a.b", {"jpg": b""}), ("a", {})])
def test_samples_that_webdataset_would_misread_are_not_written(tmp_path: Path, key: str, files: dict) -> None:
    with pytest.raises(ValueError, match="key without dots"), ShardWriter(tmp_path / "a.tar") as writer:
        writer.write(key, files)
    with pytest.raises(ValueError, match="no samples"), ShardWriter(tmp_path / "a.tar"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [5_000, 500_000])  # noticed at the end, noticed while writing
def test_a_failing_disk_is_explained_and_leaves_nothing(tmp_path: Path, file_size_limit: None, size: int) -> None:
    def write() -> None:
        with ShardWriter(tmp_path / "a.tar") as writer:
            writer.write("a", {"jpg": bytes(size)})

    with pytest.raises(UserError, match=r"expected to write .*a.tar; found File too large; make room"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def file_size_limit() -> object:
    """A real failing write without a full disk: the kernel refuses files above 4 kB."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_any_sample_is_read_in_any_order(manifest: Manifest) -> None:
    reader = ShardReader(manifest, max_open=1, max_indexed=1)
    assert reader.num_samples == 7
    for index in (6, 0, 5, 2, 3, 1, 4, 0):
        sample = reader.read(index)
        assert list(sample) == ["__key__", "jpg", "json"]
        assert sample["__key__"] == f"p-{index:08d}"
        assert sample["jpg"] == content_of(index, "jpg")
        assert sample["json"] == content_of(index, "json")
    assert [reader.shard_of(index) for index in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    for index in (-1, 7):
        with pytest.raises(IndexError):
            reader.read(index)


def test_the_keys_of_a_shard_are_in_order(manifest: Manifest) -> None:
    assert ShardReader(manifest).keys(1) == ["p-00000003", "p-00000004", "p-00000005"]


def test_few_files_are_open_and_a_pickled_reader_opens_its_own(manifest: Manifest) -> None:
    def open_shards() -> list[str]:
        links = (Path(os.path.realpath(f"/proc/self/fd/{fd}")) for fd in os.listdir("/proc/self/fd"))
        return sorted(link.name for link in links if link.parent == manifest.root.resolve())  # of this test alone

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to see the open files")
    reader = ShardReader(manifest, max_open=2)
    for index in (0, 3, 6):
        reader.read(index)
    assert open_shards() == ["p-000001.tar", "p-000002.tar"]
    copy = pickle.loads(pickle.dumps(reader))
    assert len(open_shards()) == 2
    assert copy.read(6) == reader.read(6)
    assert open_shards() == ["p-000001.tar", "p-000002.tar", "p-000002.tar"]


def test_a_missing_shard_is_an_error_only_when_it_is_needed(manifest: Manifest) -> None:
    (manifest.root / "p-000001.tar").unlink()
    reader = ShardReader(manifest)
    assert reader.read(6)["__key__"] == "p-00000006"
    with pytest.raises(UserError, match=r"3 samples in \d+ bytes in p-000001.tar, as p.yaml lists; found missing"):
        reader.read(3)


@pytest.mark.parametrize("where", ["between samples", "inside a member", "inside a header", "the end marks"])
def test_a_cut_shard_is_refused_with_its_counts(manifest: Manifest, where: str) -> None:
    path = manifest.root / "p-000000.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    third = members[4]
    cut = {
        "between samples": third.offset,
        "inside a member": third.offset_data + 5,
        "inside a header": third.offset + 100,
        "the end marks": path.stat().st_size - 1024,
    }[where]
    samples = 2 if where in ("between samples", "inside a header") else 3
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError) as caught:
        ShardReader(manifest).keys(0)
    expected, _, rest = str(caught.value).partition("; found ")
    assert expected.startswith(f"expected 3 samples in {manifest.shards[0].bytes} bytes in p-000000.tar")
    assert rest.startswith(f"{samples} samples in {cut} bytes")
    assert "shards --verify" in rest


@pytest.mark.parametrize("listed", [2, 4])
def test_a_wrong_count_in_the_manifest_is_refused(manifest: Manifest, listed: int) -> None:
    first = manifest.shards[0]
    manifest.shards[0] = ShardInfo(first.file, listed, first.bytes, first.sha256)
    with pytest.raises(UserError, match=rf"expected {listed} samples .*; found 3 samples"):
        ShardReader(manifest).read(0)


def test_a_sample_without_image_is_refused_in_image_shards_only(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "p-000000.tar") as writer:
        writer.write("a", {"jpg": b"1"})
        writer.write("b", {"npz": b"2"})
    assert writer.info is not None
    with pytest.raises(UserError, match=r"p-000000.tar.* found 2 samples in \d+ bytes; no b.jpg"):
        ShardReader(Manifest(tmp_path / "p.yaml", "images", "p", [writer.info])).read(0)
    labels = ShardReader(Manifest(tmp_path / "p.yaml", "labels", "p", [writer.info]))
    assert labels.read(1) == {"__key__": "b", "npz": b"2"}


def test_a_shard_that_shrinks_under_the_reader_is_noticed(manifest: Manifest) -> None:
    reader = ShardReader(manifest)
    reader.keys(0)
    os.truncate(manifest.root / "p-000000.tar", 600)
    with pytest.raises(UserError, match=r"bytes of p-00000002.jpg"):
        reader.read(2)


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 90}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})]
)
def test_decoding_gives_pixels_and_every_cut_is_noticed(kind: str, options: dict) -> None:
    data = encode(draw(), kind, **options)
    pixels = decode_image(data, "here")
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    for cut in [*range(0, len(data) - 8, len(data) // 40), len(data) - 5]:
        with pytest.raises(UserError, match=r"expected a readable image in p.tar p-1; found \d+ bytes"):
            decode_image(data[:cut], "p.tar p-1")


def test_decoding_is_rgb_grey_becomes_three_channels_and_exif_is_left_alone() -> None:
    red = np.zeros((8, 16, 3), np.uint8)
    red[..., 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode_image(encode(red, "JPEG", exif=exif), "here")
    assert pixels.shape == (8, 16, 3)
    assert abs(pixels.astype(int) - red).max() <= 2
    grey = decode_image(encode(np.full((4, 5), 77, np.uint8), "PNG"), "here")
    np.testing.assert_array_equal(grey, np.full((4, 5, 3), 77))
