"""Stage 1, conquer: merge neighbouring patches with similar features, and keep the regions at falling thresholds.

The inner loop is compiled (`merge_kernel.py`). Next in the tour: `pseudo_labels/hierarchy.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from unsam_lightning.errors import UserError
from unsam_lightning.pseudo_labels.merge_kernel import merge_graph

if TYPE_CHECKING:
    import torch

#: Cosine thresholds of the published run. Source: UnSAMv2 (arXiv 2511.13714), section A2.
PAPER_THRESHOLDS: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5)


def iterative_merge(
    features: npt.NDArray[np.float32] | torch.Tensor, thresholds: Sequence[float] = PAPER_THRESHOLDS, min_size: int = 4
) -> list[npt.NDArray[np.bool_]]:
    """Return the regions of a patch grid at each threshold.

    Args:
        features: Patch features, float (H, W, D), numpy or a CPU tensor, finite.
        thresholds: Cosine similarities in falling order. Merging goes on from one to the next.
        min_size: Regions of fewer patches are left out of the result; they still take part in the merging.

    Returns:
        One bool array (K, H, W) per threshold, K possibly 0, largest region first, then by first patch. A level on
        which everything has become one region has K = 0: a part must be less than the whole.

    Raises:
        UserError: If the features are not a finite (H, W, D) array or the thresholds rise.

    Source: UnSAM (arXiv 2406.20081) section 3.2 and UnSAMv2 (arXiv 2511.13714) section 3.3, the official
        `iterative_merge`: greedy merging along a 4-connected graph, a region's feature being the mean of its patches.
        Equal similarities merge in the order in which their edges arose.
    Differs: The official function leaves out a level that has no region, so its levels lose their thresholds; here
        there is one entry per threshold.
    """
    if min_size < 1:
        raise UserError(expected="min_size of at least 1 patch", found=str(min_size), remedy="set min_size to 4")
    labels = merge_levels(features, thresholds)
    return [_regions(level, min_size) for level in labels]


def merge_levels(
    features: npt.NDArray[np.float32] | torch.Tensor,
    thresholds: Sequence[float] = PAPER_THRESHOLDS,
    *,
    inside: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int32]:
    """Return one label map per threshold: which region every patch belongs to.

    Args:
        features: Patch features, float (H, W, D), numpy or a CPU tensor, finite.
        thresholds: Cosine similarities in falling order, (T,).
        inside: bool (H, W): only these patches take part. All of them where None.

    Returns:
        int32 (T, H, W), regions numbered from 0 by their first patch in row-major order; -1 outside `inside`. Regions
        of a later level are unions of regions of an earlier one.

    Raises:
        UserError: If the features are not a finite (H, W, D) array or the thresholds rise.
    """
    grid = _as_grid(features)
    height, width, channels = grid.shape
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.ndim != 1 or not np.all(limits[1:] <= limits[:-1]):
        raise UserError(
            expected="thresholds in falling order",
            found=str(list(thresholds)),
            remedy="list them from the most similar to the least, such as 0.9 0.8 0.7",
        )
    member = np.ones((height, width), bool) if inside is None else np.asarray(inside, dtype=bool)
    if member.shape != (height, width):
        raise UserError(
            expected=f"a mask of the grid's shape {(height, width)}",
            found=str(member.shape),
            remedy="resize the mask to the patch grid first",
        )
    chosen = grid.reshape(-1, channels)
    if inside is not None:
        chosen = np.ascontiguousarray(chosen[member.ravel()])
    labels = np.empty((len(limits), len(chosen)), np.int32)
    if not merge_graph(chosen, grid_edges(member), limits, labels):
        raise UserError(
            expected="finite patch features",
            found="NaN, infinity or a value whose square overflows float32",
            remedy="check the image and the precision of the encoder",
        )
    maps = np.full((len(limits), height, width), -1, np.int32)
    maps[:, member] = labels
    return maps


def _as_grid(features: npt.NDArray[np.float32] | torch.Tensor) -> npt.NDArray[np.float32]:
    """Return the features as a contiguous float32 array (H, W, D), without a copy where they are one."""
    grid = np.ascontiguousarray(features, dtype=np.float32)
    if grid.ndim != 3 or grid.shape[2] == 0:
        raise UserError(
            expected="features of shape (height, width, channels)",
            found=str(grid.shape),
            remedy="pass the patch grid of one image, channels last",
        )
    return grid


def grid_edges(member: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Return the pairs of 4-connected member patches, int32 (E, 2), as numbers among the members."""
    number = np.full(member.shape, -1, np.int32)
    number[member] = np.arange(member.sum(), dtype=np.int32)
    right = np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], axis=1)
    down = np.stack([number[:-1].ravel(), number[1:].ravel()], axis=1)
    pairs = np.concatenate([right, down])
    return np.ascontiguousarray(pairs[(pairs >= 0).all(axis=1)])


def _regions(labels: npt.NDArray[np.int32], min_size: int) -> npt.NDArray[np.bool_]:
    """Return the masks (K, H, W) of the labels with at least `min_size` patches, unless there is only one label."""
    sizes = np.bincount(labels.ravel())
    if len(sizes) < 2:
        return np.zeros((0, *labels.shape), bool)
    kept = np.flatnonzero(sizes >= min_size)
    kept = kept[np.argsort(-sizes[kept], kind="stable")]  # labels rise with the first patch
    return np.asarray(labels[None] == kept[:, None, None])
