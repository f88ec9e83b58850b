"""Stage 1, the recipe: how one image is labelled, and the plain values that its labels depend on.

Next in the tour: `pseudo_labels/label_batches.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from unsam_lightning.errors import UserError
from unsam_lightning.manifest import Manifest
from unsam_lightning.model import UnSAM
from unsam_lightning.pseudo_labels.divide_and_conquer import DivideConquerConfig, discover_masks
from unsam_lightning.pseudo_labels.features import EncoderMaps, FrozenMaps, Level, TimmMaps
from unsam_lightning.pseudo_labels.given_masks import GivenMasks
from unsam_lightning.pseudo_labels.regions import RegionConfig, discover_regions
from unsam_lightning.pseudo_labels.upsample import LiftedForest, reduced_shape

#: Raised whenever the same recipe gives other labels than before.
LABEL_VERSION = 1
#: Raised whenever the same masks from files give other labels than before; labels without such files stay valid.
GIVEN_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class LabelRecipe:
    """How pseudo-labels are made, apart from the encoder they are made with.

    Args:
        method: "regions" merges small regions that follow the image's edges; "divide_conquer" cuts and merges the
            encoder's patches in the paper's way, see `divide_and_conquer.py` for what differs. Their recall is measured
            by `benchmarks/label_recall.py`.
        region_levels: Encoder maps for "regions", in the order of its mixtures' weights.
        regions: Settings of "regions".
        divide_level: Encoder map that "divide_conquer" cuts into instances.
        conquer_level: Encoder map that it merges into parts.
        divide_conquer: Its thresholds and limits.
        features: "encoder" for the SAM-2 encoder that is tuned, or "timm:NAME" for a vision transformer of timm (extra
            `timm`), DINOv2 and DINOv3 among them: "timm:vit_base_patch16_dinov3". Its one map takes the place of the
            first level.
        features_weights: Local file of the transformer's weights; by default timm downloads them.
        features_side: Pixels of the square image that the transformer sees.
        images_per_batch: Images encoded at a time.
        proposals: Masks of a detector instead of our own division, see `given_masks.py` for the formats. They are the
            instances, by either method: what lies in none of them gets no mask.
        min_score: The least score of a proposal. Source: tau_conf of the paper, 0.3.
        merge_masks: Annotations that join the division, in the same formats. Source: UnSAMv2+, section 3.6, whose rules
            of merging are not published; ours are those of `discover_regions`.
    """

    method: Literal["regions", "divide_conquer"] = "regions"
    region_levels: tuple[Level, ...] = ("trunk4", "trunk8", "trunk16", "trunk32")
    regions: RegionConfig = field(default_factory=RegionConfig)
    divide_level: Level = "trunk16"
    conquer_level: Level = "trunk8"
    divide_conquer: DivideConquerConfig = field(default_factory=DivideConquerConfig)
    features: str = "encoder"
    features_weights: str | None = None
    features_side: int = 768
    images_per_batch: int = 8
    proposals: str | None = None
    min_score: float = 0.3
    merge_masks: str | None = None

    def maps(self, model: UnSAM) -> EncoderMaps | TimmMaps:
        """Return what gives the feature maps that the method needs.

        Raises:
            UserError: There are no such features; see `TimmMaps`.
        """
        kind, _, name = self.features.partition(":")
        if kind == "timm" and name:
            return TimmMaps(name, self.features_weights, self.features_side)
        if self.features != "encoder":
            raise UserError(
                expected='features "encoder" or "timm:NAME"',
                found=repr(self.features),
                remedy="correct --data.recipe.features",
            )
        return EncoderMaps(model, self.levels())

    def levels(self) -> tuple[Level, ...]:
        """Return the maps of the SAM-2 encoder that the method needs."""
        return self.region_levels if self.method == "regions" else (self.divide_level, self.conquer_level)

    def max_side(self) -> int:
        """Return the longer side, in pixels, at which the method finds its masks."""
        return self.regions.max_side if self.method == "regions" else self.divide_conquer.max_side

    def given(self) -> dict[str, GivenMasks]:
        """Return what is to be read from files, by the name of its setting.

        Raises:
            UserError: See `GivenMasks`.
        """
        proposals = {"proposals": GivenMasks(self.proposals, self.min_score)} if self.proposals is not None else {}
        merged = {"merge_masks": GivenMasks(self.merge_masks)} if self.merge_masks is not None else {}
        return proposals | merged

    def describe(self, maps: FrozenMaps, images: Manifest, given: Mapping[str, GivenMasks]) -> dict[str, Any]:
        """Return all that the labels depend on, as plain values for the label manifest; its hash names the folder."""
        settings = self.regions if self.method == "regions" else self.divide_conquer
        recipe: dict[str, Any] = {
            "version": LABEL_VERSION,
            "images_sha256": hashlib.sha256("".join(shard.sha256 for shard in images.shards).encode()).hexdigest(),
            "encoder": maps.describe(),
            "method": self.method,
            "levels": self.levels(),
            self.method: asdict(settings),
        }
        for setting, source in given.items():
            recipe[setting] = {"version": GIVEN_VERSION, "sha256": source.sha256, "min_score": source.min_score}
        plain: dict[str, Any] = json.loads(json.dumps(recipe))  # tuples become lists, as YAML would give them back
        return plain


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for a recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def label_image(
    maps: Sequence[torch.Tensor],
    image: npt.NDArray[np.uint8],
    recipe: LabelRecipe,
    given: Mapping[str, GivenMasks] | None = None,
    name: str = "",
) -> LiftedForest:
    """Return the masks of one image by a recipe.

    Args:
        maps: What `recipe.maps()` gives, float (h, w, D) each, on the CPU.
        image: uint8 RGB (H, W, 3).
        recipe: Which method, and its settings.
        given: `recipe.given()`, read once for all images.
        name: The image's name there, see `image_name`.
    """
    height, width = image.shape[:2]
    shape = reduced_shape(height, width, recipe.max_side())
    masks = np.concatenate([source.masks(name, (height, width), shape) for source in given.values()]) if given else None
    divide = recipe.proposals is None
    if recipe.method == "regions":
        return discover_regions(maps, image, recipe.regions, masks, divide)
    return discover_masks(maps[0], maps[-1], image, recipe.divide_conquer, masks, divide)
