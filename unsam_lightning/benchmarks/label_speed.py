"""How fast the label stage is on this machine, beside plain versions of the official algorithms.

    python -m unsam_lightning.benchmarks.label_speed
    python -m unsam_lightning.benchmarks.label_speed --parts stage --images PHOTOS --model tiny --device cuda

The plain versions are written here from the algorithms' descriptions, with their costs: a scan of all edges for every
merge and one dot product for each edge; one resize, one overlap and two encodings for each mask. Times are medians of
runs that take turns. Next in the tour: `benchmarks/label_memory.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Trainer
from PIL import Image
from pycocotools import mask as coco

from unsam_lightning.errors import exit_with_one_line
from unsam_lightning.granularity import granularity_scores
from unsam_lightning.model import UnSAM
from unsam_lightning.pseudo_labels.conquer import PAPER_THRESHOLDS, grid_edges, iterative_merge, merge_levels
from unsam_lightning.pseudo_labels.hierarchy import Masks, build_forest
from unsam_lightning.pseudo_labels.labeler import Labeler
from unsam_lightning.pseudo_labels.recipe import LabelRecipe
from unsam_lightning.pseudo_labels.upsample import lift_forest
from unsam_lightning.sources import pack_scenes

_WINDOW = 4  # how many masks the official suppression looks ahead
_SAME = 0.8


def plain_merge(features: npt.NDArray[np.float32], thresholds: Sequence[float], min_size: int = 4) -> list[Masks]:
    """Return what `iterative_merge` returns, in any order, by a dictionary of edges that every merge scans as a whole.

    Source: the official `iterative_merge` as described by the paper, written anew.
    """
    height, width, _ = features.shape
    number = np.arange(height * width).reshape(height, width)
    sums = dict(enumerate(features.reshape(height * width, -1)))
    members = {n: number == n for n in sums}
    beside: dict[int, set[int]] = {n: set() for n in sums}
    for one, other in grid_edges(np.ones((height, width), bool)):
        beside[int(one)].add(int(other))
        beside[int(other)].add(int(one))
    unit = {n: total / np.linalg.norm(total) for n, total in sums.items()}
    edges = {(a, b): float(unit[a] @ unit[b]) for a in beside for b in beside[a] if a < b}
    levels = []
    for threshold in thresholds:
        while edges:
            a, b = max(edges, key=edges.__getitem__)
            if edges[a, b] < threshold:
                break
            new = len(sums)
            sums[new] = sums[a] + sums[b]
            unit[new] = sums[new] / np.linalg.norm(sums[new])
            members[new] = members.pop(a) | members.pop(b)
            beside[new] = (beside.pop(a) | beside.pop(b)) - {a, b}
            for other in beside[new]:
                beside[other] = (beside[other] - {a, b}) | {new}
                for old in (a, b):
                    edges.pop((min(old, other), max(old, other)), None)
                edges[other, new] = float(unit[other] @ unit[new])
            edges.pop((a, b), None)
        kept = [mask for n, mask in members.items() if beside[n] and mask.sum() >= min_size]
        levels.append(np.stack(kept) if kept else np.zeros((0, height, width), bool))
    return levels


def plain_masks(instance: npt.NDArray[np.bool_], parts: Masks, side: int) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return RLE strings and granularities of grid masks at `side` x `side` pixels, the official way.

    Each part is resized by Pillow, kept if 0.9 of it lies in the instance, and suppressed among its next four by area,
    twice: by itself and then beside the instance; granularities come from counted pixels, and every mask is encoded for
    its annotation and again for its area and box.
    """
    whole = _enlarge(instance, side)
    large = [_enlarge(part, side) for part in parts]
    large = [mask for mask in large if mask.any() and (mask & whole).sum() / mask.sum() > 0.9]
    alone = _plain_suppress(_plain_suppress([m for m in large if _plain_iou(m, whole) <= _SAME]))
    kept = [whole, *alone]
    granularity = granularity_scores([int(mask.sum()) for mask in kept])
    strings = []
    for mask in kept:
        rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        again = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        coco.area(again), coco.toBbox(again)
        strings.append(rle["counts"].decode("ascii"))
    return strings, granularity


def _enlarge(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    image = Image.fromarray(mask.astype(np.uint8) * 255).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image) > 127


def _plain_iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def _plain_suppress(masks: list[npt.NDArray[np.bool_]]) -> list[npt.NDArray[np.bool_]]:
    ranked = sorted(masks, key=lambda mask: -int(mask.sum()))
    gone: set[int] = set()
    for n in range(len(ranked)):
        if n not in gone:
            following = range(n + 1, min(len(ranked), n + 1 + _WINDOW))
            gone |= {k for k in following if k not in gone and _plain_iou(ranked[n], ranked[k]) > _SAME}
    return [mask for n, mask in enumerate(ranked) if n not in gone]


