"""Every experiment file fits the command line, and every source file says what it must."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from unsam_lightning.cli import UnSAMCLI, main
from unsam_lightning.source_file import read_source

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = [path for path in sorted((ROOT / "experiments").glob("*.yaml")) if not path.name.startswith("pretrain")]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_is_instantiated_and_names_files_that_exist(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Instantiated(UnSAMCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            """Stop here."""

    monkeypatch.chdir(ROOT)
    more = ["--trainer.default_root_dir", str(tmp_path), "--wandb.mode", "disabled"]
    cli = main(["fit", "--config", str(path), *more], Instantiated)
    assert path.read_text().startswith("# "), "an experiment opens with its question and its cost"
    for source in (cli.datamodule.images, *cli.datamodule.benchmarks):
        assert Path(source).is_file(), source


@pytest.mark.parametrize("path", sorted((ROOT / "data_manifests").glob("*.yaml")), ids=lambda path: path.stem)
def test_source_file_is_complete(path: Path) -> None:
    source = read_source(path)
    content = yaml.safe_load(path.read_text())
    assert "licence" in content
    assert "source" in content
    assert source.name in path.stem
