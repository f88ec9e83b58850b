"""How all commands with a YAML config parse it and their flags, and what they say where these do not fit.

Next in the tour: `cli.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jsonargparse import ArgumentError

from unsam_lightning.errors import UserError

#: For `LightningCLI`: errors are raised, configs may refer to their own values, and a flag cut short is not guessed.
PARSER_OPTIONS: dict[str, Any] = {"exit_on_error": False, "parser_mode": "omegaconf+", "allow_abbrev": False}


@contextlib.contextmanager
def explain_argument_errors(command: str) -> Iterator[None]:
    """Turn what the parser refuses inside the block into a `UserError` that names the command's help."""
    try:
        yield
    except ArgumentError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            expected="a valid config and command line",
            found=" ".join(lines)[:600],
            remedy=f"see `python -m unsam_lightning {command} --help`",
        ) from None
