import numpy as np
import pytest

from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP, granularity_scores
from unsam_lightning.metrics.dial import Dial, effective_granularity, nesting
from unsam_lightning.pseudo_labels.overlap import intersections


def square(side, corner=0, size=100):
    mask = np.zeros((size, size), dtype=bool)
    mask[corner : corner + side, corner : corner + side] = True
    return mask


def squares(*sides):
    return np.stack([square(side) for side in sides])


def measured(masks, *args, granularities=None, **options):
    metric = Dial(np.linspace(0.1, 1, len(masks)).round(6) if granularities is None else granularities, **options)
    metric.update(masks, *args)
    return metric.compute()


def test_effective_granularity_is_the_paper_s_formula():
    areas = [100, 400, 900, 10_000]
    np.testing.assert_allclose(effective_granularity(areas), granularity_scores(areas), atol=1e-12)
    # In a hierarchy from 10 x 10 to 50 x 50: a side of 30 is half way, smaller and larger ones are at the ends.
    found = effective_granularity([900, 25, 0, 2500, 9000], smallest_px=100, whole_px=2500)
    np.testing.assert_allclose(found, [0.55, 0.1, 0.1, 1.0, 1.0], atol=1e-9)


def test_effective_granularity_at_its_ends():
    np.testing.assert_array_equal(effective_granularity([50, 50, 50]), [1.0] * 3)
    np.testing.assert_allclose(effective_granularity([0, 100, 400]), [0.1, 0.1, 1.0])  # an empty mask is no hierarchy's
    assert np.isnan(effective_granularity([0, 0])).all()
    for hierarchy in ((0, 10), (20, 10)):
        with pytest.raises(UserError, match="a hierarchy from"):
            effective_granularity([5], *hierarchy)


def test_a_perfect_dial():
    sides = [10 + 10 * k for k in range(10)]  # linear in the side: exactly the granularities asked for
    levels = squares(100, 10, 50)
    numbers = measured(squares(*sides), levels, squares(*sides), granularities=SWEEP)
    assert numbers.pop("num_sweeps") == 1
    zeros = ["empty", "calibration_error", "calibration_bias", "object_calibration_error"]
    for name in zeros:
        assert numbers.pop(name) == pytest.approx(0, abs=1e-9)
    for g in SWEEP:
        assert numbers.pop(f"effective_at_{g:g}") == pytest.approx(g)
    # The levels have 0.1, 0.5 and 1.0: what is asked for lies at most 0.2 from one of them.
    assert numbers.pop("object_calibration_floor") == pytest.approx(np.mean([0, 1, 2, 1, 0, 1, 2, 2, 1, 0]) / 10)
    assert set(numbers.values()) == {1.0}


def test_a_dial_that_stands_still():
    masks = np.stack([square(50)] * 10)
    numbers = measured(masks, None, masks, granularities=SWEEP)
    assert [numbers[k] for k in ("monotone_sweeps", "monotone_steps", "nesting", "stability")] == [1.0] * 4
    assert numbers["rising_steps"] == 0
    assert numbers["calibration_error"] == numbers["calibration_bias"] == pytest.approx(0.45)
    assert np.isnan([numbers["coverage50"], numbers["recall90_fine"], numbers["object_calibration_error"]]).all()


def test_monotonicity_by_hand():
    numbers = measured(squares(10, 20, 15, 15, 30))  # rises, falls, stays, rises
    assert (numbers["monotone_sweeps"], numbers["monotone_steps"], numbers["rising_steps"]) == (0, 0.75, 0.5)
    metric = Dial([0.1, 1.0])
    metric.update(squares(10, 20))
    metric.update(squares(20, 10))
    assert metric.compute()["monotone_sweeps"] == 0.5


def test_nesting_by_hand():
    masks = np.stack([square(10), square(10, corner=5), square(20)])
    # 25 of 100 pixels in the second, all in the third; all of the second in the third.
    assert nesting(intersections(masks)) == pytest.approx((0.25 + 1 + 1) / 3)
    assert nesting(intersections(masks[::-1])) == pytest.approx((0.25 + 0.25 + 0.25) / 3)
    with_empty = np.stack([square(0), square(10), square(0)])
    assert nesting(intersections(with_empty)) == 0.0  # the pair of the second and the third alone
    assert np.isnan(nesting(intersections(with_empty[[0, 0]])))


