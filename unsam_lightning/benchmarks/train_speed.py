"""What a training step and its data cost, beside a reference of the official algorithms and beside targets.

    python -m unsam_lightning.benchmarks.train_speed
    python -m unsam_lightning.benchmarks.train_speed account
    python -m unsam_lightning.benchmarks.train_speed step --model small --rounds 3

`step` times a step in float32 on the CPU; `account` counts the kernels and bytes of one in mixed precision, at the size
of the official training; `loss` and `clicks` time these alone; `loader` times one image from the shards to the batch.
Times are medians of the CPU-seconds of runs that take turns, on one thread; ratios the medians of each turn's.
The exit code is 1 where ours and the reference should give the same and do not; a missed target is only printed.
Next in the tour: `callbacks.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from unsam_lightning.asking import Prompting
from unsam_lightning.benchmarks.loader_speed import compare_loaders, loader_case
from unsam_lightning.benchmarks.op_count import OpCounter
from unsam_lightning.benchmarks.step_speed import compare_clicks, compare_losses, compare_steps
from unsam_lightning.benchmarks.train_account import (
    OUR_STEPS,
    PAIRS_ALONE,
    count_decode,
    count_our_step,
    count_reference_step,
)
from unsam_lightning.errors import exit_with_one_line

_PARTS = ("step", "account", "loss", "clicks", "loader")


def account(name: str, num_images: int, num_masks: int, prompting: Prompting) -> bool:
    """Print the counts of a step and of a decoder pass, ours and the reference's; return whether targets are met.

    They are for the official size and, of the steps, for the reference's own objective; it has none of the other terms.
    """
    met = []
    is_official = (name, num_images, num_masks, prompting.num_corrections) == ("small", 2, 30, 3)
    theirs = count_reference_step(name, num_images, num_masks, prompting.num_corrections)
    clicks = f"(1 + {prompting.num_corrections}) clicks"
    print(f"A1, one step: {name}, {num_images} images x {num_masks} masks x {clicks}, bfloat16 autocast of a GPU")
    if is_official:
        print("  the official code, counted elsewhere: 551 GB, 7,736 kernels; 512 GB, 7,525 without its memory encoder")
    print(f"  reference, without a memory encoder: {_counts(theirs)}")
    for step in OUR_STEPS:
        ours = count_our_step(name, num_images, num_masks, step, prompting)
        is_within = ours.moved_bytes <= 190e9 and ours.kernels <= 5800
        wanted = _target("190 GB, 5,800 kernels", is_within) if is_official and step.weights is PAIRS_ALONE else ""
        met.append(is_within or not wanted)
        print(
            f"  ours, {step.title}: {_counts(ours)}; {theirs.moved_bytes / ours.moved_bytes:.2f} times fewer bytes, "
            f"{theirs.kernels / ours.kernels:.2f} times fewer kernels{wanted}"
        )
    points = 64
    ours, theirs = count_decode(name, points)
    print(f"A2, decoder: {name}, {points} points on one image, float32, no gradients")
    if name == "small":
        print("  the official code, counted elsewhere: 34.3 GB, 3.93 GFLOP a point")
    for title, each in (("reference", theirs), ("ours", ours)):
        print(f"  {title}: {_counts(each)}, {each.flops / points / 1e9:.3g} GFLOP a point")
    is_within = ours.moved_bytes <= 15e9 and ours.flops / points <= 2.8e9
    wanted = _target("15 GB, 2.8 GFLOP a point", is_within) if name == "small" else ""
    met.append(is_within or not wanted)
    print(
        f"  {theirs.moved_bytes / ours.moved_bytes:.2f} times fewer bytes, {theirs.flops / ours.flops:.2f} times fewer "
        f"FLOPs{wanted}"
    )
    return all(met)


def _counts(counter: OpCounter) -> str:
    gigabytes, gigaflops = counter.moved_bytes / 1e9, counter.flops / 1e9
    return f"{gigabytes:.4g} GB, {counter.kernels:,} kernels, {gigaflops:,.0f} GFLOP"


def _target(text: str, is_met: bool) -> str:
    return f"; target at most {text}: {'met' if is_met else 'MISSED'}"


def main(args: Iterable[str] | None = None) -> int:
    """Measure, print and return the exit code: 1 if ours and the reference disagree or a count misses its target."""
    parser = argparse.ArgumentParser(
        prog="python -m unsam_lightning.benchmarks.train_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", choices=[*_PARTS, []], default=[], metavar="PART", help=", ".join(_PARTS))
    parser.add_argument("--model", help="of step (nano by default) and account (small by default); random weights")
    parser.add_argument("--rounds", type=int, default=7, help="turns of which the median is taken")
    parser.add_argument("--masks", type=int, default=6, help="of the image in step, loss and clicks")
    parser.add_argument("--side", type=int, default=1024, help="of the frame in loss, clicks and loader, in pixels")
    parser.add_argument("--account_images", type=int, default=2)
    parser.add_argument("--account_masks", type=int, default=30, help="of each image")
    parser.add_argument("--corrections", type=int, default=3, help="clicks after the first in step and account")
    parser.add_argument("--prompts_per_pass", type=int, help="of our steps, as in fit; all at once by default")
    parser.add_argument(
        "--photo", type=Path, default=Path("../shared/data/SA-1B_images_unlabelled/sa_121371.jpg"), help="for loader"
    )
    parser.add_argument("--annotations", type=int, default=150, help="masks of the photograph")
    parser.add_argument("--objects", type=int, default=30, help="masks that a batch takes of these")
    parser.add_argument("--max_side", type=int, default=10**6, help="of the photograph in its shard; 1500 in `shards`")
    options = parser.parse_args(None if args is None else list(args))
    torch.set_num_threads(1)
    prompting = Prompting(num_corrections=options.corrections, prompts_per_pass=options.prompts_per_pass)
    parts = options.parts or _PARTS
    same = []  # of each part: ours and the reference agree; counts are what they should be
    if "step" in parts:
        same.append(compare_steps(options.model or "nano", options.masks, prompting, options.rounds))
    if "account" in parts:
        same.append(account(options.model or "small", options.account_images, options.account_masks, prompting))
    if "loss" in parts:
        same.append(compare_losses(options.masks, options.side, options.rounds))
    if "clicks" in parts:
        same.append(compare_clicks(options.masks, options.side, options.rounds))
    if "loader" in parts:
        with tempfile.TemporaryDirectory() as folder:
            sizes = (options.annotations, options.objects, options.side, options.max_side)
            same.append(compare_loaders(loader_case(options.photo, Path(folder), *sizes), options.rounds))
    return 0 if all(same) else 1


if __name__ == "__main__":
    with exit_with_one_line():
        sys.exit(main())
