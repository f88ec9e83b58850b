import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from unsam_lightning.metrics.pixel_matching import match_pixels


def optimum(one, other, max_distance):
    """The smallest cost by a dense assignment in which every pixel of `one` may also stay alone."""
    a, b = np.argwhere(one), np.argwhere(other)
    squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    alone = np.ceil(1e4 * max_distance)
    cost = np.where(squared <= max_distance**2, np.rint(100 * np.sqrt(squared)), 1e9)
    full = np.concatenate([cost, np.full((len(a), len(a)), alone)], axis=1)
    rows, columns = linear_sum_assignment(full)
    return full[rows, columns].sum()


@pytest.mark.parametrize("seed", range(40))
def test_the_matching_costs_the_least(seed):
    rng = np.random.default_rng(seed)
    shape, density = rng.integers(4, 22, size=2), rng.uniform(0.02, 0.5)
    one, other = rng.random(shape) < density, rng.random(shape) < density * rng.uniform(0.3, 2)
    assert_costs_the_least(one, other, rng.uniform(1, 5))


def assert_costs_the_least(one, other, max_distance):
    of_one, of_other = match_pixels(one, other, max_distance)
    assert not (of_one & ~one).any()
    assert not (of_other & ~other).any()
    assert of_one.sum() == of_other.sum()
    alone = np.ceil(1e4 * max_distance) * (one.sum() - of_one.sum())
    assert optimum(of_one, of_other, max_distance) + alone == optimum(one, other, max_distance)


@pytest.mark.parametrize("seed", range(12))
def test_the_matching_of_curves_costs_the_least(seed):
    # Long lines side by side: most rows compete, and places are found by chains of exchanges only.
    rng = np.random.default_rng(seed)
    one, other = np.zeros((24, 60), dtype=bool), np.zeros((24, 60), dtype=bool)
    x = np.arange(60)
    for curves, number in ((one, rng.integers(2, 5)), (other, rng.integers(1, 4))):
        for _ in range(number):
            y = 12 + 3 * np.sin(x / rng.uniform(4, 9) + rng.uniform(0, 6)) + rng.normal(0, 0.7, 60)
            begin = rng.integers(0, 15)
            curves[np.rint(y).astype(int)[begin : 60 - begin], x[begin : 60 - begin]] = True
    assert_costs_the_least(one, other, rng.uniform(2, 5))


def test_most_pairs_come_before_near_pairs():
    # Matching the two pixels at distance 1 would leave two alone; at distance 2 both find a partner.
    one, other = np.zeros((1, 7), dtype=bool), np.zeros((1, 7), dtype=bool)
    one[0, [1, 3]] = True
    other[0, [2, 0]] = True
    assert match_pixels(one, other, 2)[0].sum() == 2
    other[0, 0], other[0, 5] = False, True
    np.testing.assert_array_equal(match_pixels(one, other, 2)[0], one)


def test_the_distance_is_inclusive_and_not_rounded():
    one, other = np.zeros((9, 9), dtype=bool), np.zeros((9, 9), dtype=bool)
    one[0, 0] = other[3, 4] = True
    assert match_pixels(one, other, 5)[0].sum() == 1
    assert match_pixels(one, other, 4.99)[0].sum() == 0
    assert match_pixels(one, other, 0.5)[0].sum() == 0


def test_a_chain_moves_unless_that_costs_more_than_leaving_one_out():
    for length, pairs in ((99, 99), (101, 100)):
        one, other = np.zeros((1, 200), dtype=bool), np.zeros((1, 200), dtype=bool)
        one[0, :length], other[0, 1 : length + 1] = True, True
        of_one, of_other = match_pixels(one, other, 1)
        assert of_one.sum() == of_other.sum() == pairs


def test_nothing_matches_nothing():
    empty, full = np.zeros((4, 5), dtype=bool), np.ones((4, 5), dtype=bool)
    for one, other in ((empty, empty), (empty, full), (full, empty)):
        assert not any(matched.any() for matched in match_pixels(one, other, 3))
