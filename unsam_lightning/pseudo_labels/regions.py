"""Stage 1 for one image by trees of regions: what follows the image's edges to the pixel, at every size at once.

Small regions between edges merge by the strength of their common border and by how far their colours and the encoder's
features lie apart. The nodes of such trees are the candidates: the cut through the first tree whose nodes last longest
gives the instances, and the most distinctive nodes of all trees their parts and groups. Pure and deterministic.
Next in the tour: `pseudo_labels/recipe.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from unsam_lightning.errors import UserError
from unsam_lightning.granularity import granularity_scores
from unsam_lightning.pseudo_labels.distinct import choose_distinct, rank_nodes
from unsam_lightning.pseudo_labels.divide import check_features
from unsam_lightning.pseudo_labels.hierarchy import Forest, Masks, build_forest, instances_of
from unsam_lightning.pseudo_labels.overlap import containments, intersections
from unsam_lightning.pseudo_labels.region_graph import region_graph, sample_features
from unsam_lightning.pseudo_labels.region_tree import RegionTree, lasting_cut, merge_tree
from unsam_lightning.pseudo_labels.upsample import lift_forest

_NOWHERE = -1


@dataclass(frozen=True)
class RegionConfig:
    """The settings of `discover_regions`, all of them plain values.

    Attributes:
        mixtures: What the distance between two regions is made of, one tree each: the weight of their mean Lab colours,
            then of each feature map, in Lab units per standard deviation of the map.
        shares: How many nodes are taken of each tree, in proportion.
        size_exponent: See `merge_tree`.
        max_side: Larger images are reduced to this longer side; masks are lifted back along the image's own edges.
        color_sigma: How far colours may differ, in grey levels, for a pixel to join a neighbour when lifted.
        min_area_fraction: Smallest mask, as a share of the image; 0.0004 are 26 pixels at 256 x 256.
        min_instance_fraction: Smallest instance; smaller masks are parts of what they lie in.
        max_area_fraction: Largest mask.
        max_masks: The most candidates of an image, the most distinctive first.
        suppress_iou: IoU above which two masks are the same. Source: NMS-iou of the published run, 0.8.
        instance_containment: Share of a mask inside an instance that makes it a part. Source: tau_overlap, 0.8.
        child_containment: Share of a part inside another that makes it a child.
        max_bin_share: Of the candidates in the fullest tenth of the granularities the least distinctive are dropped
            until it holds no more than this share of all; 1 keeps every one.
        keep_groups: Masks that no instance contains, such as a group of instances, form trees of their own, the largest
            ones as roots; otherwise they are dropped.
    """

    mixtures: tuple[tuple[float, ...], ...] = ((1.0, 40.0, 40.0, 40.0, 0.0), (1.0,), (0.5, 0.0, 0.0, 40.0, 40.0))
    shares: tuple[float, ...] = (6.0, 1.0, 1.0)
    size_exponent: float = 0.6
    max_side: int = 512
    color_sigma: float = 10.0
    min_area_fraction: float = 0.0004
    min_instance_fraction: float = 0.01
    max_area_fraction: float = 0.8
    max_masks: int = 300
    suppress_iou: float = 0.8
    instance_containment: float = 0.8
    child_containment: float = 0.9
    max_bin_share: float = 0.35
    keep_groups: bool = True

    def __post_init__(self) -> None:
        if not self.mixtures or len(self.mixtures) != len(self.shares) or min(self.shares) <= 0:
            raise UserError(
                expected="one positive share for each mixture, and at least one",
                found=f"{len(self.mixtures)} mixtures and shares {self.shares}",
                remedy="give both lists the same length",
            )


def discover_regions(
    maps: Sequence[torch.Tensor | npt.NDArray[np.float32]], image: npt.NDArray[np.uint8], config: RegionConfig
) -> Forest:
    """Return the masks of one image as instance trees, at the image's resolution.

    Args:
        maps: Feature maps, float (h, w, D) each, of their own sizes, on the CPU, each covering the image. None at all:
            colour alone decides.
        image: uint8 RGB (H, W, 3).
        config: The settings.

    Returns:
        The forest; its `stage` is "divide" for instances and "conquer" for parts.

    Raises:
        UserError: If the features or the image have the wrong shape, type or non-finite values.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            expected="an RGB image as uint8 (height, width, 3)",
            found=f"{image.dtype} {image.shape}",
            remedy="convert the image first",
        )
    tensors = [torch.as_tensor(features) for features in maps]
    for features in tensors:
        check_features(features)
    small = _reduce(image, config.max_side)
    graph = region_graph(small)
    sampled = sample_features([features.float().numpy() for features in tensors], graph.center_01)
    trees = [
        merge_tree(graph.edges, graph.borders, graph.area_px, _mix(mixture, graph.color, sampled), config.size_exponent)
        for mixture in config.mixtures
    ]
    whole = graph.labels.size
    ranked = rank_nodes(trees, config.shares, config.min_area_fraction * whole, config.max_area_fraction * whole)
    cut = lasting_cut(trees[0], config.min_instance_fraction * whole, config.max_area_fraction * whole)
    instances = np.stack([np.zeros(len(cut), np.int32), cut.astype(np.int32)], axis=1)
    ranked = np.concatenate([instances, ranked])
    chosen = ranked[choose_distinct(trees, ranked, config.suppress_iou, max(config.max_masks, len(cut)))]
    masks = _draw(trees, chosen, graph.labels)
    forest = _arrange(masks, len(cut), config)
    return forest if small.shape == image.shape else lift_forest(forest, image, config.color_sigma)


