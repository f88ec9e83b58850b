"""Stage 1 for one image by trees of regions: what follows the image's edges to the pixel, at every size at once.

Small regions between edges merge by the strength of their common border and by how far their colours and the encoder's
features lie apart. The nodes of such trees are the candidates, and the most distinctive ones become instances, which no
other contains, and their parts. Pure and deterministic.
Next in the tour: `pseudo_labels/given_masks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from unsam_lightning.errors import UserError
from unsam_lightning.granularity import granularity_scores, tenths
from unsam_lightning.pseudo_labels.distinct import choose_distinct, rank_nodes
from unsam_lightning.pseudo_labels.divide import check_features
from unsam_lightning.pseudo_labels.hierarchy import Forest, Masks, build_forest, instances_of, split_components
from unsam_lightning.pseudo_labels.overlap import containments, intersections, ious
from unsam_lightning.pseudo_labels.region_graph import RegionGraph, region_graph, sample_features
from unsam_lightning.pseudo_labels.region_tree import RegionTree, lasting_cut, merge_tree
from unsam_lightning.pseudo_labels.upsample import LiftedForest, lift_forest, reduce_image

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
        min_instance_fraction: Smallest lasting root; smaller masks are parts of what they lie in.
        max_area_fraction: Largest mask.
        max_masks: The most candidates of an image, the most distinctive first.
        suppress_iou: IoU above which two masks are the same. Source: NMS-iou of the published run, 0.8.
        instance_containment: Share of a mask inside an instance that makes it a part. Source: tau_overlap, 0.8.
        child_containment: Share of a part inside another that makes it a child.
        max_bin_share: Of the candidates in the fullest tenth of the granularities the least distinctive are dropped
            until it holds no more than this share of all; 1 keeps every one.
        roots: What a tree's root, of granularity 1, is. "largest": every mask that no larger one contains, the paper's
            equation 2. "lasting": the disjoint nodes of the first tree that last longest, smaller and like objects.
            Trained on BSDS500 for 600 steps, the best of ten granularities had a mean IoU of 0.50 with the first and of
            0.44 with the second, whose dial never reaches the large masks.
        keep_groups: Masks that no instance contains, such as a group of instances, form trees of their own, the largest
            ones as roots; otherwise they are dropped. Where given masks are the whole division they always are.
    """

    mixtures: tuple[tuple[float, ...], ...] = ((1.0, 40.0, 40.0, 40.0, 0.0), (1.0,), (0.5, 0.0, 0.0, 40.0, 40.0))
    shares: tuple[float, ...] = (6.0, 1.0, 1.0)
    size_exponent: float = 0.6
    max_side: int = 512
    color_sigma: float = 10.0
    min_area_fraction: float = 0.0004
    min_instance_fraction: float = 0.01
    max_area_fraction: float = 0.8
    max_masks: int = 400
    suppress_iou: float = 0.8
    instance_containment: float = 0.8
    child_containment: float = 0.9
    max_bin_share: float = 0.35
    roots: Literal["largest", "lasting"] = "largest"
    keep_groups: bool = True

    def __post_init__(self) -> None:
        if not self.mixtures or len(self.mixtures) != len(self.shares) or min(self.shares) <= 0:
            raise UserError(
                expected="one positive share for each mixture, and at least one",
                found=f"{len(self.mixtures)} mixtures and shares {self.shares}",
                remedy="give both lists the same length",
            )


