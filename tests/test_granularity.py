from pathlib import Path

import numpy as np
import pytest
import torch

from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP, check_granularity, granularity_scores, tenths


def test_equals_the_official_formula(shared: Path) -> None:
    golden = np.load(shared / "golden" / "divide_conquer" / "divide_conquer.npz")
    cases = sorted({key.split("/")[0] for key in golden if key.startswith("granularity")})
    assert cases
    for case in cases:
        scores = granularity_scores(golden[f"{case}/areas"])
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, golden[f"{case}/scores"], rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # sides 1, 2, 5, 10: (side - 1) / 9 * 0.9 + 0.1
    np.testing.assert_allclose(granularity_scores([1, 4, 25, 100]), [0.1, 0.2, 0.5, 1.0], atol=1e-9)


@pytest.mark.parametrize("areas", [[7], [3, 3, 3], [0], [0, 0]])
def test_equal_areas_are_the_whole(areas: list[int]) -> None:
    assert granularity_scores(areas).tolist() == [1.0] * len(areas)


def test_no_masks_have_no_scores() -> None:
    assert granularity_scores([]).shape == (0,)


def test_order_range_and_scale() -> None:
    areas = np.random.default_rng(0).integers(1, 10_000, 50)
    scores = granularity_scores(areas)
    assert scores.min() == pytest.approx(0.1)
    assert scores.max() == pytest.approx(1.0)
    assert (np.argsort(scores, kind="stable") == np.argsort(areas, kind="stable")).all()
    shuffle = np.random.default_rng(1).permutation(50)
    assert (granularity_scores(areas[shuffle]) == scores[shuffle]).all()
    np.testing.assert_allclose(granularity_scores(areas * 16), scores, atol=1e-6)  # an image of four times the side


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_tenths_by_hand(kind: type) -> None:
    found = tenths(np.array([0.1, 0.18, 0.2, 0.54, 0.56, 0.92, 1.0], kind))
    assert found.tolist() == [0, 0, 1, 4, 5, 9, 9]
    assert found.dtype == np.int64


def test_sweep_is_the_fields() -> None:
    assert SWEEP == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@pytest.mark.parametrize("value", [0.1, 1.0, 1, torch.tensor(0.1), torch.tensor([0.1, 1.0]).bfloat16(), torch.zeros(0)])
def test_valid_granularities_pass(value: float) -> None:
    check_granularity(value)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (0.0, "0"),
        (1.5, "1.5"),
        (-1, "-1"),
        (float("nan"), "nan"),
        (torch.tensor([0.5, 0.05]), "0.05"),
        (torch.tensor([0.5, 2.0]), "2"),
        (torch.tensor([float("nan"), 0.5]), "nan"),
    ],
)
def test_other_granularities_are_refused_and_named(value: float, named: str) -> None:
    with pytest.raises(UserError, match=rf"\[0\.1, 1\.0\]; found {named};"):
        check_granularity(value)
