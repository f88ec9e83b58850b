"""The peak of memory of a process that labels one large photograph.

    python -m unsam_lightning.benchmarks.label_memory PHOTO.jpg --width 4000 --height 3000 --masks 1000

The photograph is enlarged to the size asked for, packed unreduced and labelled as `label` does it. What is printed is
the operating system's count for this process: Python, the libraries and the network included.
Next in the tour: `benchmarks/annotations_json.py`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from lightning.pytorch import Trainer

from unsam_lightning.errors import UserError, exit_with_one_line
from unsam_lightning.model import UnSAM
from unsam_lightning.pack import pack_images
from unsam_lightning.pseudo_labels.labeler import Labeler
from unsam_lightning.pseudo_labels.recipe import LabelRecipe


def peak_gb() -> float:
    """Return the most memory that this process has held so far, in 10^9 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def label_enlarged(photo: Path, width: int, height: int, recipe: LabelRecipe, model: UnSAM, folder: Path) -> int:
    """Label a photograph enlarged to width x height pixels in `folder`; return the number of masks.

    Raises:
        UserError: No readable photograph.
    """
    image = cv2.imread(str(photo))
    if image is None:
        raise UserError(expected=f"a photograph at {photo}", found="none", remedy="give a JPEG or PNG file")
    (folder / "photo").mkdir()
    large = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "photo" / "large.jpg"), large)
    del image, large
    manifest = pack_images(folder / "photo", folder / "shards", max_side=max(width, height))
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    labeler = Labeler(model, recipe, str(manifest.path), folder / "cache", num_workers=0, num_threads=1)
    labels = labeler.make_labels(Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **options))
    return int(labels.extra["num_masks"])


def main(args: Iterable[str] | None = None) -> None:
    """Label and print."""
    parser = argparse.ArgumentParser(prog="python -m unsam_lightning.benchmarks.label_memory", description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--masks", type=int, default=1000, help="at most")
    parser.add_argument("--model", default="nano")
    options = parser.parse_args(None if args is None else list(args))
    torch.set_num_threads(1)
    recipe = LabelRecipe()
    # Nothing is left out for being small or alike in size: as many masks as the photograph gives.
    regions = replace(recipe.regions, max_masks=options.masks, max_bin_share=1.0, min_area_fraction=0.0001)
    recipe = replace(recipe, regions=regions)
    model = UnSAM.from_pretrained(options.model)
    before, start = peak_gb(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = label_enlarged(options.photo, options.width, options.height, recipe, model, Path(folder))
    print(
        f"{options.width} x {options.height}: {found} masks in {time.perf_counter() - start:.0f} s, "
        f"peak {peak_gb():.2f} GB, of which {before:.2f} GB before the photograph was read"
    )


if __name__ == "__main__":
    with exit_with_one_line():
        main()
