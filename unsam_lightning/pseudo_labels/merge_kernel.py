"""Compiled greedy merging of a patch graph, the inner loop of `conquer.py`.

One heap entry per cluster instead of one scan over all edges per merge. A cluster *owns* its edges to the clusters that
are older than itself and keeps the best of them in the heap. Owned edges only ever disappear (a new edge belongs to the
newer end), so an entry is an upper bound, and it is enough to look again when it reaches the top of the heap.

The adjacency is in `half_edges.py`. Next in the tour: `pseudo_labels/overlap.py`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled, compiled_in_lanes
from unsam_lightning.pseudo_labels.half_edges import NO_EDGE, contract, link


@compiled_in_lanes
def _dot(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> np.float32:
    total = np.float32(0.0)
    for channel in range(first.shape[0]):
        total += first[channel] * second[channel]
    return total


@compiled_in_lanes
def _add_to(target: npt.NDArray[np.float32], addend: npt.NDArray[np.float32]) -> np.float32:
    """Add in place and return the squared norm of the sum."""
    total = np.float32(0.0)
    for channel in range(target.shape[0]):
        value = target[channel] + addend[channel]
        target[channel] = value
        total += value * value
    return total


@compiled
def _cosine(sums: npt.NDArray[np.float32], norms: npt.NDArray[np.float64], one: int, other: int) -> np.float32:
    scale = norms[one] * norms[other]
    if scale == 0.0:  # like the official code, which divides by at least 1e-12: a zero vector resembles nothing
        return np.float32(0.0)
    return np.float32(_dot(sums[one], sums[other]) / scale)


@compiled
def _comes_first(keys: npt.NDArray[np.float32], one: int, other: int) -> bool:
    """Heap order: the larger similarity, then the older owner."""
    return bool(keys[one] > keys[other] or (keys[one] == keys[other] and one < other))


@compiled
def _push(heap: npt.NDArray[np.int32], size: int, keys: npt.NDArray[np.float32], owner: int) -> int:
    place = size
    while place > 0:
        above = (place - 1) >> 1
        if _comes_first(keys, heap[above], owner):
            break
        heap[place] = heap[above]
        place = above
    heap[place] = owner
    return size + 1


@compiled
def _replace_top(heap: npt.NDArray[np.int32], size: int, keys: npt.NDArray[np.float32], owner: int) -> None:
    """Put `owner` in the place of the top and let it sink."""
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and _comes_first(keys, heap[below + 1], heap[below]):
            below += 1
        if _comes_first(keys, owner, heap[below]):
            break
        heap[place] = heap[below]
        place = below
    heap[place] = owner


@compiled
def _best_owned(
    slot: int,
    num_patches: int,
    head: npt.NDArray[np.int32],
    links: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int32],
    similarity: npt.NDArray[np.float32],
    birth: npt.NDArray[np.int32],
) -> tuple[int, np.float32]:
    """Return the birth number of the most similar older neighbour (the oldest among equals) or -1, with the cosine.

    Between two patches, which are equally old, the edge belongs to the one that comes first in row-major order.
    """
    own, best, best_similarity = birth[slot], NO_EDGE, np.float32(-2.0)
    half = head[slot]
    while half != NO_EDGE:
        other = birth[ends[half]]
        is_owner = own < other if max(own, other) < num_patches else own > other
        value = similarity[half >> 1]
        if is_owner and (value > best_similarity or (value == best_similarity and other < best)):
            best, best_similarity = other, value
        half = links[half, 1]
    return best, best_similarity


@compiled
def _write_labels(
    parent: npt.NDArray[np.int32], label_of: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]
) -> None:
    """Number the clusters by their first patch and write every patch's number."""
    label_of[:] = -1
    count = 0
    for patch in range(parent.shape[0]):
        root = patch
        while parent[root] != root:
            parent[root] = parent[parent[root]]
            root = parent[root]
        if label_of[root] < 0:
            label_of[root] = count
            count += 1
        labels[patch] = label_of[root]


