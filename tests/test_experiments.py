"""Every experiment file fits the command line, and every source file says what it must."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from unsam_lightning.cli import UnSAMCLI, main
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
    assert path.read_text().startswith("# "), "an experiment opens with its question and its cost"
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
    more = ["--trainer.default_root_dir", str(tmp_path), "--wandb.mode", "disabled"]
    args = command[1].split()
    base, changed = (main([*words, *more], Instantiated).config.fit for words in (args[:3], args))
    assert base.as_dict() != changed.as_dict()
    wanted = yaml.safe_load(path.read_text())
    assert _taken(changed.as_dict(), wanted) == wanted


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
    main([*command, "--trainer.default_root_dir", str(tmp_path), "--wandb.mode", "disabled"], Instantiated)


@pytest.mark.parametrize("path", sorted((ROOT / "data_manifests").glob("*.yaml")), ids=lambda path: path.stem)
def test_source_file_is_complete(path: Path) -> None:
    source = read_source(path)
    content = yaml.safe_load(path.read_text())
    assert "licence" in content
    assert "source" in content
    assert source.name in path.stem
