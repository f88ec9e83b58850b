"""Runs against drawn masks and pycocotools: lifting, cutting to a parent, the largest piece, the RLE string."""

import cv2
import numpy as np
import pytest
from forests import check_forest, drawn

from unsam_lightning.granularity import granularity_scores
from unsam_lightning.pairs import encode_masks
from unsam_lightning.pseudo_labels.hierarchy import ROOT, build_forest, instances_of
from unsam_lightning.pseudo_labels.overlap import connected_components
from unsam_lightning.pseudo_labels.runs import lift_runs, rle_string, runs_of_mask
from unsam_lightning.pseudo_labels.upsample import lift_forest, patch_of_pixels, reduce_image


def blobs(seed, number, shape):
    """Random blobs with holes and islands, bool (number, *shape)."""
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), 2.0) for _ in range(number)]
    return np.stack([one > rng.uniform(-0.1, 0.1) for one in noise])


def by_column(pixels):
    return np.ascontiguousarray(pixels.T)


def identity(shape):
    return by_column(np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape))


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (41, 1), (24, 37), (37, 24)])
def test_strings_equal_those_of_pycocotools(shape):
    masks = np.concatenate([blobs(shape[0], 20, shape), np.ones((1, *shape), bool)])
    for mask in masks:
        pieces = connected_components(mask)
        runs, area = lift_runs(mask, identity(shape))
        assert area == (pieces[0].sum() if len(pieces) else 0)
        if len(pieces):  # the first is the largest, and of equals the one that begins first
            assert rle_string(runs, mask.size) == encode_masks(pieces[:1])[0]


def test_long_runs_and_an_empty_mask():
    wide = np.zeros((3000, 4), bool)  # counts of more than 16 bits
    wide[5:, 1] = wide[:, 2] = wide[:2990, 3] = True
    runs, area = lift_runs(wide, identity(wide.shape))
    assert area == wide.sum()
    assert rle_string(runs, wide.size) == encode_masks(wide[None])[0]
    runs, area = lift_runs(np.zeros((6, 7), bool), identity((6, 7)))
    assert (len(runs), area) == (0, 0)
    assert rle_string(runs, 42) == encode_masks(np.zeros((1, 6, 7), bool))[0]


@pytest.mark.parametrize("seed", range(4))
def test_lifting_equals_drawing(seed):
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (90, 131, 3), dtype=np.uint8), (0, 0), 1.5)
    pixels = patch_of_pixels(image, (13, 22), 10.0)
    parent, *others = blobs(seed, 30, (13, 22))
    around, _ = lift_runs(parent, by_column(pixels))
    inside = connected_components(parent.ravel()[pixels])[0]
    for mask in others:
        for cut, holder in ((None, True), (around, inside)):
            runs, area = lift_runs(mask, by_column(pixels), cut)
            pieces = connected_components(mask.ravel()[pixels] & holder)
            expected = pieces[0] if len(pieces) else np.zeros(pixels.shape, bool)
            assert area == expected.sum()
            assert rle_string(runs, pixels.size) == encode_masks(expected[None])[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_lifted_forest_equals_one_that_is_drawn(seed):
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8), (150, 100), interpolation=cv2.INTER_CUBIC)
    pieces = np.concatenate([connected_components(mask, 4) for mask in blobs(seed, 20, (25, 37))])
    owner = instances_of(pieces)
    roots = np.flatnonzero(owner == np.arange(len(owner)))
    parts = [pieces[(owner == root) & (np.arange(len(owner)) != root)] for root in roots]
    small = build_forest(pieces[roots], parts, [["conquer"] * len(part) for part in parts])
    forest = lift_forest(small, image, 10.0)

    pixels = patch_of_pixels(image, (25, 37), 10.0)
    masks = {ROOT: np.ones(pixels.shape, bool)}
    kept = []
    for n, parent in enumerate(small.parent):
        whole = small.masks[n].ravel()[pixels] & masks.get(parent, False)
        found = connected_components(whole)
        if len(found) and (parent == ROOT or found[0].sum() < masks[parent].sum()):
            masks[n] = found[0]
            kept.append(n)
    assert np.array_equal(forest.masks(), np.stack([masks[n] for n in kept]))
    assert forest.area.tolist() == [int(masks[n].sum()) for n in kept]
    assert [kept[p] if p >= 0 else ROOT for p in forest.parent] == [small.parent[n] for n in kept]
    assert forest.stage.tolist() == small.stage[kept].tolist()
    for tree in range(forest.instance.max() + 1):
        members = forest.instance == tree
        assert np.array_equal(forest.granularity[members], granularity_scores(forest.area[members]))


def test_a_forest_of_the_image_s_own_size_stays_as_it_is():
    masks = np.zeros((2, 30, 40), bool)
    masks[0, 2:28, 3:30] = masks[1, 5:9, 6:20] = True
    small = build_forest(masks[:1], [masks[1:]], [["conquer"]])
    forest = lift_forest(small, np.zeros((30, 40, 3), np.uint8), 10.0)
    assert np.array_equal(forest.masks(), small.masks)
    assert np.array_equal(forest.granularity, small.granularity)
    check_forest(drawn(forest))


def test_only_larger_images_are_reduced():
    image = np.zeros((30, 400, 3), np.uint8)
    assert reduce_image(image, 400) is image
    assert reduce_image(image, 100).shape == (8, 100, 3)
    assert reduce_image(image[:1], 10).shape == (1, 10, 3)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (8, 9), (31, 40), (64, 64), (321, 481)])
def test_runs_of_masks_are_written_as_pycocotools_writes_them(shape):
    masks = blobs(3, 6, shape)
    masks[0], masks[1] = False, True
    assert [rle_string(runs_of_mask(mask), mask.size) for mask in masks] == encode_masks(masks)
    strided = np.asfortranarray(masks[2])
    assert rle_string(runs_of_mask(strided), strided.size) == encode_masks(masks[2:3])[0]
