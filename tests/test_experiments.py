"""Every experiment file fits the command line, and every source file says what it must."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import WandbLogger

from unsam_lightning.cli import UnSAMCLI, main
from unsam_lightning.pretrain import _PretrainCLI
from unsam_lightning.pretrain import main as pretrain
from unsam_lightning.pretrain_module import NanoPretraining
from unsam_lightning.run_checkpoints import WholeCheckpoints
from unsam_lightning.source_file import read_source

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = [path for path in sorted((ROOT / "experiments").glob("*.yaml")) if not path.name.startswith("pretrain")]


class Instantiated(UnSAMCLI):
    """Builds everything and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Stop here."""


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_is_instantiated_and_names_files_that_exist(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    more = ["--trainer.default_root_dir", str(tmp_path), "--wandb.mode", "disabled"]
    cli = main(["fit", "--config", str(path), *more], Instantiated)
    _check_header(path)
    assert isinstance(cli.trainer.strategy.checkpoint_io, WholeCheckpoints)
    images = cli.datamodule.images
    assert Path(images).is_file() or f"Needs a folder {images} " in path.read_text(), images
    for source in cli.datamodule.benchmarks:
        assert Path(source).is_file(), source


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments" / "ablations").glob("*.yaml")), ids=lambda path: path.stem
)
def test_ablation_changes_the_experiment_it_names(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    command = re.search(r"^#   (fit .*)$", path.read_text(), re.MULTILINE)
    assert command is not None, "an ablation says how it is run"
    _check_header(path)
    more = ["--trainer.default_root_dir", str(tmp_path), "--wandb.mode", "disabled"]
    args = command[1].split()
    base, changed = (main([*words, *more], Instantiated).config.fit for words in (args[:3], args))
    assert base.as_dict() != changed.as_dict()
    wanted = yaml.safe_load(path.read_text())
    assert _taken(changed.as_dict(), wanted) == wanted


@pytest.mark.filterwarnings("ignore")  # jsonargparse cannot show the default phases
def test_pretraining_is_instantiated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[NanoPretraining] = []
    monkeypatch.setattr(_PretrainCLI, "_run_subcommand", lambda cli, _: built.append(cli.model))
    path = ROOT / "experiments" / "pretrain_nano.yaml"
    pretrain(["--config", str(path), "--trainer.default_root_dir", str(tmp_path)])
    assert [(phase.frame, phase.steps) for phase in built[0].phases] == [(128, 6400), (256, 5400)]
    _check_header(path)


def _check_header(path: Path) -> None:
    """An experiment opens with the question it asks, the result that is expected, and the cost."""
    header = re.match(r"(#.*\n)+", path.read_text())
    assert header is not None
    for part in ("?", "Expected", "Cost:"):
        assert part in header[0], f"{path.name} opens without {part}"


def _taken(config: Any, like: Any) -> Any:
    """Return the part of a config that has the keys of `like`, tuples as lists."""
    if isinstance(like, dict):
        return {key: _taken(config[key], value) for key, value in like.items()}
    if isinstance(like, list):
        return [_taken(each, other) for each, other in zip(config, like, strict=True)]
    return config


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_sweep_asks_for_parameters_that_exist(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    args = []
    for name, about in sweep["parameters"].items():
        values = about.get("values") or [about.get("value", about.get("min"))]
        args += [f"--{name}={values[-1]}"]
    words = {"${env}": [], "${interpreter}": [], "-m": [], "${program}": [], "${args}": args}
    command = [word for part in sweep["command"] for word in words.get(part, [part])]
    assert sweep["program"] == "unsam_lightning"
    _check_header(path)
    cli = main([*command, "--trainer.default_root_dir", str(tmp_path)], Instantiated)
    (wandb,) = [each for each in cli.trainer.loggers if isinstance(each, WandbLogger)]
    if "model.seed" in sweep["parameters"]:  # runs that differ in their seed differ in all that is drawn
        assert cli.datamodule.seed == cli.config.fit.model.seed == 2
    assert not wandb._offline, "W&B chooses the next run by what this one reports"


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_the_papers_recipe_is_the_papers(size: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """UnSAMv2 (arXiv 2511.13714), section 4.1 and the official training configuration."""
    monkeypatch.chdir(ROOT)
    more = ["--trainer.default_root_dir", str(tmp_path), "--wandb.mode", "disabled"]
    config = main(["fit", "--config", f"experiments/unsamv2_{size}.yaml", *more], Instantiated).config.fit.as_dict()
    model, data = config["model"], config["data"]
    assert (model["adapter"], model["backbone"]) == ("official", size)
    assert (model["lr"], model["min_lr"], model["warmup_steps"], config["trainer"]["max_epochs"]) == (1e-4, 1e-5, 0, 5)
    assert {name for name, weight in model["losses"].items() if weight} == {"focal", "dice", "iou"}
    assert (model["losses"]["focal"], model["prompting"]["num_corrections"]) == (20.0, 3)
    assert (data["batch_size"], data["masks_per_image"], data["sampling"]) == (4, 30, "uniform")
    assert (data["recipe"]["method"], data["calibration_images"]) == ("divide_conquer", 0)
    augmentation = data["augmentation"]
    assert (augmentation["degrees"], augmentation["shear"], augmentation["hue"], augmentation["blur"]) == (25, 20, 0, 0)


@pytest.mark.parametrize("path", sorted((ROOT / "data_manifests").glob("*.yaml")), ids=lambda path: path.stem)
def test_source_file_is_complete(path: Path) -> None:
    source = read_source(path)
    content = yaml.safe_load(path.read_text())
    assert "licence" in content
    assert "source" in content
    assert source.name in path.stem