@compiled
def merge_graph(
    features: npt.NDArray[np.float32],
    edges: npt.NDArray[np.int32],
    thresholds: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int32],
) -> bool:
    """Merge the most similar neighbours first and write one row of labels per threshold.

    Args:
        features: float32 (P, D), contiguous; left as they are.
        edges: int32 (E, 2), pairs of patches, the smaller number first, without repetition.
        thresholds: float64 (T,), falling: a row is written when the best cosine falls below its threshold.
        labels: int32 (T, P), written: cluster of every patch, numbered by first patch.

    Returns:
        False, with `labels` unfinished, where a feature is not finite or too large for its norm in float32.
    """
    num_patches, num_edges = features.shape[0], edges.shape[0]
    sums = np.empty_like(features)
    norms = np.zeros(num_patches)
    for patch in range(num_patches):
        sums[patch] = features[patch]
        norms[patch] = math.sqrt(np.float64(_dot(features[patch], features[patch])))
        if not math.isfinite(norms[patch]):
            return False
    head = np.full(num_patches, NO_EDGE, np.int32)
    links = np.empty((2 * num_edges, 2), np.int32)
    ends = np.empty(2 * num_edges, np.int32)
    similarity = np.empty(num_edges, np.float32)
    for edge in range(num_edges):
        one, other = edges[edge, 0], edges[edge, 1]
        ends[2 * edge], ends[2 * edge + 1] = other, one
        link(2 * edge, one, head, links)
        link(2 * edge + 1, other, head, links)
        similarity[edge] = _cosine(sums, norms, one, other)
    return _merge_all(sums, norms, thresholds, labels, head, links, ends, similarity)


@compiled
def _merge_all(
    sums: npt.NDArray[np.float32],
    norms: npt.NDArray[np.float64],
    thresholds: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int32],
    head: npt.NDArray[np.int32],
    links: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int32],
    similarity: npt.NDArray[np.float32],
) -> bool:
    num_patches = sums.shape[0]
    parent = np.arange(num_patches).astype(np.int32)
    birth = parent.copy()  # of the cluster in a slot; patches are born as 0 .. P-1, a merged cluster after all others
    slot_of = np.full(2 * num_patches, -1, np.int32)  # by birth number; -1: merged away
    slot_of[:num_patches] = parent
    partner = np.empty(2 * num_patches, np.int32)  # birth number at the other end of the best owned edge
    keys = np.empty(2 * num_patches, np.float32)
    heap, size, born = np.empty(2 * num_patches, np.int32), 0, num_patches
    scratch = np.full(num_patches, -1, np.int32)
    no_sums = np.empty((similarity.shape[0], 0))
    for patch in range(num_patches):
        partner[patch], keys[patch] = _best_owned(patch, num_patches, head, links, ends, similarity, birth)
        if partner[patch] >= 0:
            size = _push(heap, size, keys, patch)
    for level in range(thresholds.shape[0]):
        while size > 0 and keys[heap[0]] >= thresholds[level]:
            owner = heap[0]
            one = slot_of[owner]
            other = slot_of[partner[owner]]
            if one >= 0 and other < 0:  # its best edge has gone: look for the next best
                partner[owner], keys[owner] = _best_owned(one, num_patches, head, links, ends, similarity, birth)
            if one < 0 or partner[owner] < 0:
                size -= 1
                if size > 0:
                    _replace_top(heap, size, keys, heap[size])
                continue
            if other < 0:
                _replace_top(heap, size, keys, owner)
                continue
            slot_of[owner] = slot_of[partner[owner]] = -1
            contract(one, other, head, links, ends, no_sums, scratch)
            parent[other] = one
            norms[one] = math.sqrt(np.float64(_add_to(sums[one], sums[other])))
            birth[one], slot_of[born] = born, one
            half = head[one]
            while half != NO_EDGE:
                similarity[half >> 1] = _cosine(sums, norms, one, ends[half])
                half = links[half, 1]
            partner[born], keys[born] = _best_owned(one, num_patches, head, links, ends, similarity, birth)
            if partner[born] >= 0:
                size = _push(heap, size, keys, born)
            born += 1
        scratch_labels = np.empty(num_patches, np.int32)
        _write_labels(parent, scratch_labels, labels[level])
    return True
