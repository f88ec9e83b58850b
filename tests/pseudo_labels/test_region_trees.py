"""Region trees: watershed, merging against a plain reference, ranks, cuts, balance, and whole forests."""

import numpy as np
import pytest
import torch
from forests import check_forest, color_features, drawn, drawn_scene

from unsam_lightning.errors import UserError
from unsam_lightning.pseudo_labels.distinct import choose_distinct, rank_nodes
from unsam_lightning.pseudo_labels.overlap import connected_components
from unsam_lightning.pseudo_labels.region_graph import region_graph, sample_features
from unsam_lightning.pseudo_labels.region_tree import lasting_cut, merge_tree
from unsam_lightning.pseudo_labels.regions import RegionConfig, balance, discover_regions
from unsam_lightning.pseudo_labels.watershed import basins


def noise_image(seed=0, shape=(40, 56)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def leaves_of(tree, node):
    return set(tree.leaves[tree.first[node] : tree.first[node] + tree.count[node]].tolist())


def plain_merge(edges, borders, area, features, exponent):
    """The same merging with a scan over all pairs: the regions in the order in which they arise."""
    regions = {i: (float(area[i]), features[i] * area[i], frozenset([i])) for i in range(len(area))}
    between = {frozenset(pair): border.copy() for pair, border in zip(edges.tolist(), borders, strict=True)}
    found = []
    while between:
        prices = {}
        for pair, (length, strength) in between.items():
            (a, x, _), (b, y, _) = (regions[i] for i in pair)
            distance = np.linalg.norm(x / a - y / b)
            prices[pair] = (strength / length + 0.1) * (distance + 0.1) * (a * b / (a + b)) ** exponent
        pair = min(prices, key=prices.get)
        (a, x, one), (b, y, other) = (regions.pop(i) for i in pair)
        new = len(area) + len(found)
        regions[new] = (a + b, x + y, one | other)
        found.append(one | other)
        after = {}
        for edge, border in between.items():
            if edge != pair:
                edge = frozenset(new if i in pair else i for i in edge)
                after[edge] = after.get(edge, 0) + border
        between = after
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_tree_equals_plain_merging(seed):
    graph = region_graph(noise_image(seed))
    features = np.random.default_rng(seed).normal(size=(len(graph.area_px), 5)).astype(np.float32)
    borders = graph.borders.copy()
    tree = merge_tree(graph.edges, graph.borders, graph.area_px, features, 0.6)
    expected = plain_merge(graph.edges, graph.borders, graph.area_px, features.astype(np.float64), 0.6)
    nodes = range(len(graph.area_px), len(tree.area_px))
    assert [leaves_of(tree, node) for node in nodes] == [set(region) for region in expected]
    assert all(tree.area_px[node] == graph.area_px[list(leaves_of(tree, node))].sum() for node in nodes)
    assert (np.diff(tree.born) >= 0).all()
    assert (tree.merged >= tree.born).all()
    assert np.array_equal(borders, graph.borders)  # left as they were


def test_basins_follow_an_edge_to_the_pixel():
    strength = np.zeros((9, 21), np.float32)
    strength[:, 10] = 20
    labels = basins(strength)
    assert labels.max() == 1
    assert (labels[:, :10] == 0).all()
    assert (labels[:, 11:] == 1).all()


def test_small_regions_cover_the_image_and_are_connected():
    graph = region_graph(noise_image())
    assert graph.labels.min() == 0
    assert graph.area_px.sum() == graph.labels.size
    for region in range(len(graph.area_px)):
        assert len(connected_components(graph.labels == region)) == 1
    sides = (graph.labels[:, 1:] != graph.labels[:, :-1]).sum() + (graph.labels[1:] != graph.labels[:-1]).sum()
    assert graph.borders[:, 0].sum() == sides
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()


def test_features_at_the_centres_by_hand():
    features = np.array([[[0.0], [4.0]], [[0.0], [4.0]]], np.float32)  # variance 4: divided by 2
    centers = np.array([[0.25, 0.3], [0.5, 0.9], [1.0, 0.0]])
    (sampled,) = sample_features([features], centers)
    assert sampled[:, 0].tolist() == [0.0, 1.0, 2.0]


def row_tree():
    """Four regions of 10 px in a row, values 0, 1, 10, 12: {0, 1} and {2, 3} arise, then the whole."""
    edges = np.array([[0, 1], [1, 2], [2, 3]], np.int32)
    borders = np.array([[1.0, 1.0]] * 3)
    return merge_tree(edges, borders, np.full(4, 10.0), np.array([[0], [1], [10], [12]], np.float32), 0.0)


def test_a_row_by_hand():
    tree = row_tree()
    assert [leaves_of(tree, node) for node in (4, 5, 6)] == [{0, 1}, {2, 3}, {0, 1, 2, 3}]
    assert tree.born[4:] == pytest.approx([1.1 * 1.1, 1.1 * 2.1, 1.1 * 10.6], rel=1e-6)
    assert tree.merged[:6] == pytest.approx(np.repeat(tree.born[4:], 2)[[0, 1, 2, 3, 4, 5]])
    assert lasting_cut(tree, 15, 30).tolist() == [4, 5]
    assert lasting_cut(tree, 1, 15).tolist() == [0, 1, 2, 3]
    assert lasting_cut(tree, 50, 60).tolist() == []
    # 4 and 5 vanish at the same height, 4 arises earlier; then the leaves by the height at which they vanish.
    assert rank_nodes([tree], [1.0], 1, 30)[:, 1].tolist() == [4, 5, 2, 3, 0, 1]


def test_trees_are_shuffled_by_their_shares_and_equal_nodes_go():
    tree = row_tree()
    ranked = rank_nodes([tree, tree], [2.0, 1.0], 15, 50)  # places 0.5, 1, 1.5 and 1, 2, 3
    assert ranked[:, 0].tolist() == [0, 0, 1, 0, 1, 1]
    kept = choose_distinct([tree, tree], ranked, 0.8, 10)
    assert sorted(ranked[kept, 1].tolist()) == [4, 5, 6]
    assert len(choose_distinct([tree, tree], ranked, 0.4, 10)) == 1  # the halves have IoU 0.5 with the whole
    assert len(choose_distinct([tree, tree], ranked, 0.8, 2)) == 2


def test_overlaps_of_nodes_equal_those_of_masks():
    graph = region_graph(noise_image(3))
    rng = np.random.default_rng(0)
    trees = [
        merge_tree(graph.edges, graph.borders, graph.area_px, rng.normal(size=(len(graph.area_px), 3)), 0.6)
        for _ in range(2)
    ]
    ranked = rank_nodes(trees, [1.0, 1.0], 30, 1500)
    kept = choose_distinct(trees, ranked, 0.5, 1000)
    masks = [np.isin(graph.labels, list(leaves_of(trees[t], node))) for t, node in ranked]
    expected = []
    for index, mask in enumerate(masks):
        if all((mask & masks[k]).sum() <= 0.5 * (mask | masks[k]).sum() for k in expected):
            expected.append(index)
    assert kept.tolist() == expected


def test_balance_drops_the_least_distinctive_of_the_fullest_bin():
    area = np.array([10_000, *[100] * 8, 2_500, 5_000])
    owner = np.zeros(11, np.int32)
    assert balance(area, owner, 1.0).tolist() == list(range(11))
    # 8 of 11 are in the lowest bin; 3 of 6 are half.
    assert balance(area, owner, 0.5).tolist() == [0, 1, 2, 3, 9, 10]
    owner[9] = -1
    assert 9 not in balance(area, owner, 1.0)
    assert balance(np.zeros(0, int), np.zeros(0, np.int32), 0.3).tolist() == []


@pytest.mark.parametrize("with_features", [True, False])
def test_a_drawn_scene_becomes_its_trees(with_features):
    image, labels = drawn_scene()
    maps = [color_features(image, 4), color_features(image, 8)] if with_features else []
    forest = drawn(discover_regions(maps, image, RegionConfig()))
    check_forest(forest, min_area_px=7)

    def find(target):
        overlap = [float((mask & target).sum() / (mask | target).sum()) for mask in forest.masks]
        assert max(overlap) > 0.97  # follows the edge to the pixel
        return int(np.argmax(overlap))

    disc = (labels == 1) | (labels == 2)
    whole, eye, box = (find(target) for target in (disc, labels == 2, labels == 3))
    assert forest.instance[whole] == forest.instance[eye] != forest.instance[box]
    assert forest.granularity[whole] == forest.granularity[box] == 1.0
    again = drawn(discover_regions(maps, image, RegionConfig()))
    assert np.array_equal(forest.masks, again.masks)
    assert np.array_equal(forest.granularity, again.granularity)


def test_a_large_image_is_reduced_and_its_masks_lifted():
    image, labels = drawn_scene()
    large = image.repeat(3, 0).repeat(3, 1)
    forest = drawn(discover_regions([], large, RegionConfig(max_side=128)))
    check_forest(forest)
    assert forest.masks.shape[1:] == large.shape[:2]
    target = (labels == 3).repeat(3, 0).repeat(3, 1)
    assert max(float((mask & target).sum() / (mask | target).sum()) for mask in forest.masks) > 0.97


@pytest.mark.parametrize(("roots", "keep_groups"), [("largest", True), ("lasting", True), ("lasting", False)])
def test_noise_makes_a_valid_forest_within_its_limits(roots, keep_groups):
    image = noise_image(5, (96, 128))
    config = RegionConfig(max_masks=60, roots=roots, keep_groups=keep_groups)
    forest = drawn(discover_regions([], image, config))
    check_forest(forest, min_area_px=5)
    assert 10 < len(forest) <= 60
    assert forest.masks.mean(axis=(1, 2)).max() <= 0.8


@pytest.mark.parametrize("shape", [(128, 128), (1, 1), (1, 300), (40, 1)])
def test_a_constant_image_has_no_masks(shape):
    forest = drawn(discover_regions([], np.full((*shape, 3), 90, np.uint8), RegionConfig(max_side=200)))
    assert forest.masks.shape == (0, *shape)


def test_wrong_input_is_told():
    image, _ = drawn_scene()
    features, config = color_features(image, 8), RegionConfig()
    with pytest.raises(UserError, match="NaN"):
        discover_regions([features * torch.nan], image, config)
    with pytest.raises(UserError, match="float32"):
        discover_regions([features], image.astype(np.float32), config)
    with pytest.raises(UserError, match="3 mixtures"):
        RegionConfig(shares=(1.0,))
