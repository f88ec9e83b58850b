"""The label stage in this process: odd images, a full disk, a second process, files of masks, its own clock."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from unsam_lightning.aside import lock
from unsam_lightning.errors import UserError
from unsam_lightning.image_sample import image_files
from unsam_lightning.manifest import Manifest, write_manifest
from unsam_lightning.model import UnSAM
from unsam_lightning.pairs import decode_masks
from unsam_lightning.photo import Photo, prepare_photo
from unsam_lightning.pseudo_labels import features
from unsam_lightning.pseudo_labels.labeler import Labeler
from unsam_lightning.pseudo_labels.recipe import LabelRecipe
from unsam_lightning.shards import ShardReader, ShardWriter


@pytest.fixture(scope="module")
def nano() -> UnSAM:
    return UnSAM.from_pretrained("nano")


def noise(seed: int, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def pack(root: Path, images: list[np.ndarray], per_shard: int = 2) -> Path:
    root.mkdir()
    shards = []
    for first in range(0, len(images), per_shard):
        with ShardWriter(root / f"odd-{len(shards):06d}.tar") as writer:
            for n in range(first, min(first + per_shard, len(images))):
                jpeg = cv2.imencode(".jpg", images[n])[1].tobytes()
                writer.write(f"odd-{n:08d}", image_files(jpeg, {"file": f"photo{n}.jpg"}))
        shards.append(writer.info)
    write_manifest(Manifest(root / "odd.yaml", "images", "odd", shards, {"source": "drawn", "licence": "none"}))
    return root / "odd.yaml"


def make(model: UnSAM, images: Path, recipe: LabelRecipe = LabelRecipe(), threads: int = 2) -> tuple[Manifest, Labeler]:  # noqa: B008
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    labeler = Labeler(model, recipe, str(images), images.parent / "cache", num_workers=0, num_threads=threads)
    return labeler.make_labels(trainer), labeler


def folder_of(images: Path) -> Path:
    (folder,) = images.parent.glob("odd-labels-*")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("method", ["regions", "divide_conquer"])
def test_odd_images_have_labels_of_their_size(nano: UnSAM, tmp_path: Path, method: str) -> None:
    shapes = [(96, 128), (64, 64), (1, 300), (300, 1), (1, 1)]
    images = [noise(n, shape) for n, shape in enumerate(shapes)]
    images[1][:] = 77  # of one colour
    manifest, labeler = make(nano, pack(tmp_path / "odd", images), LabelRecipe(method=method, images_per_batch=3))
    reader = ShardReader(manifest)
    found = [json.loads(reader.read(n)["json"]) for n in range(len(images))]
    assert [(label["height"], label["width"]) for label in found] == shapes
    assert len(found[0]["masks"]) > 3
    if method == "regions":
        assert found[1]["masks"] == []
    for label in found:
        masks = decode_masks([entry["rle"] for entry in label["masks"]], label["height"], label["width"])
        assert masks.sum(axis=(1, 2)).tolist() == [entry["area"] for entry in label["masks"]]
    seconds = labeler.seconds_per_image()
    assert list(seconds) == ["encode", "masks", "write"]
    assert all(value > 0 for value in seconds.values())
    assert make(nano, tmp_path / "odd" / "odd.yaml", labeler.recipe)[1].seconds_per_image() == {}  # nothing was missing


def test_the_result_does_not_depend_on_threads_or_batches(nano: UnSAM, tmp_path: Path) -> None:
    images = [noise(n, (80 + 10 * n, 100)) for n in range(5)]
    packed = [pack(tmp_path / name, images) for name in ("one", "many")]
    make(nano, packed[0], threads=1)
    make(nano, packed[1], threads=4)
    assert content(folder_of(packed[0])) == content(folder_of(packed[1]))


def test_every_thread_has_work(nano: UnSAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, recipe = [noise(n, (40, 50)) for n in range(12)], LabelRecipe(images_per_batch=2)
    packed = [pack(tmp_path / name, images) for name in ("few", "many")]
    make(nano, packed[0], recipe, threads=1)
    all_at_work, label = threading.Barrier(8), Labeler._label

    def meet(*args: Any) -> tuple[bytes, float]:
        with contextlib.suppress(threading.BrokenBarrierError):
            all_at_work.wait(0 if met else 30)
            met.append(True)
        return label(*args)

    met: list[bool] = []
    monkeypatch.setattr(Labeler, "_label", meet)
    make(nano, packed[1], recipe, threads=8)
    assert len(met) == 8
    assert content(folder_of(packed[0])) == content(folder_of(packed[1]))


def test_features_that_are_no_numbers_are_told_and_nothing_is_written(
    nano: UnSAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pack(tmp_path / "odd", [noise(0, (64, 64))])
    original = features.encoder_features

    def broken(*args: object) -> dict[str, torch.Tensor]:
        return {level: found * torch.nan for level, found in original(*args).items()}

    monkeypatch.setattr(features, "encoder_features", broken)
    with pytest.raises(UserError, match="finite patch features; found NaN"):
        make(nano, images)
    assert content(folder_of(images)) == {}


def test_a_full_disk_leaves_nothing_half_written_and_the_next_run_goes_on(
    nano: UnSAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [noise(n, (64, 80)) for n in range(5)]
    undisturbed, disturbed = pack(tmp_path / "a", images), pack(tmp_path / "b", images)
    make(nano, undisturbed)
    expected = content(folder_of(undisturbed))
    assert len(expected) == 4  # three shards and the manifest
    fsync = os.fsync
    for allowed in range(4):  # the disk is full at each of the four files in turn
        room = iter([True] * min(allowed, 1))  # each run has room for one more file than the last

        def full(descriptor: int, room: Iterator[bool] = room) -> None:
            if not next(room, False):
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"expected to write .*odd.*; found No space left on device; make room"):
            make(nano, disturbed)
        written = content(folder_of(disturbed))
        assert written == {name: expected[name] for name in sorted(expected)[:allowed]}
    monkeypatch.setattr("os.fsync", fsync)
    make(nano, disturbed)
    assert content(folder_of(disturbed)) == expected


def test_a_second_process_waits_and_may_read_what_is_finished(
    nano: UnSAM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pack(tmp_path / "odd", [noise(0, (64, 64))])
    manifest, _ = make(nano, images)
    shard, written = manifest.root / manifest.shards[0].file, content(manifest.root)
    with ThreadPoolExecutor(1) as pool, lock(manifest.root / ".lock", "tests"):
        assert make(nano, images)[0] == manifest  # nothing to write
        shard.unlink()
        manifest.path.unlink()
        capsys.readouterr()
        later = pool.submit(make, nano, images)
        while f"waiting for another process, which writes labels to {manifest.root}" not in capsys.readouterr().out:
            time.sleep(0.05)
            assert not later.done()
        for name, data in written.items():  # the other finishes
            (manifest.root / name).write_bytes(data)
        time.sleep(0.7)
        assert not later.done()
    found, labeler = later.result()
    assert found == manifest
    assert labeler.num_labelled == 0


def test_a_cut_shard_is_removed_and_made_anew(nano: UnSAM, tmp_path: Path) -> None:
    images = pack(tmp_path / "odd", [noise(n, (64, 64)) for n in range(4)])
    manifest, _ = make(nano, images)
    written = content(manifest.root)
    manifest.path.unlink()
    first, second = (manifest.root / shard.file for shard in manifest.shards)
    os.truncate(second, 1536)  # tar's first file alone
    with pytest.raises(UserError, match=r"found odd-000001\.tar has 1 samples.*; run `label` again"):
        make(nano, images)
    assert first.exists()
    assert not second.exists()
    make(nano, images)
    assert content(manifest.root) == written


def test_a_lost_shard_that_is_made_to_other_bytes_is_listed_as_it_is(nano: UnSAM, tmp_path: Path) -> None:
    images = pack(tmp_path / "odd", [noise(n, (64, 64)) for n in range(4)])
    manifest, _ = make(nano, images)
    text = manifest.path.read_text()
    # As if the lost shard had been another machine's, where a mask came out otherwise.
    manifest.path.write_text(text.replace(manifest.shards[1].sha256, "0" * 64))
    (manifest.root / manifest.shards[1].file).unlink()
    make(nano, images)
    assert manifest.path.read_text() == text


def test_a_folder_may_grow_while_its_labels_are_made(
    nano: UnSAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in range(2):
        cv2.imwrite(str(photos / f"{n}.png"), noise(n, (64, 64)))

    def grow(labeler: Labeler) -> None:
        cv2.imwrite(str(photos / "2.png"), noise(2, (64, 64)))

    monkeypatch.setattr(Labeler, "on_predict_start", grow)
    manifest, labeler = make(nano, photos)
    assert manifest.num_samples == 2
    with pytest.raises(UserError, match=rf"; or pass what is packed: --data\.images {labeler.manifest.path}"):
        make(nano, photos)
    assert make(nano, labeler.manifest.path)[0] == manifest


def test_files_of_masks_make_a_recipe_of_their_own(nano: UnSAM, tmp_path: Path) -> None:
    images = pack(tmp_path / "odd", [noise(0, (64, 64))])
    proposal = {"size": [64, 64], "counts": [0, 32 * 64, 32 * 64]}  # the left half
    for number, score in enumerate((0.9, 0.8)):
        result = {"image_id": 0, "segmentation": proposal, "score": score}
        (tmp_path / f"{number}.json").write_text(json.dumps([result]))
    recipes = [LabelRecipe(), *(LabelRecipe(proposals=str(tmp_path / f"{n}.json")) for n in range(2))]
    hashes = []
    for recipe in recipes:
        manifest, _ = make(nano, images, recipe)
        hashes.append(manifest.extra["recipe_hash"])
        assert ("proposals" in manifest.extra["recipe"]) == (recipe.proposals is not None)
    assert manifest.extra["recipe"]["proposals"]["version"] == 2  # labels of 1 had masks outside the proposals
    assert len(set(hashes)) == 3
    first = json.loads(ShardReader(manifest).read(0)["json"])["masks"][0]
    assert (first["area"], first["stage"], first["parent"]) == (32 * 64, "divide", -1)
    (tmp_path / "other.json").write_text(json.dumps([{"image_id": 7, "segmentation": proposal}]))
    with pytest.raises(
        UserError, match=r"such as 'photo0' in .*other\.json; found masks of 1 other images, such as '7'"
    ):
        make(nano, images, LabelRecipe(merge_masks=str(tmp_path / "other.json")))


def test_a_hundred_megapixels_are_reduced_when_packed_and_bombs_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), np.zeros((10_000, 10_000), np.uint8))
    photo = prepare_photo(path, max_side=1500, max_pixels=178_000_000)
    assert isinstance(photo, Photo)
    assert (photo.size, photo.original) == ((1500, 1500), (10_000, 10_000))
    assert prepare_photo(path, max_side=1500, max_pixels=99_000_000) == (
        "10000 x 10000 pixels, more than max_pixels 99000000"
    )
