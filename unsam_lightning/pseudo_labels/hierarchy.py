"""Stage 1, hierarchy: masks become trees of instances and their parts, with a granularity for every mask.

Three rules hold in every `Forest`: a mask is one connected component; a child is a subset of its parent and smaller;
granularity is measured within one instance's tree, whose root has 1.0 (equation 3 of the paper).
Next in the tour: `pseudo_labels/runs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unsam_lightning.errors import UserError
from unsam_lightning.granularity import granularity_scores
from unsam_lightning.pseudo_labels.overlap import connected_components, containments, intersections, ious

Masks = npt.NDArray[np.bool_]
ROOT = -1


@dataclass(frozen=True)
class Forest:
    """The masks of one image, tree after tree, the root of a tree first and then by falling area.

    Attributes:
        masks: bool (N, H, W), each one a single 4-connected component, none empty.
        granularity: float64 (N,) in [0.1, 1], within the mask's tree; 1.0 for every root.
        instance: int32 (N,), the tree that a mask belongs to, from 0, rising.
        parent: int32 (N,), index of the smallest mask of the tree that contains this one, always an earlier index;
            -1 for the instance itself. A mask is a subset of its parent and has fewer pixels.
        stage: (N,) strings, "divide" or "conquer": which of the two found the mask.
    """

    masks: Masks
    granularity: npt.NDArray[np.float64]
    instance: npt.NDArray[np.int32]
    parent: npt.NDArray[np.int32]
    stage: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.masks)


def split_components(masks: Masks, min_area_px: int = 1) -> tuple[Masks, npt.NDArray[np.int64]]:
    """Return every connected component as a mask of its own.

    Args:
        masks: bool (N, H, W).
        min_area_px: Components of fewer pixels are dropped.

    Returns:
        bool (K, H, W) in the order of `masks`, within a mask the largest first, and int64 (K,): the index of the mask
        that each one comes from.
    """
    check_masks(masks)
    pieces = [connected_components(mask, min_area_px) for mask in masks]
    source = np.repeat(np.arange(len(masks)), [len(piece) for piece in pieces])
    return np.concatenate([np.zeros((0, *masks.shape[1:]), bool), *pieces]), source


def suppress(masks: Masks, iou: float = 0.8, num_protected: int = 0) -> npt.NDArray[np.int64]:
    """Return the indices of the masks that stay when near-duplicates go.

    From the largest area to the smallest (the earlier first among equals), a mask stays unless its IoU with one that
    has stayed is above `iou`. The first `num_protected` masks stay in any case and are considered first.

    Args:
        masks: bool (N, H, W), not empty ones.
        iou: IoU above which two masks are the same, in [0, 1].
        num_protected: How many of the first masks cannot be suppressed.

    Returns:
        int64 (K,): protected ones first, then by falling area.

    Source: UnSAM's `NMS` and `protected_NMS`.
    Differs: Those compare a mask with the next four by area only; every pair is compared here.
    """
    check_masks(masks)
    shared = intersections(masks)
    overlap = ious(shared)
    rank = -np.diagonal(shared)
    rank = np.where(np.arange(len(masks)) < num_protected, rank.min(initial=0) - 1, rank)
    kept: list[int] = []
    for index in np.argsort(rank, kind="stable"):
        if index < num_protected or not np.any(overlap[index, kept] > iou):
            kept.append(int(index))
    return np.asarray(kept, dtype=np.int64)


def instances_of(masks: Masks, containment: float = 0.8) -> npt.NDArray[np.int32]:
    """Return for every mask the instance that it is or is a part of.

    A mask is an instance unless more than `containment` of it lies in a larger mask (the earlier one of equals). All
    other masks belong to the instance that contains most of them, to the smaller one of equals.

    Args:
        masks: bool (N, H, W), none empty.
        containment: Share of a mask's area, in (0, 1).

    Returns:
        int32 (N,): the index of the mask's instance, its own index for an instance; -1 for a mask inside a larger one
        that no instance contains, which happens where containment runs through a chain.

    Source: UnSAMv2 (arXiv 2511.13714) section 3.3, equation 2, whose area tie-break the official code lacks.
    Differs: A part belongs to one instance, not to all that contain it; no instance is dropped for being small.
    """
    check_masks(masks)
    shared = intersections(masks)
    areas = np.diagonal(shared)
    order = np.lexsort((np.arange(len(masks)), -areas))
    rank = np.empty(len(masks), np.int64)
    rank[order] = np.arange(len(masks))
    inside = containments(shared)
    dominated: npt.NDArray[np.bool_] = np.any((inside > containment) & (rank[None] < rank[:, None]), axis=1)
    instances = order[~dominated[order]]
    owner = np.where(dominated, -1, np.arange(len(masks))).astype(np.int32)
    for part in np.flatnonzero(dominated):
        share = inside[part, instances]
        best = int(instances[np.lexsort((areas[instances], -share))[0]])
        if inside[part, best] > containment:
            owner[part] = best
    return owner


def build_forest(
    instances: Masks,
    parts_per_instance: Sequence[Masks],
    stages_per_instance: Sequence[Sequence[str]],
    *,
    iou: float = 0.8,
    containment: float = 0.9,
    min_area_px: int = 1,
) -> Forest:
    """Return the trees of instances and their parts.

    Within each tree: near-duplicates go (`suppress`, the instance protected); then, from the largest to the smallest,
    a mask's parent is the smallest larger one of which it has at least `containment` inside, and it is cut to that
    parent and to its largest component. What is then smaller than `min_area_px`, not smaller than its parent or again
    its near-duplicate is dropped, as is a mask of which less than `containment` lies in the instance. Siblings may
    overlap; before the cut, none lay inside a larger one by `containment` or more.

    Args:
        instances: bool (I, H, W), each one component.
        parts_per_instance: For each instance bool (K, H, W), K possibly 0.
        stages_per_instance: For each instance the K names of the stage that found a part, "divide" or "conquer".
        iou: IoU above which two masks of a tree are the same.
        containment: Share of a mask's area that makes it a child.
        min_area_px: Smallest area of a part.
    """
    check_masks(instances)
    masks, granularity, parent, tree = [], [], [], []
    stage: list[str] = []
    offset = 0
    for number, (root, parts, names) in enumerate(zip(instances, parts_per_instance, stages_per_instance, strict=True)):
        members, areas, parents, sources = _build_tree(root, parts, iou, containment, min_area_px)
        masks.append(members)
        granularity.append(granularity_scores(areas))
        parent.append(np.where(parents == ROOT, ROOT, parents + offset))
        stage.extend("divide" if source == ROOT else names[source] for source in sources)
        tree.append(np.full(len(members), number))
        offset += len(members)
    return Forest(
        masks=np.concatenate([np.zeros((0, *instances.shape[1:]), bool), *masks]),
        granularity=np.concatenate([np.zeros(0), *granularity]),
        instance=np.concatenate([np.zeros(0), *tree]).astype(np.int32),
        parent=np.concatenate([np.zeros(0), *parent]).astype(np.int32),
        stage=np.asarray(stage, dtype=np.str_),
    )


def _build_tree(
    root: npt.NDArray[np.bool_], parts: Masks, iou: float, containment: float, min_area_px: int
) -> tuple[Masks, npt.NDArray[np.int64], npt.NDArray[np.int64], list[int]]:
    """Return the masks of one tree, their areas, their parents' indices, and which part each one was (-1: the root)."""
    candidates = np.concatenate([root[None], parts])
    stay = suppress(candidates, iou, num_protected=1)
    candidates = candidates[stay]
    shared = intersections(candidates)
    inside, areas = containments(shared), np.diagonal(shared).copy()
    is_cut = np.zeros(len(candidates), bool)
    kept, parents, place = [0], [ROOT], {0: 0}
    for index in range(1, len(candidates)):
        if inside[index, 0] < containment:
            continue
        possible = np.asarray(kept)[inside[index, kept] >= containment]
        # The smallest one, the later among equals; where a mask was cut, its overlap is no longer the one counted.
        for holder in possible[np.lexsort((-possible, areas[possible]))]:
            if not is_cut[holder] or _share(candidates[index], candidates[holder]) >= containment:
                break
        else:
            continue
        if shared[index, holder] < areas[index] or is_cut[holder]:
            pieces = connected_components(candidates[index] & candidates[holder], min_area_px)
            if len(pieces) == 0:
                continue
            candidates[index], areas[index], is_cut[index] = pieces[0], np.count_nonzero(pieces[0]), True
        # The mask lies in its holder, so their IoU is the ratio of the areas.
        if min_area_px <= areas[index] < areas[holder] and areas[index] <= iou * areas[holder]:
            place[index] = len(kept)
            kept.append(index)
            parents.append(place[holder])
    sources = [int(stay[index]) - 1 for index in kept]
    return candidates[kept], areas[kept], np.asarray(parents, dtype=np.int64), sources


def _share(mask: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(mask & other) / np.count_nonzero(mask))


def check_masks(masks: Masks) -> None:
    """Raise `UserError` unless the masks are a bool array (N, H, W)."""
    if masks.dtype != np.bool_ or masks.ndim != 3:
        raise UserError(
            expected="masks as a bool array (number, height, width)",
            found=f"{masks.dtype} {masks.shape}",
            remedy="threshold the masks and stack them first",
        )
