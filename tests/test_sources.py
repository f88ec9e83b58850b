import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from unsam_lightning.aside import lock
from unsam_lightning.errors import UserError
from unsam_lightning.image_sample import decode_image
from unsam_lightning.manifest import Manifest, read_manifest
from unsam_lightning.scenes import make_scene
from unsam_lightning.shards import ShardReader
from unsam_lightning.source_file import SOURCE_FORMAT, find_file, read_source
from unsam_lightning.sources import eval_dataset, image_manifest
from unsam_lightning.verify import verify_manifest


def write_source(folder: Path, **fields: Any) -> Path:
    path = folder / "source.yaml"
    path.write_text(yaml.dump({"format": SOURCE_FORMAT, "name": "mine", **fields}))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "photos"
    folder.mkdir(parents=True)
    for n in range(3):
        Image.fromarray(np.full((20, 30, 3), 60 * n, dtype=np.uint8)).save(folder / f"{n}.png")
    return folder


def test_source_is_read_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    path = write_source(
        tmp_path / "manifests", reader="bsds500", root="../data", options={"split": "val"}, licence="CC"
    )
    source = read_source(path)
    assert source.root == tmp_path / "data"
    assert (source.name, source.reader, source.options) == ("mine", "bsds500", {"split": "val"})
    assert (source.licence, source.source) == ("CC", "unknown")
    assert read_source(write_source(tmp_path, reader="scenes")).root is None


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, "no key reader"),
        ({"reader": "zip"}, "reader 'zip', not one of images, scenes, bsds500, mask_folder"),
        ({"reader": "scenes", "rooot": "x"}, "unknown key rooot"),
        ({"reader": "scenes", "options": [1]}, r"options \[1\], not a mapping"),
        ({"reader": "scenes", "name": "../escape"}, r"name '\.\./escape', not of letters"),
        ({"reader": "scenes", "name": "a.b"}, r"name 'a\.b', not of letters"),
        ({"reader": "scenes", "format": "unsam_lightning/source/9"}, "format unsam_lightning/source/9"),
        ({"reader": "scenes", "oracle_target": 0.7}, r"oracle_target 0\.7, not one of 0\.8, 0\.85, 0\.9"),
        ({"reader": "scenes", "oracle_target": [1]}, r"oracle_target \[1\], not one of"),
        ({"reader": "zip", "more": 1}, "unknown key more; reader 'zip'"),
    ],
)
def test_incomplete_sources_are_user_errors(tmp_path: Path, fields: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError, match=rf"source\.yaml; found {found}"):
        read_source(write_source(tmp_path, **fields))


def test_a_folder_may_have_a_name_that_is_no_utf8(photos: Path, tmp_path: Path) -> None:
    odd = photos.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    manifest = image_manifest(str(odd), tmp_path / "cache")
    assert verify_manifest(manifest.path).num_samples == 3
    assert image_manifest(str(odd), tmp_path / "cache") == manifest


@pytest.mark.parametrize("text", ["[1, 2]", "", "{not: yaml", "a: 1"])
def test_other_yaml_is_a_user_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    for read in (read_source, lambda path: image_manifest(str(path), tmp_path), lambda path: eval_dataset(str(path))):
        with pytest.raises(UserError, match=r"odd\.yaml"):
            read(path)


def test_missing_source_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml; found No such file"):
        read_source(tmp_path / "gone.yaml")
    for images in ("gone.yaml", "gone", "data.txt"):
        with pytest.raises(UserError, match=f"folder of images; found {tmp_path}/{images}: no such file"):
            image_manifest(str(tmp_path / images), tmp_path)


