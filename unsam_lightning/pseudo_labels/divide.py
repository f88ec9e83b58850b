"""Stage 1, divide: instance candidates from normalised cuts of the graph of patch features.

Two ways to cut: `mask_cut` takes out one salient object after the other, `bisect` halves the image again and again
while the halves differ, which also finds small objects and gives candidates of several sizes. Nothing here is trained.
Next in the tour: `pseudo_labels/conquer.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from unsam_lightning.errors import UserError
from unsam_lightning.pseudo_labels.overlap import connected_components

#: Similarity of patches that do not resemble each other: keeps the graph connected. Source: TokenCut, CutLER.
WEAK = 1e-5
#: Graphs up to this many patches are solved exactly; above, the Lanczos iteration is faster.
_EXACT_UP_TO = 48
_LANCZOS_STEPS = 32
#: A graph of equal weights has the eigenvalue 1: nothing in it is worth a cut.
_UNIFORM = 0.99


@torch.no_grad()
def affinity(features: torch.Tensor, tau: float, soft: bool = False) -> torch.Tensor:
    """Return the weights of the patch graph.

    Args:
        features: float (N, D), any device.
        tau: Cosine above which two patches are joined.
        soft: The weight is the cosine's share above tau, (cos - tau) / (1 - tau), instead of 1.

    Returns:
        float32 (N, N), symmetric, `WEAK` between patches that are not joined.

    Source: TokenCut (arXiv 2202.11539) section 3.2 and CutLER (arXiv 2301.11320) section 3.1, which use the hard form.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    cosine = unit @ unit.T
    weight = (cosine - tau) / (1.0 - tau) if soft else (cosine > tau).float()
    return weight.clamp_(min=WEAK)


