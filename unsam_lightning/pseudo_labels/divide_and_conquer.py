"""Stage 1 for one image, from features to a forest of masks: divide, conquer, lift to pixels, arrange.

Source: UnSAM (arXiv 2406.20081) section 3.2 and UnSAMv2 (arXiv 2511.13714) section 3.3.
Differs: The features are the whole image's, where the official pipeline encodes each instance's crop anew at 768 px for
    its parts, and they are centred; nine thresholds down to 0.1, where the paper has five down to 0.5; masks are drawn
    along the image's edges, where CascadePSP refines the official ones.

Pure and deterministic. Next in the tour: `pseudo_labels/watershed.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from unsam_lightning.pseudo_labels.conquer import merge_levels
from unsam_lightning.pseudo_labels.divide import bisect, check_features, mask_cut
from unsam_lightning.pseudo_labels.hierarchy import (
    Masks,
    build_forest,
    instances_of,
    split_components,
    suppress,
)
from unsam_lightning.pseudo_labels.overlap import connected_components
from unsam_lightning.pseudo_labels.upsample import LiftedForest, lift_forest, patch_of_pixels, reduce_image


@dataclass(frozen=True)
class DivideConquerConfig:
    """The settings of `discover_masks`, all of them plain values.

    Attributes:
        center_features: Subtract the image's mean feature before every cosine. Encoders whose features share a large
            common part (SAM-2's do, DINO's hardly) need it for cosines to spread.
        num_salient: The most objects that `mask_cut` takes out.
        tau: Cosine above which patches are joined when dividing.
        max_cut: Normalised cut value up to which regions are cut further.
        min_patches: Smallest candidate of the division, in patches of its grid.
        max_instance_fraction: Candidates that cover more of the image are no instances; what is inside them may be.
        thresholds: Falling cosines at which the merged regions are kept. The first one also gives the small regions
            to which the borders of the instances are moved. Differs: the paper stops at 0.5; centred features are
            less alike, and levels down to 0.1 raised the mean best IoU on BSDS500 training images by 0.02.
        min_part_patches: Smallest part, in patches of the finer grid.
        min_area_px: Smallest mask, in pixels of the reduced image.
        max_side: Larger images are reduced to this longer side; masks are lifted back along the image's own edges.
        instance_containment: Share of a mask inside a larger one that makes it a part. Source: tau_overlap, 0.8.
        child_containment: Share of a part inside another that makes it a child.
        suppress_iou: IoU above which two masks are the same. Source: NMS-iou of the published run, 0.8.
        color_sigma: How far colours may differ, in grey levels, for a pixel to join a neighbouring patch.
    """

    center_features: bool = True
    num_salient: int = 4
    tau: float = 0.15
    max_cut: float = 0.9
    min_patches: int = 3
    max_instance_fraction: float = 0.8
    thresholds: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    min_part_patches: int = 4
    min_area_px: int = 100
    max_side: int = 1024
    instance_containment: float = 0.8
    child_containment: float = 0.9
    suppress_iou: float = 0.8
    color_sigma: float = 10.0


def discover_masks(
    divide_features: torch.Tensor,
    conquer_features: torch.Tensor | npt.NDArray[np.float32],
    image: npt.NDArray[np.uint8],
    config: DivideConquerConfig,
    given: Masks | None = None,
    divide: bool = True,
) -> LiftedForest:
    """Return the masks of one image as instance trees, at the image's resolution.

    Args:
        divide_features: float (h, w, D), coarse and semantic, on any device; the cuts run there.
        conquer_features: float32 (h2, w2, D2), finer, on the CPU.
        image: uint8 RGB (H, W, 3), which both grids cover; the finer grid is averaged where it has more patches than
            the image pixels.
        config: The settings.
        given: bool (N, *reduced_shape(H, W, max_side)), masks that join the division; each connected piece counts by
            itself.
        divide: Also divide ourselves; otherwise the given masks are the whole division.

    Raises:
        UserError: If the features or the image have the wrong shape, type or non-finite values.
    """
    check_features(divide_features)
    fine = torch.as_tensor(conquer_features)
    check_features(fine)
    if config.center_features:
        divide_features = divide_features - divide_features.mean(dim=(0, 1))
        fine = fine - fine.mean(dim=(0, 1))
    small = reduce_image(image, config.max_side)
    fine_grid = _at_most(fine, small.shape[0], small.shape[1])
    patches = patch_of_pixels(small, (fine_grid.shape[0], fine_grid.shape[1]), config.color_sigma)
    candidates = _divide(divide_features, fine_grid, config) if divide else np.zeros((0, *fine_grid.shape[:2]), bool)
    drawn = _lift(candidates, patches)
    containment = config.instance_containment
    if given is not None:
        candidates, drawn = _join(given, candidates, drawn, config)
        # A part that `build_forest` would not keep stays an instance: no given mask is lost between the thresholds.
        containment = max(containment, config.child_containment)
    owner = instances_of(candidates, containment)
    instances, parts, stages = [], [], []
    for root in np.flatnonzero(owner == np.arange(len(owner))):
        lifted = connected_components(drawn[root], config.min_area_px)
        if len(lifted) == 0:
            continue
        divided = drawn[(owner == root) & (np.arange(len(owner)) != root)]
        merged = _conquer(fine_grid, candidates[root], config)
        pieces, source = split_components(np.concatenate([divided, _lift(merged, patches)]), config.min_area_px)
        instances.append(lifted[0])
        parts.append(pieces)
        stages.append(["divide" if number < len(divided) else "conquer" for number in source])
    forest = build_forest(
        np.stack(instances) if instances else np.zeros((0, *small.shape[:2]), bool),
        parts,
        stages,
        iou=config.suppress_iou,
        containment=config.child_containment,
        min_area_px=config.min_area_px,
    )
    return lift_forest(forest, image, config.color_sigma)


def _at_most(features: torch.Tensor, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return features (h, w, D) averaged where there are more rows or columns than asked for."""
    size = (min(height, features.shape[0]), min(width, features.shape[1]))
    if size != features.shape[:2]:
        features = torch.nn.functional.adaptive_avg_pool2d(features.permute(2, 0, 1), size).permute(1, 2, 0)
    return np.ascontiguousarray(features.float().numpy())