def test_a_missing_root_is_said_to_be_the_manifests(tmp_path: Path) -> None:
    fields = {"reader": "images", "source": "Someone, 2011"}
    with pytest.raises(UserError, match=r"at the `root` of .*source\.yaml; found no root; fetch it \(Someone, 2011\)"):
        image_manifest(str(write_source(tmp_path, **fields)), tmp_path / "cache")
    fields |= {"root": "gone", "by_hand": "ask the author."}
    with pytest.raises(UserError) as caught:
        image_manifest(str(write_source(tmp_path, **fields)), tmp_path / "cache")
    assert str(caught.value) == (
        f"expected a folder of images at the `root` of {tmp_path}/source.yaml; "
        f"found {tmp_path}/gone, which is missing; "
        "fetch it (ask the author) and correct `root`, or pass --data.images FOLDER"
    )
    (tmp_path / "gone").touch()
    with pytest.raises(UserError, match="gone, which is a file"):
        image_manifest(str(tmp_path / "source.yaml"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_folder_manifest_and_source_give_the_same_images(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    by_folder = image_manifest(str(photos), cache)
    assert by_folder.path.parent.parent == cache
    assert by_folder.path.parent.name.startswith("photos-")  # with a checksum of where the folder lies
    assert by_folder.num_samples == 3
    assert image_manifest(str(by_folder.path), cache) == by_folder
    source = write_source(tmp_path, reader="images", root="data/photos", licence="CC0", options={"images_per_shard": 2})
    by_source = image_manifest(str(source), cache)
    assert by_source.path == cache / "mine" / "mine.yaml"
    assert [shard.samples for shard in by_source.shards] == [2, 1]
    assert by_source.extra["licence"] == "CC0"
    pixels = [[ShardReader(m).read(n)["jpg"] for n in range(3)] for m in (by_folder, by_source)]
    assert pixels[0] == pixels[1]


def test_part_sets_have_gracos_target(tmp_path: Path) -> None:
    options = {"num_images": 2, "size": 64}
    source = write_source(tmp_path, reader="scenes", options=options, oracle_target=0.85)
    assert eval_dataset(str(source)).oracle_target == 0.85
    assert eval_dataset(str(write_source(tmp_path, reader="scenes", options=options))).oracle_target == 0.9
    targets = {path.stem: read_source(path).oracle_target for path in find_file("data_manifests").glob("*.yaml")}
    parts = {"pascal_part", "pascal_part_examples", "partimagenet", "partimagenet_json"}
    assert {name for name, target in targets.items() if target == 0.85} == parts
    assert {target for name, target in targets.items() if name not in parts} == {0.9}


def test_label_manifest_is_not_a_set_of_images(tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text(yaml.dump({"format": "unsam_lightning/labels/1"}))
    with pytest.raises(UserError, match="format unsam_lightning/images/1"):
        image_manifest(str(tmp_path / "labels.yaml"), tmp_path)


def test_benchmark_is_no_training_set_and_the_reverse(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training images.*reader bsds500"):
        image_manifest(str(write_source(tmp_path, reader="bsds500", root=".")), tmp_path)
    with pytest.raises(UserError, match=r"ground truth.*reader images"):
        eval_dataset(str(write_source(tmp_path, reader="images", root=".")))
    with pytest.raises(UserError, match=r"ground truth.*without a root"):
        eval_dataset(str(write_source(tmp_path, reader="bsds500")))


def test_scenes_are_packed_once_and_are_the_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"num_images": 3, "size": 64, "first_seed": 5, "images_per_shard": 2}
    source = write_source(tmp_path, reader="scenes", options=options)
    manifest = image_manifest(str(source), tmp_path / "cache")
    assert [shard.samples for shard in verify_manifest(manifest.path).shards] == [2, 1]
    reader = ShardReader(manifest)
    for n in range(3):
        pixels = decode_image(reader.read(n)["jpg"], "here").astype(int)
        assert abs(pixels - make_scene(5 + n, 64).image).mean() < 4  # JPEG
    monkeypatch.setattr("unsam_lightning.scenes.make_scene", None)
    assert image_manifest(str(source), tmp_path / "cache") == read_manifest(manifest.path)


def test_two_that_pack_the_same_scenes_at_once_leave_them_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"num_images": 6, "size": 32, "images_per_shard": 2}
    source = str(write_source(tmp_path, reader="scenes", options=options))
    both_found_none = threading.Barrier(2)

    def lock_together(*args: Any) -> AbstractContextManager[None]:
        both_found_none.wait(60)
        return lock(*args)

    drawn: list[int] = []

    def make(seed: int, size: int) -> Any:
        drawn.append(seed)
        return make_scene(seed, size)

    monkeypatch.setattr("unsam_lightning.sources.lock", lock_together)
    monkeypatch.setattr("unsam_lightning.scenes.make_scene", make)
    with ThreadPoolExecutor(2) as pool:
        packed = list(pool.map(lambda _: image_manifest(source, tmp_path / "cache"), range(2)))
    assert packed[0] == packed[1] == verify_manifest(packed[0].path)
    assert drawn == list(range(6))  # the second waits, and uses what the first has made
    monkeypatch.undo()
    assert image_manifest(source, tmp_path / "cache") == packed[0]


def test_scenes_that_are_finished_while_one_waits_to_begin_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(write_source(tmp_path, reader="scenes", options={"num_images": 2, "size": 32}))
    finished: list[Manifest] = []

    def lock_late(*args: Any) -> AbstractContextManager[None]:
        monkeypatch.undo()
        finished.append(image_manifest(source, tmp_path / "cache"))
        monkeypatch.setattr("unsam_lightning.scenes.make_scene", None)
        return lock(*args)

    monkeypatch.setattr("unsam_lightning.sources.lock", lock_late)
    assert image_manifest(source, tmp_path / "cache") == finished[0]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"reader": "scenes", "options": {"num_image": 3}}, "num_image"),
        ({"reader": "scenes", "options": {"num_images": 3, "name": "other"}}, "name"),
        ({"reader": "scenes"}, "missing a required.*'num_images'"),
        ({"reader": "images", "root": ".", "options": {"out_dir": "/tmp"}}, "out_dir"),
    ],
)
def test_unknown_options_of_training_images_are_named(tmp_path: Path, fields: dict[str, Any], found: str) -> None:
    with pytest.raises(
        UserError, match=rf"options that reader {fields['reader']} takes in .*found .*{found}.*it takes"
    ):
        image_manifest(str(write_source(tmp_path, **fields)), tmp_path / "cache")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"reader": "scenes", "options": {"num_images": 3, "sized": 64}}, "sized"),
        ({"reader": "bsds500", "root": ".", "options": {"splitt": "val"}}, "splitt"),
        ({"reader": "mask_folder", "root": ".", "options": {"images": "a"}}, "missing a required.*'masks'"),
        ({"reader": "mask_folder", "root": ".", "options": {"images": "a", "masks": "b", "c": 1}}, "'c'"),
    ],
)
def test_unknown_options_of_benchmarks_are_named(tmp_path: Path, fields: dict[str, Any], found: str) -> None:
    with pytest.raises(
        UserError, match=rf"options that reader {fields['reader']} takes in .*found .*{found}.*it takes"
    ):
        eval_dataset(str(write_source(tmp_path, **fields)))


def test_benchmarks_carry_the_name_of_their_source(photos: Path, tmp_path: Path) -> None:
    scenes = eval_dataset(str(write_source(tmp_path, reader="scenes", options={"num_images": 2, "size": 64})))
    assert (scenes.name, len(scenes)) == ("mine", 2)
    masks = photos.parent / "truth"
    masks.mkdir()
    for n in range(3):
        Image.fromarray(np.eye(20, 30, dtype=np.uint8) * 220).save(masks / f"{n}.png")
    options = {"images": "photos", "masks": "truth", "ignore_value": 220}
    folder = eval_dataset(str(write_source(tmp_path, reader="mask_folder", root="data", options=options)))
    assert (folder.name, len(folder)) == ("mine", 3)
    assert len(folder[0].masks) == 0  # the only value is ignored


def test_shipped_sources_are_complete() -> None:
    paths = sorted((Path(__file__).parents[1] / "data_manifests").glob("*.yaml"))
    assert paths
    names = [read_source(path).name for path in paths]
    assert len(set(names)) == len(names)
