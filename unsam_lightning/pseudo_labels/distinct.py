"""The best nodes of several trees over the same small regions, none nearly the same as another.

Overlaps are counted on the small regions, so that a thousand masks are compared without drawing any.
Next in the tour: `pseudo_labels/regions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled
from unsam_lightning.pseudo_labels.region_tree import RegionTree


def rank_nodes(
    trees: Sequence[RegionTree], shares: Sequence[float], min_area_px: float, max_area_px: float
) -> npt.NDArray[np.int32]:
    """Return the nodes of all trees, the most distinctive first.

    Within a tree nodes are ordered by (height at which they vanish) - (height at which they arise) / 2: coarse ones
    first, and of those the ones that last long. Several trees are shuffled in proportion to their shares.

    Args:
        trees: T trees over the same leaves.
        shares: T positive numbers.
        min_area_px: Smaller nodes are left out.
        max_area_px: Larger nodes are left out.

    Returns:
        int32 (K, 2): tree and node.
    """
    places, found = [], []
    for number, (tree, share) in enumerate(zip(trees, shares, strict=True)):
        nodes = np.flatnonzero((tree.area_px >= min_area_px) & (tree.area_px <= max_area_px))
        lasting = tree.merged[nodes] - tree.born[nodes] / 2
        nodes = nodes[np.argsort(-lasting, kind="stable")]
        places.append(np.arange(1, len(nodes) + 1) / share)
        found.append(np.stack([np.full(len(nodes), number), nodes], axis=1))
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.ascontiguousarray(np.concatenate(found)[order].astype(np.int32))


def choose_distinct(
    trees: Sequence[RegionTree], ranked: npt.NDArray[np.int32], max_iou: float, limit: int
) -> npt.NDArray[np.int64]:
    """Return which of the ranked nodes are kept: a node goes if its IoU with a kept one is above `max_iou`.

    Args:
        trees: T trees over the same leaves.
        ranked: int32 (K, 2), tree and node, best first.
        max_iou: In [0, 1].
        limit: The most nodes to keep.

    Returns:
        int64 (K',), rising indices into `ranked`.
    """
    num_leaves = len(trees[0].leaves)
    first, count, leaves, area = (
        np.stack([getattr(tree, name) for tree in trees]) for name in ("first", "count", "leaves", "area_px")
    )
    kept = np.empty(min(limit, len(ranked)), np.int64)
    number = _choose(ranked, first, count, leaves, area[0, :num_leaves].copy(), max_iou, kept)
    return kept[:number]


@compiled
def _choose(
    ranked: npt.NDArray[np.int32],
    first: npt.NDArray[np.int32],
    count: npt.NDArray[np.int32],
    leaves: npt.NDArray[np.int32],
    leaf_area: npt.NDArray[np.float64],
    max_iou: float,
    kept: npt.NDArray[np.int64],
) -> int:
    num_trees, num_leaves = leaves.shape
    inside = np.zeros(num_leaves)
    before = np.zeros((num_trees, num_leaves + 1))  # area of the candidate's leaves before a place in a tree's order
    kept_area = np.empty(kept.shape[0])
    number = 0
    for candidate in range(ranked.shape[0]):
        if number == kept.shape[0]:
            break
        tree, node = ranked[candidate, 0], ranked[candidate, 1]
        inside[:] = 0.0
        for place in range(first[tree, node], first[tree, node] + count[tree, node]):
            inside[leaves[tree, place]] = leaf_area[leaves[tree, place]]
        for other in range(num_trees):
            for place in range(num_leaves):
                before[other, place + 1] = before[other, place] + inside[leaves[other, place]]
        area = before[0, num_leaves]
        is_new = True
        for index in range(number):
            other, rival = ranked[kept[index], 0], ranked[kept[index], 1]
            start = first[other, rival]
            shared = before[other, start + count[other, rival]] - before[other, start]
            if shared > max_iou * (area + kept_area[index] - shared):
                is_new = False
                break
        if is_new:
            kept[number], kept_area[number] = candidate, area
            number += 1
    return number
