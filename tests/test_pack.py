import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from drawn_images import QUARTERS, content, draw, make_photos, png, save
from PIL import Image

from unsam_lightning import pack
from unsam_lightning.errors import UserError
from unsam_lightning.image_sample import decode_image
from unsam_lightning.pack import pack_images
from unsam_lightning.shards import ShardReader
from unsam_lightning.verify import verify_manifest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


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
        assert about.pop("crc32") == zlib.crc32(sample["jpg"])
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
    assert found in str(caught.value).partition("; found ")[2]
    assert "folder" not in str(caught.value)  # which is there
    assert ("letters" in str(caught.value)) is ("name" in options)
    assert not (tmp_path / "out").exists()


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^expected a folder of images; found .*nowhere, which is missing; check"):
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


def test_real_photos_are_kept_or_reduced(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "SA-1B_images_unlabelled"
    manifest = pack_images(folder, tmp_path, name="sa", max_side=1500)
    reader = ShardReader(manifest)
    assert reader.num_samples == len(list(folder.rglob("*.jpg")))
    for sample in map(reader.read, range(reader.num_samples)):
        about = json.loads(sample["json"])
        height, width, _ = decode_image(sample["jpg"], "").shape
        assert (height, width) == (about["height"], about["width"])
        assert max(height, width) == min(1500, max(about["original_width"], about["original_height"]))
        assert width / height == pytest.approx(about["original_width"] / about["original_height"], rel=2e-3)


def test_a_process_says_one_line_about_shards_that_were_there(
    photos: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    def lines() -> list[str]:
        pack_images(photos, tmp_path / "out", name="p")
        return capsys.readouterr().out.splitlines()

    [packed] = lines()
    assert packed.startswith(f"{tmp_path}/out/p.yaml: 10 images in 1 shards, ")
    assert lines() == []  # said above
    monkeypatch.setattr(pack, "_reported", set())  # what a new process starts with
    assert lines() == [f"already packed: {packed}"]
    assert lines() == []
    shutil.rmtree(tmp_path / "out")
    assert lines() == [packed]  # packed anew is news
