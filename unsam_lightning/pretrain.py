"""`pretrain`: supervised pre-training of a small SAM-2 on procedural scenes; the result is the bundled nano model.

python -m unsam_lightning pretrain --config experiments/pretrain_nano.yaml     # killed, it goes on by the same line
python -m unsam_lightning pretrain export runs/pretrain_nano/checkpoints/last.ckpt
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from torch.cuda import device_count

from unsam_lightning.errors import UserError
from unsam_lightning.parsing import PARSER_OPTIONS, YamlAndFlagsCLI, explain_argument_errors
from unsam_lightning.pretrain_export import main as export
from unsam_lightning.pretrain_export import read_pretraining
from unsam_lightning.pretrain_module import NanoPretraining
from unsam_lightning.quiet import quieten
from unsam_lightning.run_checkpoints import Checkpoints, Requeue, WholeCheckpoints
from unsam_lightning.state_dicts import load_strictly


class _PretrainCLI(YamlAndFlagsCLI):
    """`pretrain`: one stage, whose run folder is `trainer.default_root_dir` itself."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--checkpoint_every", type=int, default=200, help="Optimizer steps between checkpoints.")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": LightningCLI.subcommands()["fit"]}

    def before_instantiate_classes(self) -> None:
        """Go on from the run folder's last checkpoint, if it has one."""
        config = self.config.fit
        self.run_dir = Path(config.trainer.default_root_dir or "runs/pretrain")
        last = self.run_dir / "checkpoints" / "last.ckpt"
        if config.ckpt_path is None and last.is_file():
            print(f"going on from {last}")
            config.ckpt_path = str(last)

    def before_fit(self) -> None:
        """Refuse to go on from what is no checkpoint of this run."""
        if self.config.fit.ckpt_path is None:
            return
        path = Path(self.config.fit.ckpt_path)
        average, about = read_pretraining(path)
        load_strictly(self.model.average.module, average, str(path))
        if differing := [name for name, value in self.model.origin.items() if about[name] != value]:
            raise UserError(
                expected=f"to go on from {path} with {', '.join(f'{name} {about[name]}' for name in differing)}",
                found=", ".join(f"{name} {self.model.origin[name]}" for name in differing),
                remedy="give those, or another --trainer.default_root_dir for a run of its own",
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return a Trainer that writes checkpoints and a CSV log into the run folder."""
        config = self.config_init.fit
        checkpoints = Checkpoints(self.run_dir, config.checkpoint_every)
        options = config.trainer.as_dict() | kwargs
        devices = str(options.get("devices", "auto"))  # the command line gives "2" as a string
        processes = int(devices) if devices.isdecimal() else device_count()
        if options.get("strategy") in ("auto", "ddp") and processes > 1:
            # A step by clicks leaves the embeddings of boxes without a gradient, and the reverse.
            options["strategy"] = "ddp_find_unused_parameters_true"
        options |= {
            "default_root_dir": str(self.run_dir),
            "max_epochs": -1,  # the phases alone say how long
            "max_steps": self.model.num_steps if options["max_steps"] == -1 else options["max_steps"],
            "callbacks": [Requeue(), checkpoints, *(options.get("callbacks") or [])],
            "plugins": WholeCheckpoints.among(options.get("plugins")),
            "logger": CSVLogger(self.run_dir, name="csv"),
            "use_distributed_sampler": False,
        }
        return Trainer(**options)

    def after_fit(self) -> None:
        """Say where the end of the run is."""
        last = self.run_dir / "checkpoints" / "last.ckpt"
        if self.trainer.is_global_zero:
            print(f"step {self.trainer.global_step} is in {last}")


def main(args: list[str]) -> None:
    """Run `pretrain`, or `pretrain export`.

    Raises:
        UserError: A config that does not fit, and everything else a user can cause.
    """
    if args[:1] == ["export"]:
        export(args[1:])
        return
    quieten()
    with explain_argument_errors("pretrain"):
        _PretrainCLI(
            NanoPretraining, save_config_callback=None, args=["fit", *args], parser_kwargs=dict(PARSER_OPTIONS)
        )