def our_masks(
    instance: npt.NDArray[np.bool_], parts: Masks, image: npt.NDArray[np.uint8]
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return RLE strings and granularities of grid masks at the image's size, as the label stage makes them."""
    forest = lift_forest(build_forest(instance[None], [parts], [["conquer"] * len(parts)]), image, color_sigma=10.0)
    return forest.rle, forest.granularity


def grid_features(seed: int, side: int, channels: int) -> npt.NDArray[np.float32]:
    """Return features (side, side, channels) of nested regions with a smooth drift and noise: merges at all cosines."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    features = np.zeros((side, side, channels), np.float32)
    for cells, strength in ((6, 1.0), (24, 0.7), (96, 0.5)):
        centers = rng.random((cells, 2))
        nearest = np.argmin((y[..., None] - centers[:, 0]) ** 2 + (x[..., None] - centers[:, 1]) ** 2, axis=-1)
        features += strength * rng.normal(size=(cells, channels)).astype(np.float32)[nearest]
    drift = cv2.resize(rng.normal(size=(4, 4)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    features += drift[..., None] * rng.normal(size=channels).astype(np.float32) * 0.3
    features += 0.4 * rng.normal(size=features.shape).astype(np.float32)
    return features


def grid_masks(number: int, side: int) -> Masks:
    """Return nested masks with near-duplicates on a grid: the regions of several mergings of noisy features."""
    found: list[npt.NDArray[np.bool_]] = []
    seed = 0
    while len(found) < number:
        for level in merge_levels(grid_features(seed, side, 32), np.linspace(0.95, 0.2, 40).tolist()):
            sizes = np.bincount(level.ravel())
            found += [level == label for label in np.flatnonzero((sizes >= 4) & (sizes < side * side))]
        seed += 1
    order = np.random.default_rng(0).permutation(len(found))[:number]
    return np.stack([found[n] for n in order])


def take_turns(contestants: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median seconds of each; the first round, in which functions compile, does not count."""
    seconds: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds + 1):
        for run, spent in zip(contestants, seconds, strict=True):
            start = time.perf_counter()
            run()
            spent.append(time.perf_counter() - start)
    return [median(spent[1:]) for spent in seconds]


def _compare_conquer(rounds: int) -> None:
    features = grid_features(0, 48, 768)
    ours = [{mask.tobytes() for mask in level} for level in iterative_merge(features)]
    plain = [{mask.tobytes() for mask in level} for level in plain_merge(features, PAPER_THRESHOLDS)]
    slow, fast = take_turns(
        [lambda: plain_merge(features, PAPER_THRESHOLDS), lambda: iterative_merge(features)], rounds
    )
    print(
        f"conquer, 48 x 48 x 768: plain {1000 * slow:.0f} ms, ours {1000 * fast:.2f} ms, {slow / fast:.0f} times; "
        f"{sum(map(len, ours))} masks, {'the same' if ours == plain else 'not the same'}"
    )


def _compare_masks(rounds: int, number: int = 1000, side: int = 1024) -> None:
    parts, instance = grid_masks(number, 48), np.ones((48, 48), bool)
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    slow, fast = take_turns(
        [lambda: plain_masks(instance, parts, side), lambda: our_masks(instance, parts, image)], rounds
    )
    kept = len(plain_masks(instance, parts, side)[0]), len(our_masks(instance, parts, image)[0])
    print(
        f"resize, suppression, granularity and RLE of {number} masks at {side} px: plain {slow:.2f} s, "
        f"ours {1000 * fast:.0f} ms, {slow / fast:.0f} times; {kept[0]} and {kept[1]} masks stay"
    )


def _time_stage(images: str, name: str, device: str, threads: Sequence[int], rounds: int, cache: Path) -> None:
    """Time the whole stage, from packed shards to the label manifest, for several numbers of threads in turn."""
    model, stages = UnSAM.from_pretrained(name), {}

    def label(number: int) -> None:
        options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        trainer = Trainer(accelerator=device, devices=1, default_root_dir=cache, **options)
        labeler = Labeler(model, LabelRecipe(), images, cache, num_workers=1, num_threads=number)
        labeler.locate()
        for path in labeler.path.parent.glob("*"):
            path.unlink()
        start = time.process_time()
        labeler.make_labels(trainer)
        stages[number] = (labeler.num_labelled, time.process_time() - start, labeler.seconds_per_image())

    spent = take_turns([partial(label, number) for number in threads], rounds)
    for number, seconds in zip(threads, spent, strict=True):
        num_images, processor, parts = stages[number]
        each = ", ".join(f"{stage} {1000 * value:.0f} ms" for stage, value in parts.items())
        print(
            f"whole stage, {name} at {model.image_size} px on {device}, {num_images} images, {number} threads: "
            f"{num_images / seconds:.1f} images/s by the clock, {num_images / processor:.1f} per CPU-second "
            f"({each} an image)"
        )


def main(args: Iterable[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m unsam_lightning.benchmarks.label_speed", description=__doc__)
    parts = ["conquer", "masks", "stage"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")
    parser.add_argument("--images", help="folder, manifest or source file for the stage; 64 drawn scenes by default")
    parser.add_argument("--model", default="nano", help="for the stage")
    parser.add_argument("--device", default="cpu", help="for the encoder in the stage: cpu, cuda")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="for the stage")
    options = parser.parse_args(None if args is None else list(args))
    torch.set_num_threads(1)
    if "conquer" in options.parts:
        _compare_conquer(options.rounds)
    if "masks" in options.parts:
        _compare_masks(options.rounds)
    if "stage" in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder)
            images = options.images or str(pack_scenes(cache / "scenes", "scenes", num_images=64, size=256).path)
            _time_stage(images, options.model, options.device, options.threads, options.rounds, cache)


if __name__ == "__main__":
    with exit_with_one_line():
        main()
