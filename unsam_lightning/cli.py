"""The command line of what needs Lightning: fit, validate, test and label, all from the same YAML.

Plain classes instead of subclass mode keep the keys short: `--model.lr`, `--data.images`, `--trainer.max_steps`.
Next in the tour: `data_command.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from unsam_lightning.aside import write_text_aside
from unsam_lightning.benchmarks.callback import BenchmarkCallback
from unsam_lightning.callbacks import Calibrate, Guard, Panels, Progress
from unsam_lightning.checkpoint import check_for_trainer, load_adapter, read_adapter
from unsam_lightning.datamodule import UnSAMData
from unsam_lightning.errors import UserError, first_line
from unsam_lightning.loggers import WandbOptions, run_loggers
from unsam_lightning.manifest import Manifest
from unsam_lightning.module import UnSAMModule
from unsam_lightning.parsing import PARSER_OPTIONS, YamlAndFlagsCLI, explain_argument_errors, explain_checkpoint
from unsam_lightning.pseudo_labels.labeler import Labeler
from unsam_lightning.pseudo_labels.preview import write_preview
from unsam_lightning.quiet import quieten
from unsam_lightning.run_checkpoints import Checkpoints, Requeue, WholeCheckpoints
from unsam_lightning.run_folder import forget, go_on_in, last_checkpoint, new_run_dir, requeued_checkpoint, run_of


class UnSAMTrainer(Trainer):
    """Lightning's Trainer with one more stage."""

    def label(
        self, model: LightningModule, datamodule: UnSAMData, preview: int = 0, num_threads: int | None = None
    ) -> Manifest:
        """Make the pseudo-labels of `data.images` that are missing, and return their manifest.

        Args:
            model: Says whose encoder is used.
            datamodule: Says which images, and the recipe.
            preview: Draw contact sheets of so many images, and write a summary of all, beside the label manifest.
            num_threads: Threads that find masks, for each process; by default one for each core that it may use.
        """
        assert isinstance(model, UnSAMModule)
        labeler = Labeler(
            model.pretrained(),
            datamodule.recipe,
            datamodule.images,
            datamodule.cache_dir,
            datamodule.num_workers,
            num_threads,
        )
        manifest = labeler.make_labels(self)
        datamodule.manifest = labeler.manifest
        if self.is_global_zero:
            num_masks, num_images = manifest.extra["num_masks"], manifest.num_samples
            print(f"labels: {num_masks:,} masks in {num_images:,} images, {num_masks / num_images:.0f} an image")
            print(f"labels: {manifest.path}")
            if preview > 0:
                for line in write_preview(manifest, labeler.manifest, preview, labeler.seconds_per_image()):
                    print(line)
        return manifest


