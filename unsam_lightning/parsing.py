"""How all commands with a YAML config parse it and their flags, and what they say where these do not fit.

Next in the tour: `cli.py`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.cli import LightningCLI
from omegaconf.errors import OmegaConfBaseException

from unsam_lightning.errors import UserError

#: For `LightningCLI`: errors are raised, configs may refer to their own values, and a flag cut short is not guessed.
PARSER_OPTIONS: dict[str, Any] = {"exit_on_error": False, "parser_mode": "omegaconf+", "allow_abbrev": False}

#: What jsonargparse says of a single text where only a list of texts can stand.
_ONE_FOR_A_LIST = re.compile(
    r'Parser key "([\w.]+)": Does not validate against any of the Union subtypes '
    r"Subtypes: \[list\[str\], <class 'NoneType'>\] .*Given value type: <class 'str'> Given value: (.+)$"
)

_CHECKPOINT_HELP = (
    "A checkpoint of `fit`, or `last`: the newest one of the run below `--trainer.default_root_dir` that trained last. "
    "`fit` goes on from it, in its run's folder."
)


class YamlAndFlagsCLI(LightningCLI):
    """Lightning's command line, whose settings are those of YAML and flags alone."""

    def _parse_ckpt_path(self) -> None:
        """Take none from the checkpoint, where Lightning lets "hyper_parameters" win: it may be a stranger's."""


def explain_checkpoint(parser: ArgumentParser) -> None:
    """Let the help of `--ckpt_path` say what it means here, in place of Lightning's keywords, which we do not have."""
    for action in parser._actions:
        if action.dest == "ckpt_path":
            action.help = _CHECKPOINT_HELP


@contextlib.contextmanager
def explain_argument_errors(command: str) -> Iterator[None]:
    """Turn what the parser refuses inside the block into a `UserError` that names the command's help."""
    try:
        yield
    except ArgumentError as error:
        text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        if one := _ONE_FOR_A_LIST.search(text):
            key, value = one.groups()
            raise UserError(
                expected=f"a list for {key}",
                found=value,
                remedy=f"write `--{key} '[{value}]'`, or `[{value}]` in a yaml",
            ) from None
        raise UserError(
            expected="a valid config and command line",
            found=text[:600],
            remedy=f"see `python -m unsam_lightning {command} --help`",
        ) from None
    except OmegaConfBaseException as error:
        root = "fit" if command == "pretrain" else command  # `pretrain` is the `fit` of a program of its own
        raise UserError(
            expected="${...} to name a value of the config",
            found=" ".join(str(error).split())[:600],
            remedy=f"start the name with the command, as in ${{{root}.model.seed}}",
        ) from None
