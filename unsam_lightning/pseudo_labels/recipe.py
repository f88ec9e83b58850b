"""Stage 1, the recipe: how one image is labelled, and the plain values that its labels depend on.

Next in the tour: `pseudo_labels/labeler.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from unsam_lightning.manifest import Manifest
from unsam_lightning.model import UnSAM
from unsam_lightning.pseudo_labels.divide_and_conquer import DivideConquerConfig, discover_masks
from unsam_lightning.pseudo_labels.features import Level
from unsam_lightning.pseudo_labels.hierarchy import Forest
from unsam_lightning.pseudo_labels.regions import RegionConfig, discover_regions

#: Raised whenever the same recipe gives other labels than before.
LABEL_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class LabelRecipe:
    """How pseudo-labels are made, apart from the encoder they are made with.

    Args:
        method: "regions" merges small regions that follow the image's edges; "divide_conquer" cuts and merges the
            encoder's patches as the paper does. Their recall is measured by `benchmarks/label_recall.py`.
        region_levels: Encoder maps for "regions", in the order of its mixtures' weights.
        regions: Settings of "regions".
        divide_level: Encoder map that "divide_conquer" cuts into instances.
        conquer_level: Encoder map that it merges into parts.
        divide_conquer: Its thresholds and limits.
        images_per_batch: Images encoded at a time.
    """

    method: Literal["regions", "divide_conquer"] = "regions"
    region_levels: tuple[Level, ...] = ("trunk4", "trunk8", "trunk16", "trunk32")
    regions: RegionConfig = field(default_factory=RegionConfig)
    divide_level: Level = "trunk16"
    conquer_level: Level = "trunk8"
    divide_conquer: DivideConquerConfig = field(default_factory=DivideConquerConfig)
    images_per_batch: int = 8

    def levels(self) -> tuple[Level, ...]:
        """Return the encoder maps that the method needs."""
        return self.region_levels if self.method == "regions" else (self.divide_level, self.conquer_level)

    def describe(self, model: UnSAM, images: Manifest) -> dict[str, Any]:
        """Return all that the labels depend on, as plain values: a label manifest records it, its hash names them."""
        settings = self.regions if self.method == "regions" else self.divide_conquer
        recipe: dict[str, Any] = {
            "version": LABEL_VERSION,
            "images_sha256": hashlib.sha256("".join(shard.sha256 for shard in images.shards).encode()).hexdigest(),
            "encoder": {"name": model.base_name, "sha256": model.base_sha256},
            "method": self.method,
            "levels": self.levels(),
            self.method: asdict(settings),
        }
        plain: dict[str, Any] = json.loads(json.dumps(recipe))  # tuples become lists, as YAML would give them back
        return plain


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for a recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def label_image(maps: Sequence[torch.Tensor], image: npt.NDArray[np.uint8], recipe: LabelRecipe) -> Forest:
    """Return the masks of one image by a recipe.

    Args:
        maps: The encoder's maps of `recipe.levels()`, float (h, w, D) each, on the CPU.
        image: uint8 RGB (H, W, 3).
        recipe: Which method, and its settings.
    """
    if recipe.method == "regions":
        return discover_regions(maps, image, recipe.regions)
    divide, conquer = maps
    return discover_masks(divide, conquer, image, recipe.divide_conquer)
