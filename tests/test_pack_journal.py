import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from drawn_images import content, draw, make_photos, save

from unsam_lightning import pack
from unsam_lightning.errors import UserError
from unsam_lightning.pack import pack_images
from unsam_lightning.pack_journal import Plan
from unsam_lightning.photo import Photo, prepare_photo


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


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
    assert found in str(caught.value).partition("; found ")[2]
    assert "; choose another --name" in str(caught.value)
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


def test_two_runs_at_once_do_not_mix_and_the_later_one_waits(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits, original = threading.Event(), pack.begin

    def begin(plan: Plan) -> AbstractContextManager[None]:
        if plan.partial.exists():
            waits.set()
        return original(plan)

    def write(*args: Any) -> None:
        num_written.append(1)
        assert waits.wait(30)
        write_shards(*args)

    num_written: list[int] = []
    write_shards = pack._write_shards
    monkeypatch.setattr(pack, "begin", begin)
    monkeypatch.setattr(pack, "_write_shards", write)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(pack_images, photos, tmp_path / "out", name="p", images_per_shard=3)
        while not num_written:
            time.sleep(0.01)
        second = pool.submit(pack_images, photos, tmp_path / "out", name="p", images_per_shard=3)
        assert first.result(60) == second.result(60)
    assert len(num_written) == 1
    assert f"waiting for another process, which packs p into {tmp_path / 'out'}\n" in capsys.readouterr().out
    assert not (tmp_path / "out" / ".p.partial").exists()


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