@torch.no_grad()
def second_eigenvector(weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the second smallest generalised eigenvector of (D - W) x = l D x, the relaxed normalised cut, with its l.

    Args:
        weights: float32 (N, N), symmetric, positive, N >= 2, any device.

    Returns:
        The vector, float32 (N,), D-orthogonal to the constant one; its entry of the largest magnitude (the first of
        equals, up to rounding) is positive. And l, which no two-way cut of the graph can undercut.

    Source: Shi and Malik, Normalized Cuts and Image Segmentation, TPAMI 2000, section 2.1.
    """
    root = weights.sum(dim=1).rsqrt()
    normalised = root[:, None] * weights * root[None]
    trivial = torch.nn.functional.normalize(1.0 / root, dim=0)
    if len(weights) <= _EXACT_UP_TO:
        # Taking the known top vector out makes the wanted one the largest: no doubt about order within a multiplicity.
        values, vectors = torch.linalg.eigh(normalised - 2.0 * torch.outer(trivial, trivial))
        vector = vectors[:, -1]
    else:
        values, vector = _lanczos(normalised, trivial)
    vector = vector * root
    magnitude = vector.abs()
    # argmax of near-equal magnitudes would hang on rounding: take the first that is as large up to 1e-4.
    first = torch.nonzero(magnitude >= magnitude.max() * (1 - 1e-4))[0, 0]
    return vector * torch.sign(vector[first]), 1.0 - float(values[-1])


def _lanczos(matrix: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Ritz values and the vector of the largest one orthogonal to `known`, by fully orthogonalised Lanczos."""
    size = len(matrix)
    # A fixed start without any symmetry of the grid, so that no eigenvector is orthogonal to it.
    start = torch.frac(torch.arange(1, size + 1, device=matrix.device, dtype=torch.float64) * 0.6180339887498949)
    vector = (start - 0.5).to(matrix.dtype)
    basis = torch.zeros(_LANCZOS_STEPS + 1, size, device=matrix.device, dtype=matrix.dtype)
    basis[0] = known
    images = torch.zeros_like(basis)
    count = 1
    while count <= _LANCZOS_STEPS:
        for _ in range(2):  # twice is enough (Kahan and Parlett)
            vector = vector - basis[:count].T @ (basis[:count] @ vector)
        length = vector.norm()
        if length < 1e-6:  # the basis spans everything that the start reaches
            break
        basis[count] = vector / length
        vector = images[count] = matrix @ basis[count]
        count += 1
    small = basis[1:count] @ images[1:count].T
    values, inner = torch.linalg.eigh((small + small.T) / 2)
    return values, basis[1:count].T @ inner[:, -1]


def mask_cut(features: torch.Tensor, *, num_masks: int = 10, tau: float = 0.15, min_patches: int = 4) -> torch.Tensor:
    """Return salient objects, one normalised cut after the other.

    Args:
        features: float (H, W, D), any device; no gradient is kept. For a batch, call once per image: the graphs shrink
            differently.
        num_masks: The most objects to take out.
        tau: Cosine above which two patches are joined; 0.15 suits DINO, centred features want about the same.
        min_patches: An object of fewer patches ends the search, as does a rest of fewer than twice as many or without
            structure (all patches alike).

    Returns:
        bool (K, H, W) on the device of `features`, disjoint, each one 4-connected, in the order of discovery.

    Raises:
        UserError: If the features are not a finite (H, W, D) tensor.

    Source: CutLER (arXiv 2301.11320) section 3.1 (MaskCut) with the foreground rules of TokenCut: the side with the
        largest absolute entry, swapped where that side covers at least three corners of the image.
    Differs: Patches already found leave the graph instead of staying in it with zeroed features, so they cannot pull
        on later cuts and the graphs become smaller; there is no conditional random field afterwards; three is not the
        limit of objects.
    """
    check_features(features)
    height, width, _ = features.shape
    flat = features.detach().reshape(height * width, -1)
    weights = affinity(flat, tau)
    free = torch.ones(height * width, dtype=torch.bool, device=features.device)
    found: list[torch.Tensor] = []
    while len(found) < num_masks:
        index = torch.nonzero(free)[:, 0]
        if len(index) < max(2 * min_patches, 2):
            break
        vector, least_cut = second_eigenvector(weights[index][:, index])
        if least_cut > _UNIFORM:
            break
        mask = _foreground(index, vector, height, width)
        if int(mask.sum()) < min_patches:
            break
        found.append(mask)
        free &= ~mask.reshape(-1)
    return torch.stack(found) if found else torch.zeros(0, height, width, dtype=torch.bool, device=features.device)


def _foreground(index: torch.Tensor, vector: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the component (H, W) that holds the seed of the foreground side of a cut."""
    values = torch.full((height * width,), 0.0, device=vector.device)
    values[index] = vector - vector.mean()
    values = values.reshape(height, width)
    side = values > 0
    if int(side[[0, 0, -1, -1], [0, -1, 0, -1]].sum()) >= 3:
        values = -values
        side = values > 0
    seed = divmod(int(values.argmax()), width)
    pieces = connected_components(side.cpu().numpy())
    holding = next(piece for piece in pieces if piece[seed])
    return torch.from_numpy(holding).to(vector.device)


def bisect(
    features: torch.Tensor, *, max_cut: float = 0.6, tau: float = 0.15, min_patches: int = 4, max_depth: int = 8
) -> npt.NDArray[np.bool_]:
    """Return candidates of several sizes: the connected pieces of every side of a recursive two-way cut.

    Args:
        features: float (H, W, D), any device; no gradient is kept.
        max_cut: Normalised cut value (0 to 2) up to which a region is cut further: higher finds more and smaller ones.
        tau: Cosine at which the soft affinity begins.
        min_patches: Regions of fewer than twice as many are not cut, and pieces of fewer are not returned.
        max_depth: The most cuts above a region.

    Returns:
        bool (K, H, W), coarse before fine, nested or disjoint, each 4-connected, none the whole grid.

    Raises:
        UserError: If the features are not a finite (H, W, D) tensor.

    Source: Shi and Malik, Normalized Cuts and Image Segmentation, TPAMI 2000, section 3 (recursive two-way cut).
    """
    check_features(features)
    height, width, _ = features.shape
    weights = affinity(features.detach().reshape(height * width, -1), tau, soft=True)
    pieces: list[npt.NDArray[np.bool_]] = []
    layer = [np.ones((height, width), bool)]
    for _ in range(max_depth):
        following: list[npt.NDArray[np.bool_]] = []
        for region in layer:
            for side in _best_cut(weights, region, max_cut, min_patches):
                following.extend(connected_components(side, min_patches))
        pieces.extend(following)
        layer = following
    return np.stack(pieces) if pieces else np.zeros((0, height, width), bool)


def _best_cut(
    weights: torch.Tensor, region: npt.NDArray[np.bool_], max_cut: float, min_patches: int
) -> list[npt.NDArray[np.bool_]]:
    """Return the two sides of the best cut of a region, or nothing where it costs more than `max_cut`."""
    members = np.flatnonzero(region)
    if len(members) < 2 * min_patches:
        return []
    index = torch.from_numpy(members).to(weights.device)
    inner = weights[index][:, index]
    vector, least_cut = second_eigenvector(inner)
    if least_cut > min(max_cut, _UNIFORM):
        return []
    order = torch.argsort(vector, stable=True)
    ordered = inner[order][:, order]
    degree = ordered.sum(dim=1)
    # Weight within the first k patches of the order, for every k: each new patch adds twice its weight to the earlier
    # ones and its own; what the first k have beyond that is cut.
    within = torch.cumsum(2 * ordered.tril(-1).sum(dim=1) + ordered.diagonal(), dim=0)
    volume = torch.cumsum(degree, dim=0)
    cut = (volume - within).clamp(min=0)
    value = cut / volume + cut / (volume[-1] - volume).clamp(min=WEAK)
    candidates = value[min_patches - 1 : len(members) - min_patches]
    place = int(candidates.argmin())
    if float(candidates[place]) > max_cut:
        return []
    first = np.zeros(region.size, bool)
    first[members[order[: place + min_patches].cpu().numpy()]] = True
    side = first.reshape(region.shape)
    return [side, region & ~side]


def check_features(features: torch.Tensor) -> None:
    """Raise `UserError` unless the features are a finite floating-point tensor (H, W, D), none of them 0."""
    if features.ndim != 3 or 0 in features.shape or not features.is_floating_point():
        raise UserError(
            expected="floating-point features of shape (height, width, channels)",
            found=f"{features.dtype} {tuple(features.shape)}",
            remedy="pass the patch grid of one image, channels last",
        )
    if not bool(torch.isfinite(features).all()):
        raise UserError(
            expected="finite patch features",
            found="NaN or infinity",
            remedy="check the image and the precision of the encoder",
        )
