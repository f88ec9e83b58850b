"""The label stage: complete, the same whoever makes it, and never made twice."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from drawn_images import make_photos

from unsam_lightning.manifest import read_manifest, scan_shard
from unsam_lightning.pairs import decode_masks
from unsam_lightning.shards import ShardReader
from unsam_lightning.verify import verify_manifest


def label_folder(root: Path) -> Path:
    return next(root.glob("cache/tiny_train/*-labels-*"))


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.iterdir()) if path.name != ".lock"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_labels_are_forests_of_the_images(tiny_run: Path, tmp_path: Path, command: Any) -> None:
    codes, log = command("label", "--config", tiny_run, log=tmp_path / "label.log")
    assert codes == [0], log[-3000:]
    manifest = verify_manifest(label_folder(tmp_path) / "tiny_train.yaml")
    images = read_manifest(tmp_path / "cache/tiny_train/tiny_train.yaml", "images")
    reader, pictures = ShardReader(manifest), ShardReader(images)
    assert reader.num_samples == pictures.num_samples == 12
    assert manifest.extra["recipe"]["encoder"]["name"] == "nano"
    num_masks = 0
    for index in range(12):
        record = reader.read(index)
        assert record["__key__"] == pictures.read(index)["__key__"]
        label = json.loads(record["json"])
        entries = label["masks"]
        masks = decode_masks([entry["rle"] for entry in entries], label["height"], label["width"])
        num_masks += len(masks)
        for n, entry in enumerate(entries):
            assert masks[n].sum() == entry["area"]
            assert 0.1 <= entry["granularity"] <= 1.0
            assert entry["stage"] in ("divide", "conquer")
            parent = entry["parent"]
            if parent == -1:
                assert entry["granularity"] == 1.0
            else:
                assert entries[parent]["instance"] == entry["instance"]
                assert not np.any(masks[n] & ~masks[parent])
    assert num_masks > 12


def test_result_does_not_depend_on_processes_or_kills(tiny_run: Path, tmp_path: Path, command: Any) -> None:
    codes, log = command("label", "--config", tiny_run, log=tmp_path / "one.log")
    assert codes == [0], log[-3000:]
    folder = label_folder(tmp_path)
    expected = digests(folder)
    assert len(expected) == 4  # three shards and the manifest

    # A killed run leaves finished shards and no manifest; only what is missing is made again.
    (folder / "tiny_train.yaml").unlink()
    (folder / "tiny_train-000001.tar").unlink()
    kept = (folder / "tiny_train-000000.tar").stat().st_mtime_ns
    codes, log = command("label", "--config", tiny_run, log=tmp_path / "again.log")
    assert codes == [0], log[-3000:]
    assert digests(folder) == expected
    assert (folder / "tiny_train-000000.tar").stat().st_mtime_ns == kept

    # Killed between the last shard and the manifest: only the manifest is missing.
    (folder / "tiny_train.yaml").unlink()
    codes, log = command("label", "--config", tiny_run, log=tmp_path / "manifest.log")
    assert codes == [0], log[-3000:]
    assert digests(folder) == expected

    # Two processes share out the shards: three, so unevenly; then one, so that a process has nothing to do.
    for missing in (["000000", "000001", "000002"], ["000001"]):
        (folder / "tiny_train.yaml").unlink()
        for number in missing:
            (folder / f"tiny_train-{number}.tar").unlink()
        more = ["--trainer.devices", 2, "--trainer.strategy", "ddp"]
        codes, log = command("label", "--config", tiny_run, *more, log=tmp_path / "two.log", ranks=2)
        assert codes == [0, 0], log[-3000:]
        assert digests(folder) == expected


def test_two_nodes_pack_label_and_train_from_a_folder_that_they_share(
    tiny_run: Path, tmp_path: Path, command: Any
) -> None:
    make_photos(tmp_path / "photos")
    more = ["--trainer.devices", 1, "--trainer.num_nodes", 2, "--trainer.strategy", "ddp", "--trainer.max_steps", 2]
    more += ["--data.images", tmp_path / "photos", "--test_after_fit", "false"]
    log = tmp_path / "fit.log"
    codes, text = command("fit", "--config", tiny_run, *more, log=log, ranks=2, nodes=2, kill_when=90.0)
    assert codes == [0, 0], text[-3000:]
    assert "waiting" not in text
    (manifest,) = tmp_path.glob("cache/photos-*/*-labels-*/photos.yaml")
    assert verify_manifest(manifest).num_samples == 10


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(tiny_run: Path, tmp_path: Path, command: Any) -> None:
    codes, log = command("label", "--config", tiny_run, log=tmp_path / "whole.log")
    assert codes == [0], log[-3000:]
    folder = label_folder(tmp_path)
    expected = digests(folder)
    shutil.rmtree(folder)
    rng = random.Random(3)
    for attempt in range(5):
        command("label", "--config", tiny_run, log=tmp_path / f"{attempt}.log", kill_when=rng.uniform(0.2, 2.0))
        for path in folder.glob("*"):
            if not path.name.startswith("."):  # what is under its own name is whole
                assert digests(folder)[path.name] == expected[path.name]
    codes, log = command("label", "--config", tiny_run, log=tmp_path / "last.log")
    assert codes == [0], log[-3000:]
    assert digests(folder) == expected


SLOW = """
import sys, time
from unsam_lightning.__main__ import main
from unsam_lightning.pseudo_labels.labeler import Labeler

label = Labeler._label
Labeler._label = lambda *args: (time.sleep(0.2), label(*args))[1]
sys.exit(main(sys.argv[1:]))
"""


def test_a_request_to_end_is_heard_and_whole_shards_stay(tiny_run: Path, tmp_path: Path) -> None:
    scenes = (tmp_path / "train.yaml").read_text().replace("num_images: 12", "num_images: 35")
    (tmp_path / "train.yaml").write_text(scenes)
    args = ["label", "--config", str(tiny_run), "--num_threads", "1"]
    with (tmp_path / "label.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", SLOW, *args], stdout=log, stderr=log)
        try:
            while not list(tmp_path.glob("cache/tiny_train/*-labels-*/*.tar")):
                assert process.poll() is None
                time.sleep(0.05)
            process.terminate()
            code = process.wait(60)
        finally:
            process.kill()
    text = (tmp_path / "label.log").read_text()
    assert code == 128 + signal.SIGTERM, text[-3000:]
    assert "Traceback" not in text
    folder = label_folder(tmp_path)
    shards = [path for path in folder.iterdir() if path.name != ".lock"]
    assert 1 <= len(shards) < 7  # and no manifest
    for shard in shards:
        index, problems = scan_shard(shard)
        assert (len(index), problems) == (5, [])


def test_previews_come_with_the_labels(tiny_run: Path, tmp_path: Path, command: Any) -> None:
    args = ["label", "--config", tiny_run, "--preview", 2, "--num_threads", 1]
    codes, log = command(*args, log=tmp_path / "label.log")
    assert codes == [0], log[-3000:]
    folder = label_folder(tmp_path)
    summary = yaml.safe_load((folder / "tiny_train.summary.yaml").read_text())
    assert summary["images"] == 12
    assert set(summary["seconds_per_image"]) == {"encode", "masks", "write"}
    assert (folder / "preview" / "000.png").is_file()
    assert "masks_per_image:" in log