def _divide(features: torch.Tensor, fine_grid: npt.NDArray[np.float32], config: DivideConquerConfig) -> Masks:
    """Return distinct connected candidates on the finer grid, by falling area, none larger than an instance may be."""
    salient = mask_cut(features, num_masks=config.num_salient, tau=config.tau, min_patches=config.min_patches)
    halves = bisect(features, max_cut=config.max_cut, tau=config.tau, min_patches=config.min_patches)
    coarse = np.concatenate([salient.cpu().numpy(), halves])
    snapped = _snap(coarse, merge_levels(fine_grid, config.thresholds[:1])[0])
    snapped = snapped[snapped.mean(axis=(1, 2)) <= config.max_instance_fraction]
    pieces, _ = split_components(snapped, config.min_part_patches)
    return pieces[suppress(pieces, config.suppress_iou)]


def _on_grid(masks: Masks, shape: tuple[int, ...]) -> Masks:
    """Return masks on a grid: the patches of which each covers more than half, at least the one it covers most."""
    found = np.zeros((len(masks), *shape), bool)
    for number, mask in enumerate(masks):
        share = cv2.resize(mask.astype(np.float32), shape[1::-1], interpolation=cv2.INTER_AREA)
        found[number] = share > min(0.5, share.max() - 1e-6)
    return found


def _join(given: Masks, candidates: Masks, drawn: Masks, config: DivideConquerConfig) -> tuple[Masks, Masks]:
    """Return given masks and distinct candidates, on the grid and drawn; given ones are protected."""
    pieces, _ = split_components(given, config.min_area_px)
    candidates = np.concatenate([_on_grid(pieces, candidates.shape[1:]), candidates])
    stay = suppress(candidates, config.suppress_iou, num_protected=len(pieces))
    return candidates[stay], np.concatenate([pieces, drawn])[stay]


def _snap(masks: Masks, regions: npt.NDArray[np.int32]) -> Masks:
    """Return masks (N, h2, w2) made of the whole regions that each mask (N, h, w) mostly covers.

    A mask inside another stays inside it, because its share of every region is the smaller one.
    """
    height, width = regions.shape
    sizes = np.bincount(regions.ravel())
    snapped = np.empty((len(masks), height, width), bool)
    for number, mask in enumerate(masks):
        share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        covered = np.bincount(regions.ravel(), weights=share.ravel()) / sizes
        snapped[number] = (covered > 0.5)[regions]
    return snapped


def _conquer(features: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_], config: DivideConquerConfig) -> Masks:
    """Return the regions inside one instance at all thresholds, every one once, the coarsest level first."""
    found: dict[tuple[int, int], npt.NDArray[np.bool_]] = {}
    for labels in merge_levels(features, config.thresholds, inside=inside)[::-1]:
        flat = labels.ravel()
        sizes = np.bincount(flat[flat >= 0])
        first = np.full(len(sizes), -1)
        first[flat[::-1]] = np.arange(flat.size)[::-1]
        for label in np.flatnonzero((sizes >= config.min_part_patches) & (sizes < inside.sum())):
            # Levels are nested: regions with the same first patch and the same size are the same region.
            found.setdefault((int(first[label]), int(sizes[label])), labels == label)
    return np.stack(list(found.values())) if found else np.zeros((0, *inside.shape), bool)


def _lift(masks: Masks, patches: npt.NDArray[np.int32]) -> Masks:
    """Return masks of the patch grid at the image's resolution."""
    return np.take(masks.reshape(len(masks), masks.shape[1] * masks.shape[2]), patches, axis=1)
