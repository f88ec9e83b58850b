import dataclasses

import numpy as np
import pytest
import torch

from unsam_lightning.benchmarks.boundaries import STRENGTHS, annotators_boundaries, boundary_counts
from unsam_lightning.benchmarks.evaluate import ImageResult
from unsam_lightning.benchmarks.printing import print_boundaries
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.tables import boundary_numbers
from unsam_lightning.benchmarks.whole_image import Proposals


def halves(column: int, side: int = 16) -> np.ndarray:
    """Two masks that part a square of pixels at a column."""
    masks = np.zeros((2, side, side), dtype=np.int8)
    masks[0, :, :column], masks[1, :, column:] = 1, 1
    return masks


def sample_of(masks: np.ndarray, ids: list[str]) -> EvalSample:
    return EvalSample(key="k", image=np.zeros((*masks.shape[1:], 3), np.uint8), masks=masks, ids=ids)


IDS = ["annotator0/segment1", "annotator0/segment2", "annotator1/segment1", "annotator1/segment2"]


def test_annotators_boundaries_by_hand() -> None:
    found = annotators_boundaries(sample_of(np.concatenate([halves(8), halves(5)]), IDS))
    assert [np.flatnonzero(one.any(0)).tolist() for one in found] == [[7], [4]]
    assert all(one[:15].any(1).all() for one in found)


def test_other_data_sets_and_drawn_masks_have_none() -> None:
    assert annotators_boundaries(sample_of(halves(8), ["a", "b"])) == []
    assert annotators_boundaries(sample_of(halves(8)[:1], IDS[:1])) == []
    assert annotators_boundaries(sample_of(halves(8)[:0], [])) == []


def test_a_draw_that_left_out_a_whole_annotator_is_no_segmentation() -> None:
    both = np.concatenate([halves(8), halves(5)])
    first = dataclasses.replace(sample_of(halves(8), IDS[:2]), drawn_from=both)
    assert annotators_boundaries(first) == []
    assert len(annotators_boundaries(dataclasses.replace(sample_of(both, IDS), drawn_from=both))) == 2


def test_outline_of_a_region_that_the_reader_left_out_is_a_boundary() -> None:
    masks = halves(8, 32)
    masks[0, 10:14, 2:6] = 0
    (found,) = annotators_boundaries(sample_of(masks, IDS[:2]))
    around = found[:, :7]
    assert np.flatnonzero(around.any(0)).tolist() == [1, 2, 3, 4, 5]
    assert np.flatnonzero(around.any(1)).tolist() == [9, 10, 11, 12, 13]
    assert not around[10:13, 2:5].any()


def proposals_of(masks: np.ndarray) -> Proposals:
    logits = torch.from_numpy(np.where(masks == 1, 5.0, -5.0))
    return Proposals(logits, torch.ones(len(masks)), torch.zeros(len(masks)))


def quarters() -> np.ndarray:
    masks = np.concatenate([halves(8, 32), halves(24, 32)])
    masks[1, :, 16:], masks[2, :, :16] = 0, 0
    return masks


#: Halves and quarters: the line in the middle has strength 4 / (2 * 2.12) = 0.94, the other two 0.47.
TUNED = proposals_of(np.concatenate([halves(16, 32), quarters()]))
BASE = proposals_of(halves(6, 32))


def test_the_right_strength_is_found() -> None:
    metrics = boundary_counts({"tuned": TUNED, "base": BASE}, sample_of(halves(16, 32), IDS[:2]))
    found = metrics["tuned"].compute()
    assert (found["ods_f"], found["ois_f"]) == pytest.approx((1.0, 1.0))
    assert found["ods_threshold"] == pytest.approx(0.49)
    of_strength = dict(zip(STRENGTHS, metrics["tuned"].total.tolist(), strict=True))
    assert {0.0025: [32, 32, 32, 96], 0.49: [32, 32, 32, 32]}.items() <= {
        round(strength, 4): counts for strength, counts in of_strength.items()
    }.items()
    assert metrics["base"].compute()["ods_f"] == 0.0


def test_one_rule_for_both_models() -> None:
    metrics = boundary_counts({"tuned": TUNED, "base": TUNED}, sample_of(halves(16, 32), IDS[:2]))
    assert metrics["base"].compute() == metrics["tuned"].compute()
    assert boundary_counts({"tuned": TUNED, "base": BASE}, sample_of(halves(16, 32), ["a", "b"])) == {}


def test_states_of_images_add_up_to_the_reported_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for index, column in enumerate((16, 8)):
        metrics = boundary_counts({"tuned": TUNED, "base": BASE}, sample_of(halves(column, 32), IDS[:2]))
        states = {
            model: {key: value.tolist() for key, value in one.metric_state.items()} for model, one in metrics.items()
        }
        results.append(ImageResult(dataset="set", index=index, key="k", num_masks=2, sessions=[], boundaries=states))
    without = ImageResult(dataset="set", index=2, key="k", num_masks=2, sessions=[])
    numbers = boundary_numbers([*results, without])["set"]["tuned"]
    assert numbers["num_images"] == 2
    print_boundaries({"set": {"tuned": numbers}})
    assert capsys.readouterr().out.startswith("set: boundaries in 2 images, tuned: ods_f 53.6 %")
    # The first image is best at its strong line, 32 of 32 pixels, the second at all three, 32 of 96.
    assert (numbers["ois_precision"], numbers["ois_recall"]) == pytest.approx((0.5, 1.0))
    # All lines: precision 1/3 and recall 1; the strong line: 1/2 and 1/2. F is highest between the two.
    assert numbers["ods_f"] == pytest.approx(0.5359, abs=1e-3)
    assert 0.42 < numbers["ods_threshold"] < 0.49
