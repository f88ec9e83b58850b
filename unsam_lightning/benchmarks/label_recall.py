"""How well pseudo-labels meet what people drew, before any training: recall over the number of masks an image.

    python -m unsam_lightning.benchmarks.label_recall data_manifests/bsds500_val.yaml --images 20

Each ground-truth mask counts with its best IoU among an image's masks; several may be met by the same one, because
several annotators draw the same thing. AR is the share met at an IoU, averaged over the IoUs 0.5, 0.55, ... 0.95.
Next in the tour: `benchmarks/label_speed.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from unsam_lightning.benchmarks.label_candidates import Method, by_recipe, felzenszwalb, official_parts
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.errors import exit_with_one_line
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import image_tensor
from unsam_lightning.pseudo_labels.features import Level, encoder_features
from unsam_lightning.pseudo_labels.recipe import LabelRecipe
from unsam_lightning.pseudo_labels.regions import RegionConfig
from unsam_lightning.sources import eval_dataset

BUDGETS = (50, 100, 200, 400, 1000)
IOUS = np.linspace(0.5, 0.95, 10)

#: For a thousand masks an image, of which the default's three trees have too few that differ: two more trees, of
#: features without colour, and masks may be more alike. `experiments/labels.md` has the command that labels with it and
#: how it was chosen, on BSDS500 train.
MANY_MASKS = RegionConfig(
    mixtures=(*RegionConfig().mixtures, (0.0, 0.0, 0.0, 40.0, 40.0), (0.0, 0.0, 40.0)),
    shares=(*RegionConfig().shares, 1.0, 1.0),
    suppress_iou=0.9,
    max_masks=1000,
    max_bin_share=1.0,
)


@dataclass(frozen=True)
class Recall:
    """Recall of one method at one budget on a data set.

    Attributes:
        masks_per_image: How many there were, at most the budget.
        mean_best_iou: In [0, 1].
        average_recall: In [0, 1].
        fullest_bin: Share of the masks in the fullest of ten equal bins of granularity; NaN without granularities.
    """

    masks_per_image: float
    mean_best_iou: float
    average_recall: float
    fullest_bin: float


def best_ious(masks: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return each ground-truth mask's best IoU (N,) among masks (K, H, W); 0 where there are none.

    Args:
        masks: bool (K, H, W), K possibly 0.
        truth: bool (N, H, W), none empty.
    """
    best = np.zeros(len(truth))
    flat = truth.reshape(len(truth), -1).astype(np.float32)  # counts up to 2^24 are exact
    areas = flat.sum(axis=1)
    for first in range(0, len(masks), 64):
        some = masks[first : first + 64].reshape(-1, flat.shape[1]).astype(np.float32)
        shared = some @ flat.T
        union = some.sum(axis=1)[:, None] + areas - shared
        best = np.maximum(best, (shared / union).max(axis=0))
    return best


def measure(method: Method, images: Sequence[tuple[EvalSample, dict[Level, Tensor]]], budget: int | None) -> Recall:
    """Return the recall of a method on images with their features; a budget of None is the method's own."""
    met, counts, bins = [np.zeros(0)], [], np.zeros(10)
    for sample, features in images:
        masks, granularity = method(features, sample.image, budget)
        met.append(best_ious(masks, sample.masks == 1))
        counts.append(len(masks))
        bins += np.histogram(granularity, bins=10, range=(0.1, 1.0))[0]
    best = np.concatenate(met)
    return Recall(
        float(np.mean(counts)),
        float(best.mean()),
        float((best[:, None] >= IOUS - 1e-9).mean()),
        float(bins.max() / bins.sum()) if bins.any() else float("nan"),
    )


def _regions(**changes: Any) -> Callable[[], Method]:
    base = LabelRecipe()
    return lambda: by_recipe(replace(base, regions=replace(base.regions, **changes)))


def _one_level(place: int) -> Callable[[], Method]:
    return _regions(mixtures=((1.0, *[0.0] * place, 40.0),), shares=(1.0,))


METHODS: dict[str, Callable[[], Method]] = {
    "regions": _regions(),
    "regions, five trees": lambda: by_recipe(LabelRecipe(regions=MANY_MASKS)),
    "regions, first tree": _regions(mixtures=LabelRecipe().regions.mixtures[:1], shares=(1.0,)),
    "regions, colour only": _regions(mixtures=((1.0,),), shares=(1.0,)),
    **{f"regions, colour and {level}": _one_level(n) for n, level in enumerate(LabelRecipe().region_levels)},
    "divide_conquer": lambda: by_recipe(replace(LabelRecipe(), method="divide_conquer")),
    "official parts": lambda: official_parts,
    **{f"felzenszwalb {size}": partial(felzenszwalb, size) for size in (20, 50, 100)},
}


def load_images(source: str, model: UnSAM, num_images: int | None) -> list[tuple[EvalSample, dict[Level, Tensor]]]:
    """Return the first images of a benchmark with all feature maps of a model's encoder, (h, w, D) each."""
    dataset = eval_dataset(source)
    loaded = []
    for index in range(len(dataset) if num_images is None else min(num_images, len(dataset))):
        sample = dataset[index]
        frame = model.normalize(image_tensor(sample.image, model.device))
        features = encoder_features(model, frame, get_args(Level))
        loaded.append((sample, {level: features[level][0].cpu() for level in features}))
    return loaded


def main(args: Iterable[str] | None = None) -> None:
    """Print a table, one row for each method, one column for each budget."""
    parser = argparse.ArgumentParser(prog="python -m unsam_lightning.benchmarks.label_recall", description=__doc__)
    parser.add_argument("source", help="source file of a benchmark, such as data_manifests/bsds500_val.yaml")
    parser.add_argument("--images", type=int, help="the first so many; all by default")
    parser.add_argument("--model", default="nano", help="whose encoder gives the features")
    parser.add_argument("--device", default="cpu", help="of the encoder")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    options = parser.parse_args(None if args is None else list(args))
    images = load_images(options.source, UnSAM.from_pretrained(options.model).to(options.device), options.images)
    num_masks = sum(len(sample.masks) for sample, _ in images)
    print(
        f"{options.source}: {len(images)} images, {num_masks} masks; mean best IoU / AR in %, at most N masks an image"
    )
    print(f"| method | {' | '.join(f'N = {budget}' for budget in options.budgets)} | its own number |")
    print("| --- |" + " --- |" * (len(options.budgets) + 1))
    for name in options.methods:
        method, cells = METHODS[name](), []
        for budget in (*options.budgets, None):
            found = measure(method, images, budget)
            cell = f"{100 * found.mean_best_iou:.1f} / {100 * found.average_recall:.1f}"
            if budget is None or found.masks_per_image < 0.95 * budget:
                cell += f" ({found.masks_per_image:.0f} masks)"
            if budget is None and not np.isnan(found.fullest_bin):
                cell += f", fullest bin {100 * found.fullest_bin:.0f} %"
            cells.append(cell)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    with exit_with_one_line():
        main()
