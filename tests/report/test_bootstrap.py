import numpy as np
import pytest

from unsam_lightning.report.bootstrap import bootstrap_mean


def test_interval_of_independent_images_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = bootstrap_mean(values, [str(n) for n in range(400)])
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.15 * half)


def test_objects_of_one_image_count_once() -> None:
    """Two equal objects in each of twelve images: as uncertain as twelve numbers."""
    twelve, names = np.arange(12.0), [f"{n:02}" for n in range(12)]
    of_images = bootstrap_mean(twelve, names)
    assert bootstrap_mean(np.repeat(twelve, 2), np.repeat(names, 2).tolist()) == pytest.approx(of_images)
    as_if_independent = bootstrap_mean(np.repeat(twelve, 2), [f"{n:02}" for n in range(24)])
    assert as_if_independent.high - as_if_independent.low < of_images.high - of_images.low


def test_images_weigh_by_their_objects() -> None:
    names = list("abcdefghij")
    assert bootstrap_mean([1.0] * 18 + [4.0], names[:9] * 2 + names[9:]).mean == pytest.approx(22 / 19)
    assert bootstrap_mean([2.0] * 19, names[:9] * 2 + names[9:]) == (2.0, 2.0, 2.0)


def test_few_images_have_no_interval() -> None:
    """All draws of one image are that image: an interval of no width would call every difference certain."""
    for count, has_interval in ((1, False), (9, False), (10, True)):
        mean, low, high = bootstrap_mean(range(20), [str(n % count) for n in range(20)])
        assert mean == 9.5
        assert (low < mean < high) == has_interval
        assert np.isnan([low, high]).all() != has_interval
