"""Masks to forest: components, suppression, instances, trees, and the whole of stage 1 on drawn images."""

import dataclasses

import numpy as np
import pytest
import torch
from forests import check_forest, color_features, drawn, drawn_scene

from unsam_lightning.errors import UserError
from unsam_lightning.pseudo_labels.divide_and_conquer import DivideConquerConfig, discover_masks
from unsam_lightning.pseudo_labels.hierarchy import build_forest, instances_of, split_components, suppress
from unsam_lightning.pseudo_labels.overlap import connected_components, containments, intersections, ious
from unsam_lightning.pseudo_labels.upsample import patch_of_pixels

SHAPE = (20, 70)  # wider than one 64-bit word


def box(top, bottom, left, right):
    mask = np.zeros(SHAPE, bool)
    mask[top:bottom, left:right] = True
    return mask


def stack(*masks):
    return np.stack(masks) if masks else np.zeros((0, *SHAPE), bool)


def random_boxes(seed, count=25):
    rng = np.random.default_rng(seed)
    corners = [(rng.integers(0, 16), rng.integers(0, 60)) for _ in range(count)]
    return stack(*[box(y, rng.integers(y + 2, 21), x, rng.integers(x + 2, 71)) for y, x in corners])


def test_intersections_equal_a_matrix_product():
    masks = random_boxes(0)
    flat = masks.reshape(len(masks), -1).astype(np.int64)
    shared = intersections(masks)
    assert np.array_equal(shared, flat @ flat.T)
    assert intersections(stack()).shape == (0, 0)
    assert ious(intersections(stack(box(0, 0, 0, 0), box(0, 1, 0, 1)))).tolist() == [[0, 0], [0, 1]]
    assert containments(intersections(stack(box(0, 2, 0, 2), box(0, 2, 1, 5))))[0].tolist() == [1.0, 0.5]


def test_components_are_apart_by_four_neighbours_and_sorted():
    mask = box(0, 2, 60, 66) | box(2, 4, 66, 70) | box(10, 11, 0, 1)  # the first two touch at a corner only
    assert connected_components(mask).sum(axis=(1, 2)).tolist() == [12, 8, 1]
    pieces, source = split_components(stack(box(5, 6, 5, 9), mask), min_area_px=8)
    assert source.tolist() == [1, 1]
    assert np.array_equal(pieces, stack(box(0, 2, 60, 66), box(2, 4, 66, 70)))
    twins = connected_components(box(3, 5, 40, 42) | box(1, 3, 50, 52))
    assert twins[0, 1, 50]  # equal areas: the first pixel decides


def test_suppression_compares_every_pair_and_keeps_the_larger():
    wide, narrow, other = box(0, 10, 0, 20), box(0, 10, 0, 17), box(0, 10, 30, 50)
    # Seven masks of areas in between stand between the near-duplicates: a window of four would miss the pair.
    between = [box(0, 19, 51 + k, 61 + k) for k in range(7)]
    masks = stack(narrow, other, *between, wide)
    assert ious(intersections(masks))[0, -1] == 0.85
    kept = suppress(masks, 0.8)
    assert 0 not in kept
    assert len(masks) - 1 in kept
    assert set(suppress(stack(narrow, wide), 0.85)) == {0, 1}  # at the limit both stay
    assert suppress(stack(other, other), 0.8).tolist() == [0]  # the earlier one of equals
    assert suppress(stack(narrow, wide), 0.8, num_protected=1).tolist() == [0]
    assert suppress(stack(), 0.8).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_suppression_leaves_no_pair_and_drops_nothing_else(seed):
    masks = random_boxes(seed, 60)
    kept = suppress(masks, 0.5)
    overlap = ious(intersections(masks))
    assert (overlap[np.ix_(kept, kept)][~np.eye(len(kept), dtype=bool)] <= 0.5).all()
    for gone in set(range(len(masks))) - set(kept.tolist()):
        assert (overlap[gone, kept] > 0.5).any()
    areas = masks.sum(axis=(1, 2))
    assert (np.diff(areas[kept]) <= 0).all()


def test_near_duplicates_do_not_knock_each_other_out():
    larger, smaller, part = box(0, 10, 0, 20), box(0, 10, 1, 20), box(2, 5, 2, 6)
    assert instances_of(stack(smaller, larger, part)).tolist() == [1, 1, 1]
    assert instances_of(stack(larger, larger)).tolist() == [0, 0]


def test_a_part_belongs_to_the_instance_that_holds_most_of_it():
    left, right = box(0, 20, 0, 30), box(0, 20, 25, 60)
    part = box(4, 8, 24, 34)  # 0.6 of it in the left one, 0.9 in the right one
    alone = box(0, 3, 65, 70)
    assert instances_of(stack(part, left, right, alone)).tolist() == [2, 1, 2, 3]
    assert instances_of(stack()).tolist() == []


def test_the_end_of_a_chain_has_no_instance():
    # Each lies to 0.82 in the next larger one, the smallest only to 0.7 in the largest.
    largest, middle, smallest = box(0, 10, 0, 40), box(0, 10, 31, 42), box(0, 10, 33, 43)
    assert containments(intersections(stack(smallest, middle, largest)))[0].tolist() == [1.0, 0.9, 0.7]
    assert instances_of(stack(smallest, middle, largest)).tolist() == [-1, 2, 2]


