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
    """Eight objects of four images, equal in each: as uncertain as four numbers."""
    four = np.array([0.0, 1.0, 2.0, 3.0])
    of_images = bootstrap_mean(four, list("abcd"))
    assert bootstrap_mean(np.repeat(four, 2), list("aabbccdd")) == pytest.approx(of_images)
    as_if_independent = bootstrap_mean(np.repeat(four, 2), list("abcdefgh"))
    assert as_if_independent.high - as_if_independent.low < of_images.high - of_images.low


def test_images_weigh_by_their_objects() -> None:
    found = bootstrap_mean([1.0, 1.0, 1.0, 4.0], list("aaab"))
    assert found.mean == 1.75
    assert (found.low, found.high) == (1.0, 4.0)


def test_one_image_has_no_spread() -> None:
    assert bootstrap_mean([1.0, 2.0], ["a", "a"]) == (1.5, 1.5, 1.5)
