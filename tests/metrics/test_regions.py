import itertools

import numpy as np
import pytest
import scipy.io

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.regions import (
    RegionScores,
    best_ious,
    covering,
    rand_index,
    shared_pixels,
    variation_of_information,
)

SAMPLE = ("2018", "3063", "5096", "6046", "8068")

# Left and right halves of a 4 x 4 image against its upper half and its two lower quarters.
HALVES = np.array([[1, 1, 7, 7]] * 4)
QUARTERS = np.array([[0, 0, 0, 0]] * 2 + [[3, 3, 4, 4]] * 2)


@pytest.fixture(scope="module")
def bench(request):
    shared = request.getfixturevalue("shared")
    folder = shared / "data/BSDS500_bench_sample"
    metric = RegionScores(range(1, 6))
    for name in SAMPLE:
        cells = scipy.io.loadmat(folder / f"groundTruth/{name}.mat")["groundTruth"].ravel()
        preds = scipy.io.loadmat(folder / f"segs/{name}.mat")["segs"].ravel()
        metric.update(list(preds), [cell["Segmentation"][0, 0] for cell in cells])
    return folder / "test_4", metric


def test_covering_equals_the_published_results(bench):
    folder, metric = bench
    numbers = metric.compute()
    threshold, ods, ois, best = np.loadtxt(folder / "eval_cover.txt")
    assert numbers["covering_threshold"] == threshold
    found = [numbers["covering_ods"], numbers["covering_ois"], numbers["covering_best"]]
    np.testing.assert_allclose(found, [ods, ois, best], atol=1e-6)
    np.testing.assert_allclose(
        metric.covered / metric.pixels, np.loadtxt(folder / "eval_cover_th.txt")[:, 1], atol=1e-6
    )


def test_pri_and_voi_equal_the_published_results(bench):
    folder, metric = bench
    numbers = metric.compute()
    names = ["pri_threshold", "pri_ods", "pri_ois", "voi_threshold", "voi_ods", "voi_ois"]
    published = np.loadtxt(folder / "eval_RI_VOI.txt")
    np.testing.assert_allclose([numbers[name] for name in names], published, atol=6e-6)
    of_thresholds = np.loadtxt(folder / "eval_RI_VOI_thr.txt")[:, 1:]
    found = np.stack([metric.rand / 5, metric.information / 5], axis=1)
    np.testing.assert_allclose(found, of_thresholds, atol=6e-6)


def test_shared_pixels_by_hand():
    np.testing.assert_array_equal(shared_pixels(HALVES, QUARTERS), [[4, 4, 0], [4, 0, 4]])
    scattered = HALVES.astype(np.int64) * 10**12  # labels far apart, as colours make them
    np.testing.assert_array_equal(shared_pixels(scattered, QUARTERS), [[4, 4, 0], [4, 0, 4]])
    np.testing.assert_array_equal(shared_pixels(QUARTERS - 9, HALVES), [[4, 4], [4, 0], [0, 4]])


def test_scores_by_hand():
    shared = shared_pixels(HALVES, QUARTERS)
    np.testing.assert_allclose(best_ious(shared), [4 / 12, 4 / 8, 4 / 8])
    assert covering(shared) == pytest.approx((8 / 3 + 4 / 2 + 4 / 2) / 16)
    # Of 120 pairs 56 lie in one half, 28 + 6 + 6 in one of the other's regions, 4 * 6 in one of both.
    assert rand_index(shared) == pytest.approx((24 + 120 - 56 - 40 + 24) / 120)
    # H(halves) = 1, H(quarters) = 1.5, H(both) = 2 bits.
    assert variation_of_information(shared) == pytest.approx(2 * 2 - 1 - 1.5)


def test_equal_divisions_are_perfect():
    shared = shared_pixels(QUARTERS, QUARTERS * 5 + 1)
    assert (covering(shared), rand_index(shared), variation_of_information(shared)) == (1.0, 1.0, 0.0)
    assert rand_index(shared_pixels(np.zeros((1, 1), int), np.zeros((1, 1), int))) == 1.0


def test_rand_counts_pairs_and_all_is_symmetric_but_covering():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 3, (6, 7)), rng.integers(0, 5, (6, 7))
    shared = shared_pixels(one, other)
    places = list(itertools.combinations(range(one.size), 2))
    agree = [(one.flat[i] == one.flat[j]) == (other.flat[i] == other.flat[j]) for i, j in places]
    assert rand_index(shared) == pytest.approx(np.mean(agree))
    assert rand_index(shared) == pytest.approx(rand_index(shared.T))
    assert variation_of_information(shared) == pytest.approx(variation_of_information(shared.T))
    assert covering(shared) != covering(shared.T)


def test_each_image_and_each_region_has_its_own_best():
    metric = RegionScores([0.1, 1.0])
    one = np.zeros_like(HALVES)
    metric.update([HALVES, one], [HALVES])
    metric.update([HALVES, one], [one])
    numbers = metric.compute()
    assert (numbers["covering_ois"], numbers["covering_best"], numbers["pri_ois"], numbers["voi_ois"]) == (1, 1, 1, 0)
    assert numbers["covering_ods"] == 0.75
    assert numbers["voi_ods"] == 0.5
    metric.update([HALVES, one], [QUARTERS, QUARTERS])  # the upper half is best met by the whole: 8 / 16
    assert float(metric.covered_at_best[1]) == pytest.approx(32 + 2 * (8 * 0.5 + 8 * 0.5))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="2 and 0"):
        RegionScores([1, 2]).update([HALVES, HALVES], [])
    with pytest.raises(UserError, match="1 and 1"):
        RegionScores([1, 2]).update([HALVES], [HALVES])
    with pytest.raises(UserError, match="label maps of integers"):
        shared_pixels(HALVES.astype(float), HALVES)
    with pytest.raises(UserError, match=r"\(4, 4\) and int64 \(4, 3\)"):
        shared_pixels(HALVES, HALVES[:, 1:])
