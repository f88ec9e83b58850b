"""Iterative merging: golden values of the official function, a plain reference, hand-computed grids."""

import itertools

import numpy as np
import pytest
import torch

from unsam_lightning.errors import UserError
from unsam_lightning.pseudo_labels.conquer import PAPER_THRESHOLDS, iterative_merge, merge_levels


def as_sets(masks):
    return {frozenset(np.flatnonzero(mask).tolist()) for mask in masks}


def plain_merge(features, thresholds, min_size):
    """The published algorithm with a scan over all edges per merge: the first inserted among equal edges wins."""
    height, width, _ = features.shape
    total = dict(enumerate(features.reshape(height * width, -1).astype(np.float64)))
    patches = {i: [i] for i in total}
    edges = {}

    def cosine(one, other):
        scale = np.sqrt(total[one] @ total[one]) * np.sqrt(total[other] @ total[other])
        return np.float32(total[one] @ total[other] / scale) if scale else np.float32(0)

    for i in total:
        neighbours = [i + 1] * (i % width < width - 1) + [i + width] * (i + width < height * width)
        edges |= {(i, j): cosine(i, j) for j in neighbours}
    levels, born = [], height * width
    for threshold in thresholds:
        while edges and max(edges.values()) >= threshold:
            pair = max(edges, key=edges.get)
            total[born] = total[pair[0]] + total[pair[1]]
            patches[born] = patches[pair[0]] + patches[pair[1]]
            around = sorted({i for edge in edges if set(edge) & set(pair) for i in edge} - set(pair))
            edges = {edge: value for edge, value in edges.items() if not set(edge) & set(pair)}
            edges |= {(i, born): cosine(i, born) for i in around}
            born += 1
        alive = {i for edge in edges for i in edge}
        levels.append({frozenset(patches[i]) for i in alive if len(patches[i]) >= min_size})
    return levels


@pytest.mark.parametrize("key", ["0", "1", "2", "3", "4", "5", "ties"])
def test_equals_the_official_function(shared, key):
    with np.load(shared / "golden" / "divide_conquer" / "divide_conquer.npz") as golden:
        features, counts = golden[f"{key}/features"], golden[f"{key}/levels"]
        bits = np.unpackbits(golden[f"{key}/masks"], axis=1)[:, : features.shape[0] * features.shape[1]]
        thresholds = golden["thresholds"].tolist()
    levels = [as_sets(level) for level in iterative_merge(features, thresholds, min_size=4)]
    assert len(levels) == len(thresholds)
    # The official function leaves levels without masks out of its list.
    assert [level for level in levels if level] == [as_sets(rows) for rows in np.split(bits, np.cumsum(counts)[:-1])]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("kind", ["noise", "binary", "smooth"])
def test_equals_the_plain_algorithm(seed, kind):
    rng = np.random.default_rng(seed)
    height, width, channels = (int(n) for n in rng.integers((1, 1, 2), (9, 9, 6)))
    features = rng.normal(size=(height, width, channels))
    if kind == "binary":  # many exact ties and zero vectors
        features = (features > 0.3).astype(float)
    if kind == "smooth":
        features = np.cumsum(np.cumsum(features, axis=0), axis=1) + 2
    features = features.astype(np.float32)
    thresholds = [0.999, 0.9, 0.8, 0.5, 0.0, -0.5, -0.9]
    for min_size in (1, 4):
        result = [as_sets(level) for level in iterative_merge(features, thresholds, min_size)]
        assert result == plain_merge(features, thresholds, min_size)


def test_a_row_computed_by_hand():
    # 60 and 65 degrees merge first (5 apart), then 0 and 10 (10 apart), then 5 and 62.5 (57.5 apart).
    angles = np.deg2rad([0.0, 10.0, 60.0, 65.0])
    row = np.stack([np.cos(angles), np.sin(angles)], axis=1)[None]
    thresholds = np.cos(np.deg2rad([4.0, 6.0, 11.0, 57.0, 58.0])).tolist()
    labels = merge_levels(row.astype(np.float32), thresholds)
    assert labels[:, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 2], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_lengths_weigh_the_mean_but_not_the_cosine():
    # Sums, not means of unit vectors: the long patch pulls its cluster's direction to itself.
    row = np.array([[[100.0, 0.0], [0.7, 0.7], [0.0, 1.0]]], np.float32)
    labels = merge_levels(row, [0.70, 0.5])
    # cos(45 degrees) on both sides: a tie, which the first edge wins; then (100.7, 0.7) against (0, 1) is 0.007.
    assert labels[:, 0].tolist() == [[0, 0, 1], [0, 0, 1]]


def test_a_constant_image_is_one_region_and_gives_no_mask():
    constant = np.full((5, 7, 3), 0.3, np.float32)
    assert not merge_levels(constant, [0.9]).any()
    assert [level.shape for level in iterative_merge(constant, [0.9, 0.5], 1)] == [(0, 5, 7)] * 2


def test_zero_features_resemble_nothing():
    zero = np.zeros((3, 3, 4), np.float32)
    assert np.array_equal(merge_levels(zero, [0.1])[0].ravel(), np.arange(9))


@pytest.mark.parametrize("shape", [(1, 1, 2), (0, 4, 2), (1, 6, 2)])
def test_small_and_empty_grids(shape):
    features = np.ones(shape, np.float32)
    levels = iterative_merge(features, PAPER_THRESHOLDS)
    assert [level.shape for level in levels] == [(0, *shape[:2])] * 5
    assert iterative_merge(features, []) == []


def test_masks_come_largest_first_and_labels_in_reading_order():
    features = np.zeros((4, 6, 3), np.float32)
    features[:, :1, 0] = features[:, 1:4, 1] = features[:, 4:, 2] = 1
    (masks,) = iterative_merge(features, [0.5])
    assert masks.sum(axis=(1, 2)).tolist() == [12, 8, 4]
    assert merge_levels(features, [0.5])[0, 0].tolist() == [0, 1, 1, 1, 2, 2]


def test_levels_are_nested_and_tensors_are_accepted():
    features = torch.randn(12, 10, 8, generator=torch.Generator().manual_seed(0))
    before = features.clone()
    labels = merge_levels(features, PAPER_THRESHOLDS)
    assert torch.equal(features, before)
    assert np.array_equal(labels, merge_levels(features.numpy(), PAPER_THRESHOLDS))
    for fine, coarse in itertools.pairwise(labels):
        assert len(np.unique(np.stack([fine.ravel(), coarse.ravel()]), axis=1).T) == fine.max() + 1


def test_only_patches_inside_take_part():
    features = np.ones((3, 5, 2), np.float32)
    inside = np.ones((3, 5), bool)
    inside[:, 2] = False
    (labels,) = merge_levels(features, [0.5], inside=inside)
    assert labels.tolist() == [[0, 0, -1, 1, 1]] * 3  # alike, but not connected


@pytest.mark.parametrize(
    ("features", "thresholds", "found"),
    [
        (np.full((2, 2, 3), np.nan, np.float32), [0.5], "NaN"),
        (np.full((2, 2, 3), 1e30, np.float32), [0.5], "overflows"),
        (np.ones((2, 2), np.float32), [0.5], r"\(2, 2\)"),
        (np.ones((2, 2, 3), np.float32), [0.5, 0.9], r"\[0.5, 0.9\]"),
    ],
)
def test_wrong_input_is_told(features, thresholds, found):
    with pytest.raises(UserError, match=found):
        iterative_merge(features, thresholds)