def _reduce(image: npt.NDArray[np.uint8], max_side: int) -> npt.NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _mix(
    mixture: Sequence[float], color: npt.NDArray[np.float32], sampled: Sequence[npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """Return the features (R, D) whose Euclidean distance is the mixture's."""
    weighted = zip(mixture, [color, *sampled], strict=False)  # levels without a weight, and weights without a level
    return np.concatenate([np.float32(weight) * block for weight, block in weighted if weight], axis=1)


def _draw(trees: Sequence[RegionTree], chosen: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]) -> Masks:
    """Return the masks (K, H, W) of nodes (K, 2) of the trees."""
    members = np.zeros((len(chosen), len(trees[0].leaves)), bool)
    for number, (which, node) in enumerate(chosen):
        tree = trees[which]
        members[number, tree.leaves[tree.first[node] : tree.first[node] + tree.count[node]]] = True
    return np.take(members, labels, axis=1)


def _arrange(masks: Masks, num_instances: int, config: RegionConfig) -> Forest:
    """Return the forest of masks, the instances first, then the others in the order of their rank."""
    owner = np.arange(len(masks), dtype=np.int32)
    owner[num_instances:] = _NOWHERE
    if num_instances:
        inside = containments(intersections(masks))[num_instances:, :num_instances]
        is_part = inside.max(axis=1) > config.instance_containment
        owner[num_instances:][is_part] = inside.argmax(axis=1)[is_part]
    rest = np.flatnonzero(owner == _NOWHERE)
    if config.keep_groups:
        among = instances_of(masks[rest], config.instance_containment)
        owner[rest[among >= 0]] = rest[among[among >= 0]]
    kept = balance(masks.sum(axis=(1, 2)), owner, config.max_bin_share)
    roots = kept[owner[kept] == kept]
    parts = [masks[kept[(owner[kept] == root) & (kept != root)]] for root in roots]
    return build_forest(
        masks[roots],
        parts,
        [["conquer"] * len(part) for part in parts],
        iou=config.suppress_iou,
        containment=config.child_containment,
    )


def balance(
    area_px: npt.NDArray[np.int64], owner: npt.NDArray[np.int32], max_bin_share: float
) -> npt.NDArray[np.int64]:
    """Return the masks that stay when no tenth of the granularities may hold more than a share of all.

    Args:
        area_px: (K,), masks in the order of their rank, the best first.
        owner: int32 (K,), the root of each mask's tree, itself for a root; masks with -1 go.
        max_bin_share: In (0, 1]. Roots always stay, so that a forest of nothing else may exceed it.

    Returns:
        Rising indices.
    """
    kept = np.flatnonzero(owner >= 0)
    while len(kept):
        granularity = np.ones(len(kept))
        for root in np.unique(owner[kept]):
            tree = owner[kept] == root
            granularity[tree] = granularity_scores(area_px[kept[tree]])
        bins = np.minimum((granularity - 0.1) / 0.09, 9).astype(np.int64)
        sizes = np.bincount(bins, minlength=10)
        fullest = int(sizes.argmax())
        # Each one that goes also makes the whole smaller: x - n <= share (K - n).
        excess = int(np.ceil((sizes[fullest] - max_bin_share * len(kept)) / max(1 - max_bin_share, 1e-9) - 1e-9))
        droppable = np.flatnonzero((bins == fullest) & (owner[kept] != kept))
        if excess <= 0 or len(droppable) == 0:
            break
        # Granularities change with what is left, so only half of the excess goes at a time.
        kept = np.delete(kept, droppable[-max(1, excess // 2) :])
    return kept