def discover_regions(
    maps: Sequence[torch.Tensor | npt.NDArray[np.float32]],
    image: npt.NDArray[np.uint8],
    config: RegionConfig,
    given: Masks | None = None,
    divide: bool = True,
) -> LiftedForest:
    """Return the masks of one image as instance trees, at the image's resolution.

    Args:
        maps: Feature maps, float (h, w, D) each, of their own sizes, on the CPU, each covering the image. None at all:
            colour alone decides.
        image: uint8 RGB (H, W, 3).
        config: The settings.
        given: bool (N, *reduced_shape(H, W, max_side)), masks that join the division, beside `max_masks`; each
            connected piece counts by itself, and of a region that is nearly the same the given mask stays.
        divide: Also find instances ourselves; otherwise the given masks are the whole division: they and their parts
            are all that is returned, and no given mask means no mask.

    Returns:
        The forest; its `stage` is "divide" for instances and given masks and "conquer" for other parts.

    Raises:
        UserError: If the features or the image have the wrong shape, type or non-finite values.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            expected="an RGB image as uint8 (height, width, 3)",
            found=f"{image.dtype} {image.shape}",
            remedy="convert the image first",
        )
    graph, trees = _grow(maps, reduce_image(image, config.max_side), config)
    whole = graph.labels.size
    ranked = rank_nodes(trees, config.shares, config.min_area_fraction * whole, config.max_area_fraction * whole)
    cut = lasting_cut(trees[0], config.min_instance_fraction * whole, config.max_area_fraction * whole)
    cut = cut if divide and config.roots == "lasting" else cut[:0]
    instances = np.stack([np.zeros(len(cut), np.int32), cut.astype(np.int32)], axis=1)
    ranked = np.concatenate([instances, ranked])
    chosen = ranked[choose_distinct(trees, ranked, config.suppress_iou, max(config.max_masks, len(cut)))]
    masks = _draw(trees, chosen, graph.labels)
    num_instances = num_divided = len(cut)
    if given is not None and len(given):
        masks, num_instances, num_divided = _join(given, masks, len(cut), config)
    keep_groups = config.keep_groups and divide
    return lift_forest(_arrange(masks, num_instances, num_divided, config, keep_groups), image, config.color_sigma)


def _grow(
    maps: Sequence[torch.Tensor | npt.NDArray[np.float32]], image: npt.NDArray[np.uint8], config: RegionConfig
) -> tuple[RegionGraph, list[RegionTree]]:
    """Return the small regions of an image and a tree over them for each mixture."""
    tensors = [torch.as_tensor(features) for features in maps]
    for features in tensors:
        check_features(features)
    graph = region_graph(image)
    sampled = sample_features([features.float().numpy() for features in tensors], graph.center_01)
    return graph, [
        merge_tree(graph.edges, graph.borders, graph.area_px, _mix(mixture, graph.color, sampled), config.size_exponent)
        for mixture in config.mixtures
    ]


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


def _join(given: Masks, masks: Masks, num_cut: int, config: RegionConfig) -> tuple[Masks, int, int]:
    """Return masks with the given ones before the others, and how many of the first are instances, and divided ones."""
    pieces, _ = split_components(given, math.ceil(config.min_area_fraction * given[0].size))
    masks = np.concatenate([pieces, masks])
    overlap = ious(intersections(masks))[:, : len(pieces)]
    is_new = ~np.any(overlap > config.suppress_iou, axis=1)
    is_new[: len(pieces)] = True
    num_divided = int(np.count_nonzero(is_new[: len(pieces) + num_cut]))
    masks = masks[is_new]
    # A part that `build_forest` would not keep stays an instance: no given mask is lost between the two thresholds.
    owner = instances_of(masks[:num_divided], max(config.instance_containment, config.child_containment))
    is_part = np.concatenate([owner != np.arange(num_divided), np.ones(len(masks) - num_divided, bool)])
    return masks[np.argsort(is_part, kind="stable")], int(np.count_nonzero(~is_part)), num_divided


def _arrange(masks: Masks, num_instances: int, num_divided: int, config: RegionConfig, keep_groups: bool) -> Forest:
    """Return the forest of masks: instances first, then other masks of the division, then the rest by rank."""
    owner = np.arange(len(masks), dtype=np.int32)
    owner[num_instances:] = _NOWHERE
    if num_instances:
        inside = containments(intersections(masks))[num_instances:, :num_instances]
        is_part = inside.max(axis=1) > config.instance_containment
        owner[num_instances:][is_part] = inside.argmax(axis=1)[is_part]
    rest = np.flatnonzero(owner == _NOWHERE)
    if keep_groups:
        among = instances_of(masks[rest], config.instance_containment)
        owner[rest[among >= 0]] = rest[among[among >= 0]]
    kept = balance(masks.sum(axis=(1, 2)), owner, config.max_bin_share)
    roots = kept[owner[kept] == kept]
    parts = [kept[(owner[kept] == root) & (kept != root)] for root in roots]
    return build_forest(
        masks[roots],
        [masks[part] for part in parts],
        [["divide" if number < num_divided else "conquer" for number in part] for part in parts],
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
        bins = tenths(granularity)
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
