"""The commands without a Trainer: `shards`, `data`, `report`, `export`, `segment`; the work is done elsewhere.

Next in the tour: `export.py`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from unsam_lightning.errors import UserError, first_line, is_file, look
from unsam_lightning.granularity import LEVELS, MAX_GRANULARITY, MIN_GRANULARITY, check_granularity
from unsam_lightning.image_listing import MAX_PIXELS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from unsam_lightning.model import UnSAM


#: Granularities that `segment` shows unless told; no default of its option, which may not be given with --automatic.
_SHOWN = (0.1, 0.3, 0.6, 1.0)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the defaults, where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """argparse that shows defaults and reports a bad command line as every other user error."""

    def __init__(self, program: str, description: str | None) -> None:
        super().__init__(program, description=description, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with what argparse says."""
        raise UserError(expected=f"arguments as in `{self.prog} --help`", found=message, remedy="correct the command")


def _granularity(text: str) -> float:
    try:
        value = LEVELS[text] if text in LEVELS else float(text)
        check_granularity(value)
    except (ValueError, UserError):
        words = f"neither a number from {MIN_GRANULARITY:g} to {MAX_GRANULARITY:g} nor one of {', '.join(LEVELS)}"
        raise argparse.ArgumentTypeError(f"{text} is {words}") from None
    return value


def shards(args: list[str]) -> None:
    """Pack a folder of images into shards, or verify a manifest."""
    parser = CommandParser("python -m unsam_lightning shards", description=shards.__doc__)
    parser.add_argument("images_dir", nargs="?", type=Path, help="folder tree of JPEG, PNG and WebP images")
    parser.add_argument("out_dir", nargs="?", type=Path, help="where the shards and the manifest NAME.yaml go")
    parser.add_argument("--name", help="of the data set; the folder's name by default")
    parser.add_argument("--images_per_shard", type=int, default=256, help="at most")
    parser.add_argument("--max_side", type=int, default=1500, help="longer side in pixels; larger images are reduced")
    parser.add_argument("--max_pixels", type=int, default=MAX_PIXELS, help="larger images are refused unread")
    parser.add_argument("--licence", default="unknown", help="of the images, for the manifest")
    parser.add_argument("--source", help="where the images come from, for the manifest")
    parser.add_argument("--verify", type=Path, metavar="MANIFEST", help="check counts and checksums instead")
    options = parser.parse_args(args)
    if options.verify is not None:
        from unsam_lightning.verify import verify_manifest

        manifest = verify_manifest(options.verify)
        print(f"{options.verify}: {manifest.num_samples} samples in {len(manifest.shards)} shards, all as listed")
        return
    if options.images_dir is None or options.out_dir is None:
        parser.error("IMAGES_DIR and OUT_DIR, or --verify MANIFEST, are needed")
    from unsam_lightning.pack import pack_images

    given = {key: value for key, value in vars(options).items() if key not in ("images_dir", "out_dir", "verify")}
    manifest = pack_images(options.images_dir, options.out_dir, **given)
    print(f"manifest: {manifest.path}")


def data(args: list[str]) -> None:
    """Fetch what is public of a data set, say what a person must fetch and why, and verify what is there."""
    parser = CommandParser("python -m unsam_lightning data", description=data.__doc__)
    parser.add_argument("name", nargs="?", help="of a manifest in data_manifests/, or the path of one; none: list them")
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder for this data set")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for source file and report, by default --root")
    parser.add_argument("--verify", action="store_true", help="download nothing, look at what is there")
    parser.add_argument("--quick", action="store_true", help="count images or videos without opening them")
    options = parser.parse_args(args)
    from unsam_lightning.data_command import find_manifest, list_data, prepare_data

    if options.name is None:
        for line in list_data():
            print(line)
        return
    source = find_manifest(options.name)
    root = options.root or (source.root if options.verify else None)
    if root is None:
        parser.error("--root DIR is needed: where the data set is or goes")
    path = prepare_data(source, root, out=options.out, fetch=not options.verify, quick=options.quick)
    print(f"source file: {path}")


def report(args: list[str]) -> None:
    """Write one page and a Markdown table of what `test` measured: runs side by side, with confidence intervals."""
    parser = CommandParser("python -m unsam_lightning report", description=report.__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders; others are compared with the first"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page; the Markdown goes beside it")
    options = parser.parse_args(args)
    if options.out.suffix != ".html":
        parser.error(f"--out must end in .html, found {options.out}")
    from unsam_lightning.report.page import write_report
    from unsam_lightning.report.runs import read_runs

    for path in write_report(read_runs(options.runs), options.out):
        print(path)


def _refuse_to_replace(out: Path, *sources: str | Path) -> None:
    """Raise `UserError` where a file to write is one of those that it is made of; names that are no files are fine."""
    there = look(out)
    for source in sources:
        found = look(Path(source))
        if there is not None and found is not None and os.path.samestat(there, found):
            raise UserError(
                expected="an --out that is none of the files it is made of",
                found=f"{out} for both",
                remedy="choose another name; the file there holds more than what is written",
            )


