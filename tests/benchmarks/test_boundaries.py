import numpy as np
import pytest
import torch

from unsam_lightning.benchmarks.boundaries import annotators_boundaries, boundary_counts, proposals_boundaries
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.whole_image import Proposals
from unsam_lightning.granularity import SWEEP


def halves(column: int) -> np.ndarray:
    """Two masks that part 16 x 16 pixels at a column."""
    masks = np.zeros((2, 16, 16), dtype=np.int8)
    masks[0, :, :column], masks[1, :, column:] = 1, 1
    return masks


def sample_of(masks: np.ndarray, ids: list[str]) -> EvalSample:
    return EvalSample(key="k", image=np.zeros((16, 16, 3), np.uint8), masks=masks, ids=ids)


IDS = ["annotator0/segment1", "annotator0/segment2", "annotator1/segment1", "annotator1/segment2"]


def test_annotators_boundaries_by_hand() -> None:
    found = annotators_boundaries(sample_of(np.concatenate([halves(8), halves(5)]), IDS))
    assert [np.flatnonzero(one.any(0)).tolist() for one in found] == [[7], [4]]
    assert all(one[:15].any(1).all() for one in found)


def test_other_data_sets_and_drawn_masks_have_none() -> None:
    assert annotators_boundaries(sample_of(halves(8), ["a", "b"])) == []
    assert annotators_boundaries(sample_of(halves(8)[:1], IDS[:1])) == []
    assert annotators_boundaries(sample_of(halves(8)[:0], [])) == []


def test_fine_masks_are_painted_over_coarse_ones() -> None:
    masks = np.zeros((2, 16, 16), dtype=bool)
    masks[0, 4:8, 4:8], masks[1, :, :12] = True, True
    proposals = Proposals(torch.from_numpy(np.where(masks, 1.0, -1.0)), torch.tensor([0.5, 0.9]), torch.ones(2))
    edges = proposals_boundaries(proposals, 16, 16, 10)
    assert np.flatnonzero(edges[12]).tolist() == [11]
    assert np.flatnonzero(edges[5]).tolist() == [3, 7, 11]
    assert not proposals_boundaries(proposals, 16, 16, 1)[5, 7]  # only the better one


def test_the_right_granularity_is_found() -> None:
    """At g = 0.5 the proposals part the image as the annotator does, elsewhere far off."""
    logits, granularity = [], []
    for g in SWEEP:
        logits.append(np.where(halves(8 if g == 0.5 else 1)[:1] == 1, 1.0, -1.0))
        granularity.append(g)
    proposals = Proposals(torch.from_numpy(np.concatenate(logits)), torch.ones(10), torch.tensor(granularity))
    base = proposals.select(torch.tensor([4]))  # of the stock model, that of g = 0.5 alone
    metrics = boundary_counts(proposals, base, sample_of(halves(8), IDS[:2]))
    found = metrics["tuned"].compute()
    assert (found["ods_f"], found["ois_f"]) == pytest.approx((1.0, 1.0))
    assert found["ods_threshold"] == pytest.approx(0.5)
    assert metrics["base"].compute()["ods_f"] == pytest.approx(1.0)
    assert boundary_counts(proposals, base, sample_of(halves(8), ["a", "b"])) == {}


def test_the_base_paints_fewer_masks_for_a_coarser_granularity() -> None:
    """Ten masks part the image where the annotator does; the 90 after them at every other column."""
    columns = [8] * 10 + [1 + 2 * (n % 7) for n in range(90)]
    logits = np.stack([np.where(halves(column)[0] == 1, 1.0, -1.0) for column in columns])
    # Each a little different, so that none is suppressed as a duplicate of another.
    for n, mask in enumerate(logits):
        mask[n % 16, :] = -mask[n % 16, :]
    base = Proposals(torch.from_numpy(logits), torch.linspace(1, 0, 100), torch.ones(100))
    metric = boundary_counts(base, base, sample_of(halves(8), IDS[:2]))["base"]
    painted = [proposals_boundaries(base, 16, 16, round(10 / g)).sum() for g in SWEEP]
    assert painted[0] >= painted[-1] > 0
    assert metric.compute()["ods_threshold"] > 0.1