def test_a_tree_by_hand():
    whole, half, eye, across = box(0, 20, 0, 40), box(0, 20, 0, 20), box(2, 6, 2, 6), box(0, 10, 10, 30)
    stages = ["conquer", "divide", "conquer"]
    forest = build_forest(stack(whole), [stack(eye, half, across)], [stages], min_area_px=4)
    assert forest.masks.sum(axis=(1, 2)).tolist() == [800, 400, 200, 16]
    assert forest.parent.tolist() == [-1, 0, 0, 1]  # the two siblings overlap, neither contains the other
    assert forest.stage.tolist() == ["divide", "divide", "conquer", "conquer"]
    assert forest.granularity[[0, 3]].tolist() == [1.0, 0.1]
    assert forest.granularity[1] == pytest.approx(0.1 + 0.9 * (20 - 4) / (800**0.5 - 4))
    check_forest(forest)


def test_a_part_is_cut_to_its_parent_and_a_stranger_is_dropped():
    whole = box(0, 20, 0, 40)
    sticking_out, stranger = box(5, 10, 31, 41), box(0, 20, 35, 60)
    forest = build_forest(stack(whole), [stack(sticking_out, stranger)], [["conquer"] * 2])
    assert forest.masks[1:].sum(axis=(1, 2)).tolist() == [45]
    check_forest(forest)


def test_copies_of_the_instance_and_of_a_part_are_dropped():
    whole, part = box(0, 20, 0, 40), box(0, 10, 0, 10)
    parts = stack(whole, box(0, 20, 1, 40), part, part, box(0, 1, 0, 2))
    forest = build_forest(stack(whole), [parts], [["conquer"] * 5], min_area_px=3)
    assert len(forest) == 2
    assert len(build_forest(stack(), [], [])) == 0
    assert build_forest(stack(whole), [stack()], [[]]).granularity.tolist() == [1.0]


@pytest.mark.parametrize("seed", range(8))
def test_any_boxes_make_a_valid_forest(seed):
    masks = random_boxes(seed, 60)
    owner = instances_of(masks)
    roots = np.flatnonzero(owner == np.arange(len(owner)))
    parts = [masks[(owner == root) & (np.arange(len(owner)) != root)] for root in roots]
    forest = build_forest(masks[roots], parts, [["conquer"] * len(part) for part in parts], min_area_px=3)
    check_forest(forest, min_area_px=3)
    assert len(forest) > len(roots)


def test_pixels_follow_the_image_and_not_the_patch_border():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 10:] = 255  # the patch border is at column 8
    nearest = patch_of_pixels(image, (2, 2), np.inf)
    assert nearest[0].tolist() == [0] * 8 + [1] * 8
    by_color = patch_of_pixels(image, (2, 2), 20.0)
    assert by_color[0].tolist() == [0] * 10 + [1] * 6
    assert by_color[:, 0].tolist() == [0] * 8 + [2] * 8


def test_a_drawn_scene_becomes_its_trees():
    image, labels = drawn_scene()
    forest = drawn(discover_masks(color_features(image, 8), color_features(image, 4), image, DivideConquerConfig()))
    check_forest(forest, min_area_px=100)

    def find(target):
        overlap = [float((mask & target).sum() / (mask | target).sum()) for mask in forest.masks]
        assert max(overlap) > 0.9
        return int(np.argmax(overlap))

    disc, eye, small = find((labels == 1) | (labels == 2)), find(labels == 2), find(labels == 3)
    assert forest.instance[eye] == forest.instance[disc]
    assert forest.granularity[eye] < forest.granularity[disc]
    assert forest.instance[small] != forest.instance[disc]
    again = drawn(discover_masks(color_features(image, 8), color_features(image, 4), image, DivideConquerConfig()))
    for field in dataclasses.fields(forest):
        assert np.array_equal(getattr(forest, field.name), getattr(again, field.name))


def test_a_constant_image_has_no_masks():
    image = np.full((128, 128, 3), 90, np.uint8)
    forest = drawn(discover_masks(color_features(image, 8), color_features(image, 4), image, DivideConquerConfig()))
    assert len(forest) == 0
    assert forest.masks.shape == (0, 128, 128)


def test_wrong_input_is_told():
    image, _ = drawn_scene()
    good, config = color_features(image, 8), DivideConquerConfig()
    with pytest.raises(UserError, match="NaN"):
        discover_masks(good * torch.nan, good, image, config)
    with pytest.raises(UserError, match="finite"):
        discover_masks(good, good * torch.inf, image, config)
    with pytest.raises(UserError, match="float32"):
        discover_masks(good, good, image.astype(np.float32), config)
    with pytest.raises(UserError, match="at least"):
        patch_of_pixels(image[:8, :8], (16, 16), 10.0)
    with pytest.raises(UserError, match="bool"):
        suppress(np.ones((2, 4, 4), np.uint8))