def test_coverage_is_by_any_granularity_and_recall_by_the_level_s_own():
    # The right masks at the wrong granularities: 0.1 gives the whole, 1.0 the finest.
    masks, levels = squares(50, 30, 10), squares(10, 30, 50)
    numbers = measured(masks, levels, granularities=(0.1, 0.55, 1.0))
    assert [numbers[f"coverage90{kind}"] for kind in ("", "_fine", "_medium", "_coarse")] == [1.0] * 4
    assert [numbers[f"recall90{kind}"] for kind in ("_fine", "_medium", "_coarse")] == [0.0, 1.0, 0.0]
    assert numbers["recall90"] == pytest.approx(1 / 3)
    assert numbers["object_calibration_error"] == pytest.approx((0.9 + 0 + 0.9) / 3)
    assert numbers["calibration_bias"] == pytest.approx(0)


def test_levels_begin_at_their_granularity():
    masks, levels = squares(10, 30, 80, 100), squares(10, 29, 30, 79, 80, 100)
    numbers = measured(masks, levels, granularities=(0.1, 0.3, 0.8, 1.0))
    # fine: 10 and 29 (0.29); medium: 30 (0.3) and 79; coarse: 80 (0.8) and 100.
    exact = measured(masks, levels, granularities=(0.1, 0.3, 0.8, 1.0), thresholds=(0.99,))
    assert [exact[f"coverage99_{kind}"] for kind in ("fine", "medium", "coarse")] == [0.5, 0.5, 1.0]
    assert numbers["coverage90"] == 1.0


def test_thresholds_are_inclusive():
    masks = np.stack([square(10), square(10)])
    level = square(10)
    level[0, :] = False  # IoU 0.9
    numbers = measured(masks, level[None], thresholds=(0.9, 0.95))
    assert (numbers["coverage90"], numbers["coverage95"]) == (1.0, 0.0)
    assert numbers["coverage90_coarse"] == 1.0  # a single level is its object
    assert np.isnan([numbers["coverage90_fine"], numbers["object_calibration_error"]]).all()


def test_recall_asks_for_the_finer_of_two_equally_near_granularities():
    # Levels of sides 10, 25, 30 have 0.1, 0.775 and 1.0; 25 lies half way between 0.65 and 0.9.
    levels = squares(10, 25, 30)
    assert granularity_scores([100, 625, 900])[1] == pytest.approx(0.775)
    numbers = measured(squares(10, 25, 30), levels, granularities=(0.1, 0.65, 0.9))
    assert numbers["recall90_medium"] == 1.0
    assert measured(squares(10, 30, 25), levels, granularities=(0.1, 0.65, 0.9))["recall90_medium"] == 0.0


def test_stability_by_hand():
    masks, moved = np.stack([square(10), square(0)]), np.stack([square(10, corner=5), square(0)])
    assert measured(masks, None, moved)["stability"] == pytest.approx(25 / 175)  # two empty masks do not count
    assert measured(masks, None, masks[::-1])["stability"] == 0.0


def test_empty_masks_are_told():
    numbers = measured(squares(0, 0))
    assert numbers["empty"] == 1.0
    assert np.isnan([numbers["calibration_error"], numbers["nesting"]]).all()
    assert measured(squares(0, 10), squares(10))["empty"] == 0.5


def test_sweeps_and_levels_of_all_clicks_are_averaged():
    metric = Dial([0.1, 1.0], thresholds=(0.5,))
    metric.update(squares(10, 50), squares(10, 30, 50))
    metric.update(squares(20, 20), squares(40))
    numbers = metric.compute()
    assert numbers["num_sweeps"] == 2
    assert numbers["coverage50"] == 2 / 4
    assert numbers["effective_at_0.1"] == pytest.approx((0.1 + 1.0) / 2)


def test_what_does_not_fit_is_refused():
    metric = Dial([0.1, 1.0])
    with pytest.raises(UserError, match="2 for each sweep; found bool"):
        metric.update(squares(1, 2, 3))
    with pytest.raises(UserError, match="float64"):
        metric.update(squares(1, 2).astype(float))
    with pytest.raises(UserError, match=r"bool \(2, 100, 100\), bool \(1, 9, 9\)"):
        metric.update(squares(1, 2), np.ones((1, 9, 9), dtype=bool))
    with pytest.raises(UserError, match="1 empty ones of 2"):
        metric.update(squares(1, 2), squares(3, 0))
    for granularities in ((0.5,), (0.5, 0.1), (0.5, 0.5)):
        with pytest.raises(UserError, match="ascending"):
            Dial(granularities)
