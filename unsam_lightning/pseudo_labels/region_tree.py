"""A graph of regions merges, pair after pair, until one is left: the tree of all the regions on the way.

Next in the tour: `pseudo_labels/distinct.py`.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled, compiled_in_lanes
from unsam_lightning.pseudo_labels.half_edges import NO_EDGE, contract, link

#: A node that lasts longer than e^3 of its own height counts no more than one that lasts as long.
_LONGEST_LIFE = 3.0
#: Added to strength and distance (both in Lab units), so that neither alone makes a merge free.
_FLOOR = 0.1


@dataclass(frozen=True)
class RegionTree:
    """A binary tree over R small regions, its leaves 0 to R - 1; node R + k is the k-th merge, the last one the root.

    Attributes:
        children: int32 (R - 1, 2), the two nodes that each merge joins.
        area_px: float64 (N,), N = 2 R - 1.
        born: float64 (N,), the height at which a node arises, rising with the number; 0 for leaves.
        merged: float64 (N,), the height at which it becomes a part of its parent; twice its own for the root.
        leaves: int32 (R,), the leaves in an order in which the leaves of every node stand together.
        first: int32 (N,), place of a node's first leaf in that order.
        count: int32 (N,), how many leaves a node has.
    """

    children: npt.NDArray[np.int32]
    area_px: npt.NDArray[np.float64]
    born: npt.NDArray[np.float64]
    merged: npt.NDArray[np.float64]
    leaves: npt.NDArray[np.int32]
    first: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]


def merge_tree(
    edges: npt.NDArray[np.int32],
    borders: npt.NDArray[np.float64],
    area_px: npt.NDArray[np.float64],
    features: npt.NDArray[np.float32],
    size_exponent: float,
) -> RegionTree:
    """Return the tree of greedy merging: the cheapest pair of neighbours first.

    The price of a pair is (mean strength of their common border) x (distance of their mean features) x
    (a b / (a + b)) ^ size_exponent with their areas a and b. A tree's heights are the prices, made to rise.

    Args:
        edges: int32 (E, 2), see `RegionGraph`; the graph is connected.
        borders: float64 (E, 2).
        area_px: float64 (R,), R at least 1.
        features: float32 (R, D), in Lab units.
        size_exponent: 0: areas do not matter; 0.5 with the distance alone would be Ward's criterion.
    """
    num_leaves = len(area_px)
    children = np.empty((num_leaves - 1, 2), np.int32)
    born = np.zeros(2 * num_leaves - 1)
    area = np.concatenate([area_px, np.zeros(num_leaves - 1)])
    _merge(edges, borders.copy(), area, features * area_px[:, None].astype(np.float32), size_exponent, children, born)
    merged = np.empty_like(born)
    merged[-1] = 2 * born[-1]
    merged[children.ravel()] = np.repeat(born[num_leaves:], 2)
    leaves, first, count = _order_leaves(children)
    return RegionTree(children, area, born, merged, leaves, first, count)


@compiled_in_lanes
def _squared_distance(
    one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], one_scale: np.float32, other_scale: np.float32
) -> np.float32:
    total = np.float32(0.0)
    for channel in range(one.shape[0]):
        difference = one[channel] * one_scale - other[channel] * other_scale
        total += difference * difference
    return total


@compiled
def _price(
    edge: int,
    one: int,
    other: int,
    borders: npt.NDArray[np.float64],
    area: npt.NDArray[np.float64],
    sums: npt.NDArray[np.float32],
    size_exponent: float,
) -> float:
    squared = _squared_distance(sums[one], sums[other], np.float32(1 / area[one]), np.float32(1 / area[other]))
    size = area[one] * area[other] / (area[one] + area[other])
    strength = borders[edge, 1] / borders[edge, 0]
    return float((strength + _FLOOR) * (math.sqrt(squared) + _FLOOR) * size**size_exponent)


@compiled
def _merge(
    edges: npt.NDArray[np.int32],
    borders: npt.NDArray[np.float64],
    area: npt.NDArray[np.float64],
    sums: npt.NDArray[np.float32],
    size_exponent: float,
    children: npt.NDArray[np.int32],
    born: npt.NDArray[np.float64],
) -> None:
    """Write `children`, and `area` and `born` of the merged nodes; `borders` and `sums` are scratch afterwards."""
    num_leaves, num_edges = sums.shape[0], edges.shape[0]
    node_of = np.arange(num_leaves).astype(np.int32)
    slot_area = area[:num_leaves].copy()
    head, links = np.full(num_leaves, NO_EDGE, np.int32), np.empty((2 * num_edges, 2), np.int32)
    ends, seen_by = np.empty(2 * num_edges, np.int32), np.full(num_leaves, NO_EDGE, np.int32)
    prices = np.empty(num_edges)
    heap = [(0.0, 0) for _ in range(num_edges)]
    for edge in range(num_edges):
        one, other = edges[edge, 0], edges[edge, 1]
        ends[2 * edge], ends[2 * edge + 1] = other, one
        link(2 * edge, one, head, links)
        link(2 * edge + 1, other, head, links)
        prices[edge] = _price(edge, one, other, borders, slot_area, sums, size_exponent)
        heap[edge] = (prices[edge], edge)
    heapq.heapify(heap)
    count, height = 0, 0.0
    while count < num_leaves - 1:
        price, edge = heapq.heappop(heap)
        if ends[2 * edge] == NO_EDGE or price != prices[edge]:  # merged away, or priced anew since
            continue
        one, other = ends[2 * edge + 1], ends[2 * edge]
        contract(one, other, head, links, ends, borders, seen_by)
        height = max(height, price)
        children[count, 0], children[count, 1] = node_of[one], node_of[other]
        slot_area[one] += slot_area[other]
        sums[one] += sums[other]
        node_of[one] = num_leaves + count
        area[num_leaves + count], born[num_leaves + count] = slot_area[one], height
        count += 1
        half = head[one]
        while half != NO_EDGE:
            changed = half >> 1
            prices[changed] = _price(changed, one, ends[half], borders, slot_area, sums, size_exponent)
            heapq.heappush(heap, (prices[changed], changed))
            half = links[half, 1]


@compiled
def _order_leaves(
    children: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    num_leaves = children.shape[0] + 1
    count = np.ones(2 * num_leaves - 1, np.int32)
    first = np.zeros(2 * num_leaves - 1, np.int32)
    for merge in range(num_leaves - 1):
        count[num_leaves + merge] = count[children[merge, 0]] + count[children[merge, 1]]
    for merge in range(num_leaves - 2, -1, -1):
        first[children[merge, 0]] = first[num_leaves + merge]
        first[children[merge, 1]] = first[num_leaves + merge] + count[children[merge, 0]]
    leaves = np.empty(num_leaves, np.int32)
    for leaf in range(num_leaves):
        leaves[first[leaf]] = leaf
    return leaves, first, count


def lasting_cut(tree: RegionTree, min_area_px: float, max_area_px: float) -> npt.NDArray[np.int64]:
    """Return the disjoint nodes that last longest: where the tree shows objects, between their groups and their parts.

    Of all sets of nodes without one inside another, the one with the largest sum of area x log(merged / born).

    Args:
        tree: The tree.
        min_area_px: Smaller nodes are not taken, so that they may stay uncovered.
        max_area_px: Larger nodes are not taken.

    Returns:
        int64 (K,), rising, K possibly 0.

    Source: The choice of clusters by excess of mass, Campello, Moulavi and Sander 2013 (HDBSCAN), with logarithms.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # leaves are born at 0; in a flat image all are merged at 0
        life = np.nan_to_num(np.log(tree.merged / tree.born), nan=0.0)
    is_allowed = (tree.area_px >= min_area_px) & (tree.area_px <= max_area_px)
    worth = np.where(is_allowed, tree.area_px * np.minimum(life, _LONGEST_LIFE), 0.0)
    chosen = np.zeros(len(worth), np.bool_)
    _cut(tree.children, worth, chosen)
    return np.flatnonzero(chosen & is_allowed)


@compiled
def _cut(children: npt.NDArray[np.int32], worth: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_]) -> None:
    """Mark the nodes of the best cut; a node is taken where it is worth as much as the best cut below it."""
    num_leaves = children.shape[0] + 1
    best = worth.copy()
    for merge in range(num_leaves - 1):
        below = best[children[merge, 0]] + best[children[merge, 1]]
        best[num_leaves + merge] = max(best[num_leaves + merge], below)
    is_open = np.zeros(worth.shape[0], np.bool_)
    is_open[worth.shape[0] - 1] = True
    for node in range(worth.shape[0] - 1, -1, -1):
        if not is_open[node]:
            continue
        if worth[node] > 0.0 and worth[node] >= best[node]:
            chosen[node] = True
        elif node >= num_leaves:
            is_open[children[node - num_leaves, 0]] = is_open[children[node - num_leaves, 1]] = True
