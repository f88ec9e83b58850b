"""The command line.

    python -m unsam_lightning shards PHOTOS OUT                       # images -> tar shards and a manifest
    python -m unsam_lightning data NAME --root DIR                    # fetch and verify a benchmark
    python -m unsam_lightning label --config experiments/x.yaml       # mask-granularity pairs, without labels
    python -m unsam_lightning fit --config experiments/x.yaml         # train the adapter; makes labels where missing
    python -m unsam_lightning test --config experiments/x.yaml --ckpt_path last
    python -m unsam_lightning report RUN [RUN ...] --out page.html    # runs side by side, with confidence intervals
    python -m unsam_lightning segment PHOTO --checkpoint CKPT --click X Y --granularity 0.3
    python -m unsam_lightning export CKPT --layout {adapter,unsamv2,sam2} --out FILE   # for other programs
    python -m unsam_lightning pretrain --config experiments/pretrain_nano.yaml   # the bundled model, from nothing

`COMMAND --help` lists the options of a command.
"""

from __future__ import annotations

import io
import sys

from unsam_lightning.errors import UserError


def main(args: list[str]) -> int:
    """Run a command and return the exit code: 0, or 2 for a problem that the user can mend."""
    command = args[0] if args else "--help"
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Results name files, whose names may be no UTF-8; a terminal may know less than UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # Imports wait for the command, because lightning alone takes seconds and `--help` should not.
        if command == "shards":
            from unsam_lightning.commands import shards

            shards(args[1:])
        elif command == "data":
            from unsam_lightning.commands import data

            data(args[1:])
        elif command == "report":
            from unsam_lightning.commands import report

            report(args[1:])
        elif command == "segment":
            from unsam_lightning.commands import segment

            segment(args[1:])
        elif command == "export":
            from unsam_lightning.commands import export

            export(args[1:])
        elif command in ("fit", "validate", "test", "label"):
            from unsam_lightning.cli import main as lightning_main

            lightning_main(args)
        elif command == "pretrain":
            from unsam_lightning.pretrain import main as pretrain_main

            pretrain_main(args[1:])
        elif command in ("--help", "-h"):
            print(__doc__)
        elif command == "--version":
            from unsam_lightning import __version__

            print(__version__)
        else:
            raise UserError(
                expected="a command (shards, data, label, fit, validate, test, report, segment, export, pretrain)",
                found=repr(command),
                remedy="see `python -m unsam_lightning --help`",
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