class _SaveConfig(SaveConfigCallback):
    """Writes the full config into the run folder and into W&B."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # As it was asked for: used again, the file starts a new run beside this one.
        asked = self.config.clone()
        asked.trainer.default_root_dir = str(Path(trainer.default_root_dir).parent)
        asked.ckpt_path = None
        text = self.parser.dump(asked)
        run_dir = Path(trainer.default_root_dir)
        write_text_aside(run_dir / "config.yaml", text)
        if isinstance(pl_module, UnSAMModule):
            pl_module.run_config = text
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams({"config": self.config.as_dict()})


class UnSAMCLI(YamlAndFlagsCLI):
    """fit, validate, test, label; see `python -m unsam_lightning fit --help`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to a run as a whole."""
        parser.set_defaults(
            {
                "trainer.default_root_dir": "runs",
                # `fit` says what trains in one line; validation is a benchmark, too dear for a dry run; our own
                # samplers share out the data.
                "trainer.enable_model_summary": False,
                "trainer.num_sanity_val_steps": 0,
                "trainer.use_distributed_sampler": False,
            }
        )
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_argument("--checkpoint_every", type=int, default=50, help="Optimizer steps between checkpoints.")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Measure the benchmarks after `fit`.")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's commands that we support, and `label`."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate", "test")} | {"label": {"model", "datamodule"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; then resolve `--ckpt_path last` and look at the checkpoint before anything is built."""
        for command in self.subcommands():
            explain_checkpoint(self._parser(command))
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        root = Path(config.trainer.default_root_dir)
        if self.config.subcommand == "fit" and (found := requeued_checkpoint(root)):
            config.ckpt_path = str(found)  # whatever the job began with
        elif config.get("ckpt_path") == "last":
            config.ckpt_path = str(last_checkpoint(root))
        if config.get("ckpt_path"):
            path = Path(config.ckpt_path)
            check_for_trainer(read_adapter(path), path, goes_on=self.config.subcommand == "fit")

    def before_instantiate_classes(self) -> None:
        """Choose the run folder: a resumed run goes on in its own, where its checkpoint still lies in it."""
        config = self.config[self.subcommand]
        goes_on = self.subcommand == "fit" and config.get("ckpt_path")
        earlier = run_of(Path(config.ckpt_path)) if goes_on else None
        root = Path(config.trainer.default_root_dir)
        self.run_dir = new_run_dir(root, self.subcommand) if earlier is None else go_on_in(root, earlier)
        config.trainer.default_root_dir = str(self.run_dir)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the Trainer with our callbacks, CSV log and W&B."""
        config = self.config_init[self.subcommand]
        options = {**config.trainer.as_dict(), **kwargs}
        if options["precision"] in ("bf16-true", "16-true"):
            raise UserError(
                expected="a precision that keeps the weights in float32",
                found=f"--trainer.precision {options['precision']}",
                remedy="use bf16-mixed",
            )
        own: list[Any] = [Guard(self.run_dir)] if self.subcommand == "fit" else []
        own += [Requeue(), BenchmarkCallback(self.run_dir)]
        if options["enable_progress_bar"] is not False:
            own.append(Progress())
        loggers: Any = False
        if self.subcommand == "fit":
            own += [Calibrate(), Panels(self.run_dir)]
            if config.data.val_images == 0:
                options["limit_val_batches"] = 0
            if options["enable_checkpointing"] is not False:
                own.append(Checkpoints(self.run_dir, config.checkpoint_every))
        if self.subcommand != "label":
            loggers = run_loggers(self.run_dir, config.wandb)
            given = options["logger"]
            loggers += given if isinstance(given, list) else [given] if isinstance(given, Logger) else []
            asked, parser = self.config[self.subcommand], self._parser(self.subcommand)
            own.append(_SaveConfig(parser, asked, overwrite=True, save_to_log_dir=False))
        more = options["callbacks"]
        own += more if isinstance(more, list) else [more] if more is not None else []
        options |= {"callbacks": own, "logger": loggers, "plugins": WholeCheckpoints.among(options["plugins"])}
        return UnSAMTrainer(**options)

    def before_fit(self) -> None:
        """Make the labels first where there are none, and say so."""
        self._check_checkpoint()
        self.datamodule.check_training(self.model.losses, self.trainer.world_size)
        if self.datamodule.labels is None:
            if self.trainer.is_global_zero:
                print(f"labels: making what is missing for {self.datamodule.images}")
            self.datamodule.labels = str(self.trainer.label(self.model, self.datamodule).path)

    def before_test(self) -> None:
        """Look at the checkpoint before anything is measured."""
        self._check_checkpoint()

    def before_validate(self) -> None:
        """Look at the checkpoint before anything is measured."""
        self._check_checkpoint()

    def _check_checkpoint(self) -> None:
        """Refuse a checkpoint of another base or shape before its run writes anything; say where there is none."""
        path = self.config_init[self.subcommand].get("ckpt_path")
        if not path and self.subcommand == "fit":
            return
        self.model.configure_model()
        model = self.model.model
        if path:
            load_adapter(model, read_adapter(Path(path)), Path(path).name)
        elif not model.is_tuned and self.trainer.is_global_zero:
            print(f"note: without --ckpt_path rows `tuned` are of an untrained adapter on {model.base_name}")

    def after_fit(self) -> None:
        """Measure the trained model and print where everything lies."""
        if self.config[self.subcommand].test_after_fit and not self.trainer.interrupted:
            self.trainer.test(self.model, self.datamodule)
        self._print_run_dir()

    def after_test(self) -> None:
        """Print where everything lies."""
        self._print_run_dir()

    def after_validate(self) -> None:
        """Print where everything lies."""
        self._print_run_dir()

    def _print_run_dir(self) -> None:
        if self.trainer.is_global_zero:
            print(f"run folder: {self.run_dir}")


def main(args: list[str], cli_class: type[UnSAMCLI] = UnSAMCLI) -> UnSAMCLI:
    """Run one of the Lightning commands and return its parts.

    Args:
        args: Command and options, without the program's name.
        cli_class: For tests that stop before the command runs.

    Raises:
        UserError: A config that does not fit, and everything else a user can cause.
    """
    quieten()
    try:
        with explain_argument_errors(args[0] if args else ""):
            return cli_class(
                UnSAMModule,
                UnSAMData,
                trainer_class=UnSAMTrainer,
                save_config_callback=None,
                seed_everything_default=0,
                args=args,
                parser_kwargs=dict(PARSER_OPTIONS),
            )
    except MisconfigurationException as error:
        raise UserError(
            expected="a trainer that Lightning can build here", found=first_line(error), remedy="see `fit --help`"
        ) from None
    finally:
        forget()