def export(args: list[str]) -> None:
    """Write a tuned model in another layout: for us, for the official UnSAMv2 code, for whatever runs SAM-2."""
    parser = CommandParser("python -m unsam_lightning export", description=export.__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of `fit`, or an official UnSAMv2 checkpoint")
    parser.add_argument("--layout", required=True, choices=("adapter", "sam2", "unsamv2"))
    parser.add_argument("--out", required=True, type=Path, help="*.ckpt for adapter; *.pt or *.safetensors otherwise")
    parser.add_argument(
        "--granularity", type=_granularity, help="for --layout sam2: that of its single mask, 1.0 by default"
    )
    parser.add_argument("--base", help="where the checkpoint finds its base model, if not under its recorded name")
    parser.add_argument("--config", type=Path, help="yaml of the base architecture, for sizes that have no name")
    options = parser.parse_args(args)
    if not is_file(options.checkpoint):
        raise UserError(expected="a checkpoint file", found=str(options.checkpoint), remedy="check the path")
    from unsam_lightning.export import export as write
    from unsam_lightning.model import UnSAM

    base = {"base": options.base} if options.base else {}
    model = UnSAM.from_pretrained(str(options.checkpoint), options.config, **base)
    _refuse_to_replace(options.out, options.checkpoint, options.base or model.base_name)
    for note in write(model, options.layout, options.out, options.granularity):
        print(f"note: {note}")
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


def _on_device(model: UnSAM, device: str) -> UnSAM:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch's, for a name that it does not know and a device that fails
        raise UserError(
            expected="a device that torch finds here, such as cpu, cuda or mps",
            found=f"{device}: {first_line(error)}",
            remedy="choose another --device",
        ) from None


def _read_photo(path: Path) -> npt.NDArray[np.uint8]:
    from unsam_lightning.photo import only_our_limits, read_photo

    with only_our_limits():
        photo = read_photo(path, max_pixels=MAX_PIXELS)  # as in shards
    if isinstance(photo, str):
        raise UserError(expected="a readable image", found=f"{path}: {photo}", remedy="check the file")
    return photo


def segment(args: list[str]) -> None:
    """Segment one image by clicks at the granularities asked for; write masks and an overlay as PNG files."""
    parser = CommandParser("python -m unsam_lightning segment", description=segment.__doc__)
    parser.add_argument("image", type=Path, help="JPEG, PNG or WebP")
    parser.add_argument("--checkpoint", default="nano", help="a checkpoint of `fit`, or a model name")
    parser.add_argument("--click", nargs=2, type=float, action="append", metavar=("X", "Y"), help="inside, in pixels")
    parser.add_argument("--not_click", nargs=2, type=float, action="append", metavar=("X", "Y"), help="outside")
    parser.add_argument(
        "--granularity",
        nargs="+",
        type=_granularity,
        help=f"from 0.1 to 1.0, or {', '.join(f'{name} ({value:g})' for name, value in LEVELS.items())}; "
        f"{' '.join(f'{value:g}' for value in _SHOWN)} unless told",
    )
    parser.add_argument(
        "--automatic", action="store_true", help="the levels the image offers there, the first choice *"
    )
    parser.add_argument("--base", help="where the checkpoint finds its base model, if not under its recorded name")
    parser.add_argument("--config", type=Path, help="yaml of the base architecture, for sizes that have no name")
    parser.add_argument("--out", type=Path, default=Path("segments"), help="folder for the PNG files")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    options = parser.parse_args(args)
    positive, negative = options.click or [], options.not_click or []
    if not positive:
        parser.error("at least one --click X Y is needed")
    if options.automatic and options.granularity:
        parser.error("--automatic finds the granularities: give it or --granularity")

    image = _read_photo(options.image)

    from unsam_lightning.model import UnSAM
    from unsam_lightning.segment.interactive import Predictor
    from unsam_lightning.segment.render import answer_tiles, tile_rows, write_png

    clicks, labels = positive + negative, [1] * len(positive) + [0] * len(negative)
    base = {"base": options.base} if options.base else {}
    model = _on_device(UnSAM.from_pretrained(options.checkpoint, options.config, **base), options.device)
    if not model.is_tuned:
        print(f"note: {options.checkpoint} has no trained adapter: all granularities give about SAM's own mask")
    predictor, granularities, first_choice = Predictor(model, image), options.granularity or _SHOWN, None
    if options.automatic:
        masks, granularities, ious, first_choice = predictor.offer(clicks, labels)
    else:
        masks, ious, _ = predictor.predict(clicks, labels, granularities)
    out = options.out
    titles = [f"g = {g:g}{' *' if k == first_choice else ''}" for k, g in enumerate(granularities)]
    for granularity, title, mask, iou in zip(granularities, titles, masks, ious, strict=True):
        path = out / f"{options.image.stem}_g{granularity:g}.png"
        write_png(path, mask)
        print(f"{title}: {int(mask.sum())} px, predicted IoU {iou:.2f}, {path}")
    tiles = answer_tiles(image, masks, clicks, labels)
    path = out / f"{options.image.stem}_masks.png"
    write_png(path, tile_rows([tiles], titles, height=len(tiles[0])))
    print(f"overlay: {path}")
