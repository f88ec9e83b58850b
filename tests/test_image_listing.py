import json
import os
from pathlib import Path

import pytest
from drawn_images import draw, make_photos, save

from unsam_lightning.errors import UserError
from unsam_lightning.pack import pack_images
from unsam_lightning.shards import ShardReader


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


def test_links_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "store" / "x.png", draw(1))
    folder = tmp_path / "photos"
    save(folder / "a" / "y.png", draw(2))
    (folder / "a" / "circle").symlink_to(folder)
    (folder / "b").symlink_to(tmp_path / "store")
    (folder / "c").symlink_to(tmp_path / "store")
    (folder / "z.png").symlink_to(tmp_path / "store" / "x.png")
    reader = ShardReader(pack_images(folder, tmp_path / "out"))
    files = [json.loads(reader.read(index)["json"])["file"] for index in range(reader.num_samples)]
    assert files == ["a/y.png", "b/x.png", "z.png"]


@pytest.mark.parametrize("inside", [".", "sub"])
def test_packing_into_the_folder_itself_reads_nothing_back(photos: Path, tmp_path: Path, inside: str) -> None:
    pack_images(photos, tmp_path / "out", name="p", images_per_shard=3)
    (photos / inside).mkdir(exist_ok=True)
    (photos / inside / ".p.yaml.0123abcd.tmp").touch()  # as a killed run leaves it
    for _ in range(2):  # the second time the first one's shards lie there
        pack_images(photos, photos / inside, name="p", images_per_shard=3)
        (photos / inside / "p.yaml").rename(tmp_path / "p.yaml")
        for path in (photos / inside).glob("*.tar"):
            assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
        assert (tmp_path / "p.yaml").read_bytes() == (tmp_path / "out" / "p.yaml").read_bytes()
        (tmp_path / "p.yaml").rename(photos / inside / "p.yaml")


def test_a_file_that_may_not_be_looked_at_is_listed_as_broken(photos: Path, tmp_path: Path, monkeypatch) -> None:
    stat = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:  # as root, permissions would not stop us
        if path.name == "03.png":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    manifest = pack_images(photos, tmp_path / "out")
    assert {"file": "03.png", "reason": "Permission denied"} in manifest.extra["broken"]
    assert manifest.num_samples == 9


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
