"""Bad input gives one clear line, exit code 2, no traceback, and leaves nothing half-written."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unsam_lightning.__main__ import main
from unsam_lightning.manifest import Manifest, ShardInfo, sha256_file, write_manifest
from unsam_lightning.pack import pack_images

Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    def run(*args: object) -> str:
        assert main([str(arg) for arg in args]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "Traceback" not in lines[0]
        return lines[0]

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_unknown_command(fails: Fails) -> None:
    assert "found 'trian'" in fails("trian")


def test_missing_and_empty_folder(fails: Fails, tmp_path: Path) -> None:
    assert "nowhere" in fails("shards", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    fails("shards", tmp_path / "empty", tmp_path / "out")
    assert not list(tmp_path.glob("out/*.yaml"))
    assert "IMAGES_DIR" in fails("shards")


def test_verify_names_the_missing_shard(fails: Fails, photos: Path, tmp_path: Path) -> None:
    manifest = pack_images(photos, tmp_path / "out", images_per_shard=2)
    (tmp_path / "out" / manifest.shards[1].file).unlink()
    assert manifest.shards[1].file in fails("shards", "--verify", manifest.path)


def test_missing_shard_stops_label_and_fit(fails: Fails, photos: Path, tiny_run: Path, tmp_path: Path) -> None:
    manifest = pack_images(photos, tmp_path / "out", images_per_shard=2)
    shard = tmp_path / "out" / manifest.shards[1].file
    shard.write_bytes(shard.read_bytes()[:1024])
    for command in ("label", "fit"):
        line = fails(command, "--config", tiny_run, "--data.images", manifest.path, "--data.num_workers", "0")
        assert manifest.shards[1].file in line
        assert not list(tmp_path.glob("out/*-labels-*/*.yaml"))


def test_corrupt_jpeg_in_a_shard_is_named(fails: Fails, photos: Path, tiny_run: Path, tmp_path: Path) -> None:
    manifest = pack_images(photos, tmp_path / "out", images_per_shard=4)
    shard = tmp_path / "out" / manifest.shards[0].file
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(shard, "w") as tar:
        for number, (member, data) in enumerate(members):
            broken = data[:50] if number == 2 and member.name.endswith(".jpg") else data
            member.size = len(broken)
            tar.addfile(member, io.BytesIO(broken))
    info = ShardInfo(shard.name, 4, shard.stat().st_size, sha256_file(shard))
    write_manifest(Manifest(manifest.path, "images", manifest.name, [info], manifest.extra))
    for workers in (0, 1):  # an error in a worker process arrives as one line too
        line = fails("label", "--config", tiny_run, "--data.images", manifest.path, "--data.num_workers", workers)
        assert "expected a readable image" in line
        assert f"{manifest.name}-00000001" in line


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("--model.lr", "fast", "lr"),
        ("--model.learning_rate", "1", "learning_rate"),
        ("--data.batch_size", "2.5", "batch_size"),
        ("--model.backbone", "huge", "'huge'"),
        ("--data.benchmarks", "[nowhere.yaml]", "nowhere.yaml"),
        ("--ckpt_path", "nowhere.ckpt", "nowhere.ckpt"),
    ],
)
def test_bad_config_is_named(fails: Fails, tiny_run: Path, option: str, value: str, found: str) -> None:
    assert found in fails("test", "--config", tiny_run, option, value)


def test_one_benchmark_without_brackets_is_told_how_to_write_it(fails: Fails, tiny_run: Path) -> None:
    line = fails("test", "--config", tiny_run, "--data.benchmarks", "mine.yaml")
    assert line.startswith("error: expected a list for data.benchmarks; found mine.yaml; write `--data.benchmarks ")
    assert "'[mine.yaml]'" in line
    in_yaml = tiny_run.read_text().replace(f"benchmarks: [{tiny_run.parent}/test.yaml]", "benchmarks: mine.yaml")
    tiny_run.write_text(in_yaml)
    assert fails("test", "--config", tiny_run) == line


@pytest.mark.parametrize(
    "command",
    [
        "shards NAME out",
        "data NAME.yaml --root out",
        "report NAME --out page.html",
        "export NAME --layout sam2 --out a.pt",
        "segment NAME --click 1 1",
        "segment PHOTO --checkpoint NAME --click 1 1",
        "segment PHOTO --checkpoint NAME.ckpt --click 1 1",
        "test --config CONFIG --ckpt_path NAME",
        "test --config CONFIG --model.backbone NAME",
        "test --config CONFIG --data.benchmarks [NAME.yaml]",
        "fit --config CONFIG --data.images NAME",
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(fails: Fails, photos: Path, tiny_run: Path, command: str) -> None:
    places = {"NAME": "x" * 5000, "PHOTO": str(photos / "a.png"), "CONFIG": str(tiny_run)}
    words = command.split()
    for word, place in places.items():
        words = [each.replace(word, place) for each in words]
    assert "File name too long" in fails(*words)


def test_a_root_that_no_folder_can_have_is_one_line(fails: Fails, tiny_run: Path, tmp_path: Path) -> None:
    source = tmp_path / "far.yaml"
    source.write_text(f"format: unsam_lightning/source/1\nname: far\nreader: images\nroot: {'x' * 5000}\n")
    assert "File name too long" in fails("fit", "--config", tiny_run, "--data.images", source)


def test_a_flag_cut_short_is_not_guessed(fails: Fails, tiny_run: Path) -> None:
    assert "--trainer.max_step" in fails("fit", "--config", tiny_run, "--trainer.max_step", "5")


def test_a_missing_checkpoint_is_missing_and_not_broken(fails: Fails, tiny_run: Path, tmp_path: Path) -> None:
    line = fails("test", "--config", tiny_run, "--ckpt_path", tmp_path / "nope.ckpt")
    assert "nope.ckpt; found no such file; check the spelling" in line


def test_missing_images_are_named(fails: Fails, tiny_run: Path) -> None:
    assert "nowhere.yaml" in fails("fit", "--config", tiny_run, "--data.images", "nowhere.yaml")


def test_unknown_key_in_yaml_is_named(fails: Fails, tiny_run: Path) -> None:
    tiny_run.write_text(tiny_run.read_text().replace("num_corrections: 1", "num_corections: 1"))
    assert "num_corections" in fails("fit", "--config", tiny_run)


def test_reference_to_no_value_is_named(fails: Fails, tiny_run: Path) -> None:
    line = fails("fit", "--config", tiny_run, "--data.seed", "${model.seed}")  # its whole name is fit.model.seed
    assert "found Interpolation key 'model.seed' not found" in line
    assert "as in ${fit.model.seed}" in line


def test_checkpoint_of_another_base_is_refused(fails: Fails, tiny_run: Path, tmp_path: Path) -> None:
    assert main(["fit", "--config", str(tiny_run), "--trainer.max_steps", "1", "--test_after_fit", "false"]) == 0
    checkpoint = next(tmp_path.glob("runs/*/checkpoints/last.ckpt"))
    content = torch.load(checkpoint, weights_only=True)
    content["unsam"]["base"] = {"name": "small", "sha256": "0" * 64}
    torch.save(content, checkpoint)
    line = fails("test", "--config", tiny_run, "--ckpt_path", checkpoint)
    assert "trained on: small" in line
    assert "found nano" in line
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "last.ckpt" in fails("test", "--config", tiny_run, "--ckpt_path", checkpoint)


def test_granularity_and_click_out_of_range(fails: Fails, photos: Path) -> None:
    line = fails("segment", photos / "a.png", "--click", 5, 5, "--granularity", 1.5)
    assert "1.5 is neither a number from 0.1 to 1 nor" in line
    assert "(60.0, 5.0)" in fails("segment", photos / "a.png", "--click", 60, 5)
    assert "--click" in fails("segment", photos / "a.png")
    assert "nowhere.png" in fails("segment", photos / "nowhere.png", "--click", 1, 1)
    for device in ("gpu", "cuda:99"):
        line = fails("segment", photos / "a.png", "--click", 5, 5, "--device", device)
        assert f"such as cpu, cuda or mps; found {device}: " in line
    assert not list(photos.glob("*_g*.png"))


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("--data.num_workers", "-1", "num_workers -1"),
        ("--model.lr", "0", "lr 0"),
        ("--model.losses.contrast", "-1", "contrast -1"),
        ("--model.contrast.temperature", "0", "temperature > 0"),
        ("--model.losses.order", "1", "--data.sampling balanced"),
        ("--data.masks_per_image", "0", "masks_per_image 0"),
        ("--trainer.precision", "bf16-true", "bf16-true"),
        ("--trainer.accelerator", "cuda", "a trainer that Lightning can build here"),
    ],
)
def test_values_out_of_range_are_named(fails: Fails, tiny_run: Path, option: str, value: str, found: str) -> None:
    if option == "--trainer.accelerator" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert found in fails("fit", "--config", tiny_run, option, value)


def test_damage_inside_a_jpeg_is_found(fails: Fails, photos: Path, tiny_run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for path in photos.iterdir():
        Image.fromarray(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(path)
    manifest = pack_images(photos, tmp_path / "out")
    shard = tmp_path / "out" / manifest.shards[0].file
    data = bytearray(shard.read_bytes())
    data[20_000:20_100] = rng.integers(0, 255, 100, dtype=np.uint8).tobytes()  # the same size, so only the CRC tells
    shard.write_bytes(data)
    line = fails("label", "--config", tiny_run, "--data.images", manifest.path, "--data.num_workers", "0")
    assert "expected a readable image" in line


def test_refused_checkpoint_leaves_its_run_alone(fails: Fails, tiny_run: Path, tmp_path: Path) -> None:
    assert main(["fit", "--config", str(tiny_run), "--trainer.max_steps", "1", "--test_after_fit", "false"]) == 0
    run = next(tmp_path.glob("runs/*-fit"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    fails("fit", "--config", tiny_run, "--ckpt_path", "last", "--model.adapter", "compact")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_fixed_granularity_out_of_range(fails: Fails, tiny_run: Path) -> None:
    assert "0.05" in fails("test", "--config", tiny_run, "--model.evaluation.fixed", "[0.05]")


@pytest.mark.parametrize(("command", "default"), [("shards", "256"), ("segment", "nano"), ("report", "report.html")])
def test_help_tells_the_defaults(command: str, default: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"(default: {default})" in shown
    assert "None" not in shown


def test_help_says_what_last_means_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["test", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--ckpt_path CKPT_PATH A checkpoint of `fit`, or `last`: the newest one of the run below" in shown
    assert '"hpc"' not in shown
