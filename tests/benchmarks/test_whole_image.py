from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unsam_lightning.benchmarks.budget import prompt_bytes
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.whole_image import (
    Proposals,
    proposal_recall,
    propose_masks,
    rank_distinct,
    stability,
)
from unsam_lightning.decoder import Decoded, Embedding
from unsam_lightning.model import UnSAM


def row_masks(*spans: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(len(spans), 1, 40, dtype=torch.bool)
    for mask, (start, end) in zip(masks, spans, strict=True):
        mask[0, start:end] = True
    return masks


def test_suppression_by_hand() -> None:
    masks = row_masks((0, 10), (0, 8), (0, 7), (20, 30), (5, 5), (0, 10))
    scores = torch.tensor([0.5, 0.9, 0.4, 0.1, 1.0, 0.6])
    # Best is (0, 8); IoU 0.8 with both (0, 10) and 7/8 with (0, 7): all three go. The empty mask goes, score or not.
    best, ranks, group = rank_distinct(masks, scores, 0.7)
    assert best.tolist() == [1, 3]
    assert ranks.tolist() == pytest.approx([0.9 * 4 / 0.2**0.25, 0.1 / 0.25**0.25])
    assert group.tolist() == [0, 0, 0, 1, -1, 0]
    # Above 0.8 only (0, 7) goes, and (0, 10) with the lower score as a double of the other.
    best, ranks, group = rank_distinct(masks, scores, 0.8)
    assert best.tolist() == [1, 5, 3]
    assert ranks.tolist() == pytest.approx([0.9 * 2 / 0.2**0.25, 0.6 * 2 / 0.25**0.25, 0.1 / 0.25**0.25])
    assert group.tolist() == [1, 0, 0, 2, -1, 1]
    assert rank_distinct(masks, scores, 1.0).best.tolist() == [1, 5, 0, 2, 3]  # nothing is above 1


def test_a_mask_that_many_prompts_give_is_ahead_of_a_better_scored_one() -> None:
    masks = row_masks((20, 30), (0, 10), (0, 10), (0, 10))
    best, _, group = rank_distinct(masks, torch.tensor([0.9, 0.3, 0.4, 0.35]), 0.7)
    assert best.tolist() == [2, 0]  # of the three alike the best-scored stays
    assert group.tolist() == [1, 0, 0, 0]


def test_of_two_masks_found_as_often_the_smaller_is_ahead() -> None:
    assert rank_distinct(row_masks((0, 20), (30, 32)), torch.tensor([0.6, 0.4])).best.tolist() == [1, 0]


def test_only_masks_that_stay_suppress() -> None:
    # A chain: 0 removes 1, so 1 cannot remove 2.
    masks = row_masks((0, 10), (2, 12), (4, 14))
    ranked = rank_distinct(masks, torch.tensor([0.9, 0.8, 0.7]), 0.6)
    assert ranked.best.tolist() == [0, 2]
    assert ranked.group.tolist() == [0, 0, 1]


def test_a_mask_is_in_the_group_of_the_first_that_removes_it() -> None:
    # The third is too near to both of the others, which are not too near to each other (IoU 2/3, 7/13; 1/3).
    masks = row_masks((0, 10), (5, 15), (2, 12))
    ranked = rank_distinct(masks, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    assert ranked.best.tolist() == [0, 1]
    assert ranked.group.tolist() == [0, 1, 0]


def test_equal_scores_keep_the_earlier() -> None:
    masks = row_masks((0, 10), (0, 10), (20, 30))
    assert rank_distinct(masks, torch.ones(3), 0.7).best.tolist() == [0, 2]


def test_a_proposal_is_the_mean_of_its_group() -> None:
    logits = torch.tensor([[3.0, 1.0, -1.0], [3.0, 2.0, -4.0], [-1.0, -1.0, 2.0], [9.0, 1.0, -90.0]]).half()[:, None]
    proposals = Proposals(logits, torch.tensor([0.9, 0.8, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    found = proposals.distinct(0.7)
    # Logits count as far as from -8 to 8.
    means = torch.tensor([[14 / 3, 4 / 3, -13 / 3], [-1.0, -1.0, 2.0]])
    torch.testing.assert_close(found.logits.float()[:, 0], means, atol=2e-3, rtol=0)
    assert found.granularity.tolist() == pytest.approx([0.1, 0.3])
    assert found.scores.tolist() == pytest.approx([0.9 * 3 / (2 / 3) ** 0.25, 0.5 / (1 / 3) ** 0.25])
    assert torch.equal(proposals.distinct(0.7, 1).logits, found.logits[:1])


def test_a_proposal_without_a_pixel_in_the_mean_is_its_best() -> None:
    logits = torch.tensor([[1.0, 1.0, -8.0], [1.0, 1.0, -8.0], [1.0, -8.0, -8.0], [-8.0, 1.0, -8.0]]).half()[:, None]
    found = Proposals(logits, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4)).distinct(0.4)
    assert found.logits[:, 0].tolist() == [[1.0, 1.0, -8.0]]


def test_stability_by_hand() -> None:
    mask = torch.tensor([[[3.0, 0.5, -0.5, -3.0]], [[-3.0, -3.0, -3.0, -3.0]], [[2.0, 2.0, -2.0, -2.0]]])
    # Above 1: one pixel; above -1: three. Nothing at all: 0. The same at both thresholds: 1.
    assert stability(mask).tolist() == pytest.approx([1 / 3, 0.0, 1.0])


def test_nothing_stays_of_nothing() -> None:
    assert rank_distinct(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0), 0.7).best.tolist() == []
    assert rank_distinct(torch.zeros(3, 4, 4, dtype=torch.bool), torch.ones(3), 0.7).best.tolist() == []


def test_suppression_equals_the_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(120, 2, generator=generator) * 30
    sizes = 4 + 8 * torch.rand(120, generator=generator)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    masks = ((y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2) < sizes[:, None, None] ** 2
    scores = torch.rand(120, generator=generator)
    members: dict[int, int] = {}
    for n in scores.argsort(descending=True).tolist():
        near = [k for k in members if (masks[n] & masks[k]).sum() > 0.5 * (masks[n] | masks[k]).sum()]
        kept = near[0] if near else n
        members[kept] = members.get(kept, 0) + 1
    best = sorted(members, key=lambda n: -float(scores[n]) * members[n] / float(masks[n].float().mean()) ** 0.25)
    assert rank_distinct(masks, scores, 0.5).best.tolist() == best
    assert 10 < len(best) < 110


@pytest.mark.parametrize(("area", "kept"), [(1402, [0]), (1398, [0, 1])])
def test_areas_are_exact_inside_autocast(area: int, kept: list[int]) -> None:
    masks = torch.zeros(2, 1, 4000, dtype=torch.bool)
    masks[0, 0, :2000], masks[1, 0, :area] = True, True  # IoU 0.701 and 0.699
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rank_distinct(masks, torch.tensor([0.9, 0.8]), 0.7).best.tolist() == kept


@pytest.fixture(scope="module")
def nano() -> tuple[UnSAM, Embedding]:
    model = UnSAM.from_pretrained("nano")
    image = torch.randint(0, 256, (1, 3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return model, model.encode(image)


@pytest.mark.parametrize("granularities", [None, (0.2, 0.9)])
def test_proposals_are_sorted_distinct_and_not_empty(
    nano: tuple[UnSAM, Embedding], granularities: tuple[float, ...] | None
) -> None:
    candidates = propose_masks(*nano, granularities=granularities, points_per_side=4)
    assert candidates.granularity.unique().tolist() == ([0] if granularities is None else pytest.approx(granularities))
    proposals = candidates.distinct(max_iou=0.6)
    assert 0 < len(proposals.logits) == len(proposals.scores) <= 16 * (3 if granularities is None else 2)
    assert proposals.logits.shape[1:] == (64, 64)
    assert (proposals.scores.diff() <= 0).all()
    assert (proposals.logits > 0).flatten(1).any(1).all()
    best = rank_distinct(candidates.logits > 0, candidates.scores, 0.6).best
    masks = (candidates.logits[best] > 0).flatten(1).float()
    assert len(masks) == len(proposals.logits)
    shared = masks @ masks.T
    iou = shared / (masks.sum(1)[:, None] + masks.sum(1) - shared) - torch.eye(len(masks))
    assert iou.max() <= 0.6
    fewer = candidates.distinct(max_iou=0.6, max_masks=2)
    assert torch.equal(fewer.logits, proposals.logits[:2])
    in_parts = propose_masks(
        *nano, granularities=granularities, points_per_side=4, memory_gb=5 * prompt_bytes(nano[0], 0, 0) / 1e9
    )
    torch.testing.assert_close(in_parts.scores, candidates.scores, atol=2e-3, rtol=0)


EMPTY = Embedding(torch.zeros(1, 8, 4, 4), (torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 8, 8)))


class Recorder:
    """Notes what it is asked; answers with a mask of one pixel of its own for each prompt."""

    image_size, mask_size, device = 64, 16, torch.device("cpu")
    sam = SimpleNamespace(sam_mask_decoder=SimpleNamespace(transformer_dim=8))

    def __init__(self) -> None:
        self.asked: list[tuple[float, ...]] = []

    def decode(
        self, embedding: Any, points: torch.Tensor, labels: torch.Tensor, granularity: Any, masks: Any, multimask: bool
    ) -> Decoded:
        assert masks is None
        assert (labels == 1).all()
        assert multimask == (granularity is None)
        wanted = [None] * len(points) if granularity is None else np.round(granularity.tolist(), 3).tolist()
        first = len(self.asked)
        self.asked += [(*map(float, point[0]), g) for point, g in zip(points, wanted, strict=True)]
        masks = torch.full((len(points), 3 if multimask else 1, 16, 16), -1.0)
        for p in range(len(points)):
            for m in range(masks.shape[1]):
                masks[p, m].view(-1)[3 * (first + p) + m] = 1.0
        return Decoded(masks, masks.mean((2, 3)), masks[:, 0], masks[:, 0], None)


def test_every_point_is_asked_at_every_granularity() -> None:
    model = Recorder()
    proposals = propose_masks(
        model, EMPTY, granularities=(0.1, 0.5, 1.0), points_per_side=2, memory_gb=5 * prompt_bytes(model, 0, 0) / 1e9
    )
    assert sorted(model.asked) == sorted((x, y, g) for x in (16, 48) for y in (16, 48) for g in (0.1, 0.5, 1.0))
    assert len(proposals.scores) == 12
    assert [round(g, 3) for *_, g in model.asked] == pytest.approx(proposals.granularity.tolist())
    stock = Recorder()
    proposals = propose_masks(stock, EMPTY, granularities=None, points_per_side=2)
    assert sorted(point[:2] for point in stock.asked) == [(16, 16), (16, 48), (48, 16), (48, 48)]
    assert len(proposals.scores) == 12
    one = Recorder()
    propose_masks(one, EMPTY, granularities=(0.3,), points_per_side=1)
    assert one.asked == [(32, 32, 0.3)]


def test_stability_ranks_on_demand(nano: tuple[UnSAM, Embedding]) -> None:
    plain, ranked = (propose_masks(*nano, points_per_side=2, stability_power=power) for power in (0.0, 2.0))
    expected = plain.scores * stability(plain.logits) ** 2
    torch.testing.assert_close(ranked.scores, expected, atol=2e-3, rtol=0)
    assert not torch.equal(ranked.scores, plain.scores)


def test_recall_of_proposals() -> None:
    masks = np.zeros((2, 16, 16), dtype=np.int8)
    masks[0, :8, :8], masks[1, 9:, 9:] = 1, 1
    sample = EvalSample(key="k", image=np.zeros((16, 16, 3), np.uint8), masks=masks, ids=["a", "b"])
    logits = torch.from_numpy(np.where(masks == 1, 1.0, -1.0)).float()
    perfect = proposal_recall(Proposals(logits, torch.tensor([0.9, 0.8]), torch.ones(2)), sample).compute()
    assert (perfect["AR@1"], perfect["AR@1000"]) == (0.5, 1.0)
    half = proposal_recall(Proposals(logits[:1], torch.tensor([0.9]), torch.ones(1)), sample).compute()
    assert half["AR@1000"] == 0.5
    none = proposal_recall(Proposals(logits[:0], torch.zeros(0), torch.zeros(0)), sample).compute()
    assert none["AR@1000"] == 0.0
