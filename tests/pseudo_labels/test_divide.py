"""Normalised cuts: the eigenvector against a dense solver, synthetic regions, edge cases."""

import numpy as np
import pytest
import torch

from unsam_lightning.errors import UserError
from unsam_lightning.pseudo_labels.divide import affinity, bisect, mask_cut, second_eigenvector


def features_of(labels, noise=0.3, seed=0):
    """Orthogonal directions per label plus noise."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.as_tensor(labels)
    return torch.eye(16)[grid] + noise / 4 * torch.randn(*grid.shape, 16, generator=generator)


def best_iou(masks, target):
    masks = np.asarray(masks)
    return max(float((mask & target).sum() / (mask | target).sum()) for mask in masks)


@pytest.mark.parametrize("size", [6, 15])
def test_the_eigenvector_equals_the_dense_generalised_one(size):
    # 36 patches take the exact way, 225 the iteration.
    labels = np.zeros((size, size), int)
    labels[:, size // 3 :] = 1
    labels[size // 2 :, size // 2 :] = 2
    weights = affinity(features_of(labels, noise=1.0).reshape(size * size, -1), 0.15)
    vector, value = second_eigenvector(weights)
    dense = weights.double()
    degree = dense.sum(dim=1)
    values, vectors = torch.linalg.eigh(torch.eye(len(dense)) - dense / (degree[:, None] * degree[None]).sqrt())
    expected = vectors[:, 1] / degree.sqrt()
    assert value == pytest.approx(float(values[1]), abs=1e-4)
    assert abs(float(torch.nn.functional.cosine_similarity(vector.double(), expected, dim=0))) > 0.9999
    assert float(vector.max()) == pytest.approx(float(vector.abs().max()), rel=1e-3)  # the sign rule


def test_affinity_by_hand():
    features = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])  # cosines 0.6, 0.0, 0.8
    hard = affinity(features, 0.7)
    assert torch.allclose(hard, torch.tensor([[1, 1e-5, 1e-5], [1e-5, 1, 1], [1e-5, 1, 1]]))
    soft = affinity(features, 0.5, soft=True)
    assert torch.allclose(soft[0], torch.tensor([1.0, 0.2, 1e-5]), atol=1e-6)


def test_mask_cut_finds_an_object_and_not_its_background():
    labels = np.zeros((16, 16), int)
    labels[5:10, 6:12] = 1
    masks = mask_cut(features_of(labels))
    assert masks.dtype == torch.bool
    assert np.array_equal(masks[0].numpy(), labels == 1)


def test_mask_cut_takes_out_one_object_after_the_other():
    labels = np.zeros((16, 16), int)
    labels[2:7, 2:7] = 1
    labels[9:14, 8:14] = 2
    masks = mask_cut(features_of(labels, noise=0.1), num_masks=3).numpy()
    assert masks.sum(axis=0).max() == 1  # disjoint
    for object_number in (1, 2):
        assert best_iou(masks, labels == object_number) == 1.0
    assert len(mask_cut(features_of(labels), num_masks=1)) == 1


@pytest.mark.parametrize("function", [mask_cut, bisect])
@pytest.mark.parametrize("size", [8, 16])
def test_a_constant_image_has_nothing_to_cut(function, size):
    assert function(torch.ones(size, size, 4)).shape == (0, size, size)


@pytest.mark.parametrize("function", [mask_cut, bisect])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 1)])
def test_tiny_grids(function, shape):
    assert function(torch.randn(*shape, 4, generator=torch.Generator().manual_seed(0))).shape == (0, *shape)


def test_bisect_finds_large_and_small_regions():
    labels = np.zeros((16, 16), int)
    labels[:, 8:] = 1
    labels[2:5, 2:4] = 2  # 6 of 256 patches: 2.3 % of the image
    labels[10:14, 10:15] = 3
    pieces = bisect(features_of(labels))
    for region in range(4):
        assert best_iou(pieces, labels == region) > 0.95
    shared = np.einsum("ahw,bhw->ab", pieces.astype(int), pieces.astype(int))
    areas = pieces.sum(axis=(1, 2))
    is_nested = (shared == areas[:, None]) | (shared == areas[None])
    assert np.all(is_nested | (shared == 0))
    assert areas.max() < labels.size


def test_bisect_pieces_are_connected_and_large_enough():
    # Two equal objects apart from each other fall on one side of the cut but become two pieces.
    labels = np.zeros((12, 12), int)
    labels[1:4, 1:4] = labels[8:11, 8:11] = 1
    pieces = bisect(features_of(labels), min_patches=4)
    first, second = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    first[1:4, 1:4] = second[8:11, 8:11] = True
    assert best_iou(pieces, first) == 1.0
    assert best_iou(pieces, second) == 1.0
    assert pieces.sum(axis=(1, 2)).min() >= 4


def test_a_low_limit_cuts_less():
    labels = np.add.outer(np.arange(16) // 4, np.arange(16) // 8 * 4)
    features = features_of(labels, noise=1.0)
    counts = [len(bisect(features, max_cut=limit)) for limit in (0.0, 0.5, 0.8)]
    assert counts[0] == 0 < counts[1] <= counts[2]


def test_the_same_input_gives_the_same_masks_and_no_gradient():
    features = torch.randn(14, 10, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.equal(mask_cut(features), mask_cut(features))
    assert np.array_equal(bisect(features), bisect(features))
    assert not mask_cut(features).requires_grad


@pytest.mark.parametrize("function", [mask_cut, bisect])
@pytest.mark.parametrize("features", [torch.full((4, 4, 2), torch.nan), torch.ones(4, 4), torch.ones(4, 4, 2).int()])
def test_wrong_input_is_told(function, features):
    with pytest.raises(UserError):
        function(features)
