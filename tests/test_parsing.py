"""Where the settings of a command come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from unsam_lightning import cli, pretrain
from unsam_lightning.checkpoint import adapter_state
from unsam_lightning.model import UnSAM


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models of commands that build everything and run nothing."""
    models: list[Any] = []
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda self, name: models.append(self.model))
    return models


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_strangers_checkpoint_changes_no_setting(
    command: str, tiny_run: Path, tmp_path: Path, built: list[Any]
) -> None:
    theirs = adapter_state(UnSAM.from_pretrained("nano")) | {"hyper_parameters": {"lr": 7.0, "seed": 9}}
    theirs |= {"global_step": 1, "pytorch-lightning_version": "2.6.0", "optimizer_states": []}
    torch.save(theirs, tmp_path / "theirs.ckpt")
    args = [command, "--config", str(tiny_run), "--ckpt_path", str(tmp_path / "theirs.ckpt")]
    cli.main([*args, "--model.seed", "5"])
    (model,) = built
    assert (model.lr, model.seed) == (1e-3, 5)  # of the yaml and of the flag


def test_nor_does_one_of_pretraining(tmp_path: Path, built: list[Any]) -> None:
    torch.save({"hyper_parameters": {"lr": 7.0, "seed": 9}}, tmp_path / "theirs.ckpt")
    folder = ["--trainer.default_root_dir", str(tmp_path)]
    pretrain.main(["--ckpt_path", str(tmp_path / "theirs.ckpt"), "--model.seed", "5", *folder])
    (model,) = built
    assert (model.lr, model.seed) == (1e-3, 5)
