"""The objective as a whole: bounded memory changes nothing but the memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from unsam_lightning import asking
from unsam_lightning.asking import Prompting, shared_clicks
from unsam_lightning.benchmarks.step_memory import ALL_TERMS
from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM
from unsam_lightning.objective import LossWeights, training_objective
from unsam_lightning.views import View, ViewPair


def views() -> ViewPair:
    """Two views of two images, the second the first one mirrored, with discs as masks."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    centres = torch.randint(12, 52, (2, 5, 2), generator=generator)
    radius = torch.randint(5, 12, (2, 5), generator=generator)[..., None, None]
    masks = (y - centres[..., :1, None]) ** 2 + (x - centres[..., 1:, None]) ** 2 < radius**2
    images = torch.rand(2, 3, 256, 256, generator=generator)
    mirror = torch.tensor([[-1.0, 0.0, 255.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).expand(2, 3, 3)
    everywhere = torch.ones(2, 64, 64, dtype=torch.bool)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    first = View(images=images, masks=masks, valid=valid, seen=everywhere, matrix=torch.eye(3).expand(2, 3, 3))
    second = View(images=images.flip(-1), masks=masks.flip(-1), valid=valid, seen=everywhere, matrix=mirror)
    granularity = torch.rand(2, 5, generator=generator) * 0.9 + 0.1
    click_from = torch.arange(5).repeat(2, 1)
    return ViewPair(first=first, second=second, granularity=granularity, click_from=click_from, keys=["a", "b"], seed=0)


def step(prompts_per_pass: int | None) -> tuple[float, dict[str, torch.Tensor], list[int]]:
    """Return loss, gradients and the sizes of all decoder passes."""
    model = UnSAM.from_pretrained("nano", seed=1).train()
    sizes: list[int] = []
    model.decoder.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[2])))
    torch.manual_seed(0)
    result = training_objective(
        model, views(), ALL_TERMS, Prompting(num_corrections=2, prompts_per_pass=prompts_per_pass)
    )
    torch.autograd.backward(result.loss)
    return result.loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, sizes


def test_a_pass_computed_again_draws_the_same_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch keeps the random state of a GPU only where a tensor among the arguments lies on it.
    seen: list[bool] = []

    def spy(function: Any, *args: Any, **options: Any) -> Any:
        seen.append(any(isinstance(each, torch.Tensor) for each in args) and options == {"use_reentrant": False})
        return checkpoint(function, *args, **options)

    monkeypatch.setattr(asking, "checkpoint", spy)
    step(3)
    assert seen
    assert all(seen)


def test_passes_give_the_same_loss_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    # Dropout draws other numbers in other passes; without it both are the same mathematics.
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda _self, x: x)
    whole, expected, all_at_once = step(None)
    parts, gradients, few = step(3)
    assert max(all_at_once) == 8
    assert max(few) == 3
    assert len(few) == 2 * 4 * 3  # forward and again, four answers, three parts
    assert parts == pytest.approx(whole, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-3, atol=1e-5 + 1e-3 * float(expected[name].abs().max())
        )


def test_no_prompt_a_pass_is_refused() -> None:
    with pytest.raises(UserError, match=r"prompts_per_pass from 1 on; found prompts_per_pass 0"):
        Prompting(prompts_per_pass=0)


def test_the_first_answer_can_count_for_more() -> None:
    losses = torch.tensor([3.0, 1.0, 2.0])
    assert Prompting(num_corrections=2).mean(losses) == 2.0
    assert Prompting(num_corrections=2, first_share=0.5).mean(losses) == 0.5 * 3.0 + 0.5 * 1.5
    assert Prompting(num_corrections=0, first_share=0.5).mean(losses[:1]) == 3.0
    with pytest.raises(UserError, match=r"first_share 1\.5"):
        Prompting(first_share=1.5)


def test_masks_that_share_a_click_are_asked_by_the_very_same() -> None:
    pair = views()
    pair.first.masks[0, 1] |= pair.first.masks[0, 0]  # mask 1 holds mask 0, and takes its click
    pair.click_from[0, 1] = 0
    pair.click_from[1, 4] = 3  # not valid in either
    pair.click_from[0, 2] = 3  # says it holds mask 3, and does not: it gets a click of its own
    pair.first.masks[0, 3] &= ~pair.first.masks[0, 2]
    valid = pair.valid
    for seed in range(5):
        clicks, numbers = shared_clicks(pair, valid, "uniform", torch.Generator().manual_seed(seed))
        clicks = clicks[:, 0]
        assert clicks.shape == (8, 2)
        assert numbers.tolist() == [0, 0, 2, 3, 4, 5, 6, 7]  # the order term compares those that share, and no others
        assert torch.equal(clicks[0], clicks[1])
        cell = (clicks / 4).long()
        masks = pair.first.masks[valid]
        assert masks[torch.arange(8), cell[:, 1], cell[:, 0]].all()
        assert not torch.equal(clicks[2], clicks[3])


@pytest.mark.parametrize("box_share", [0.0, 1.0])
def test_boxes_and_the_order_term_take_part(box_share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = views()
    pair.first.masks[0, 1] |= pair.first.masks[0, 0]
    pair.click_from[0, 1] = 0
    model = UnSAM.from_pretrained("nano", seed=1).eval()
    kinds = []
    decode = model.decode

    def watched(embedding: object, points: torch.Tensor, labels: torch.Tensor, *rest: object, **more: object) -> object:
        kinds.append(labels.tolist()[0])
        return decode(embedding, points, labels, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "decode", watched)
    weights = LossWeights(order=1.0, consistency=0.5)
    result = training_objective(model, pair, weights, Prompting(num_corrections=1, box_share=box_share))
    first = [2, 3] if box_share else [1]
    assert kinds[0] == first
    assert kinds[1][:-1] == first  # the correction adds a click
    assert kinds[2] == first  # the second view
    order = float(result.terms["loss_order"])
    assert order == 0 if box_share else 0 < order < 1  # boxes share no click
    assert all(bool(torch.isfinite(value)) for value in result.terms.values())


def test_what_weighs_nothing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = UnSAM.from_pretrained("nano", seed=1).eval()
    calls: list[str] = []
    model.sam.image_encoder.register_forward_pre_hook(lambda _module, args: calls.append(f"encode {len(args[0])}"))
    model.decoder.register_forward_pre_hook(lambda _module, args: calls.append("decode"))
    pair, practice = views(), Prompting(num_corrections=3)
    everything = training_objective(model, pair, ALL_TERMS, practice)
    assert calls == ["encode 4", *["decode"] * 5]  # the first view's four answers, the second view's one
    one_view = replace(pair, second=None)
    for weights, prompting, passes in (
        (LossWeights(), practice, 4),
        (LossWeights(), replace(practice, first_share=1.0), 1),
        (LossWeights(focal=0, dice=0, iou=0, contrast=0.1), practice, 1),
    ):
        calls.clear()
        terms = training_objective(model, one_view, weights, prompting).terms
        assert calls == ["encode 2", *["decode"] * passes]
        assert "loss_consistency" not in terms
        assert ("loss_contrast" in terms) == (weights.contrast > 0)
    assert {"loss_consistency", "loss_contrast"} <= everything.terms.keys()


def test_only_corrections_that_count_are_learnt_from() -> None:
    model, pair, weights = UnSAM.from_pretrained("nano", seed=1).eval(), views(), LossWeights()
    few = Prompting(num_corrections=4, counted_corrections=1, first_share=0.5)
    counted = few.counted(pair.seed)
    assert counted == few.counted(pair.seed)
    assert [sum(counted), counted[-1], len(counted) > 1] == [1, True, True]  # otherwise another seed is needed here

    def loss(prompting: Prompting) -> torch.Tensor:
        return training_objective(model, pair, weights, prompting, torch.Generator().manual_seed(3)).loss

    def total(corrections: int) -> torch.Tensor:  # of all answers
        return (1 + corrections) * loss(Prompting(num_corrections=corrections))

    with torch.no_grad():
        last = total(len(counted)) - total(len(counted) - 1)
        torch.testing.assert_close(loss(few), 0.5 * total(0) + 0.5 * last)
    assert loss(few).requires_grad
    assert Prompting(num_corrections=2, counted_corrections=2).counted(1) == [True, True]
    assert {len(few.counted(seed)) for seed in range(40)} == {1, 2, 3, 4}  # any may count
    assert Prompting(num_corrections=4, counted_corrections=0).counted(1) == []
    with pytest.raises(UserError, match="found counted_corrections 5 of 4"):
        Prompting(num_corrections=4, counted_corrections=5)


def test_masks_that_the_second_view_does_not_show_take_part_without_it() -> None:
    pair = views()
    pair.other.valid = pair.other.valid.clone()
    pair.other.valid[0, :3] = False
    model = UnSAM.from_pretrained("nano", seed=1).eval()
    weights, prompting = LossWeights(), Prompting(num_corrections=0)
    counts = [
        training_objective(model, each, weights, prompting).num_masks for each in (pair, replace(pair, second=None))
    ]
    assert counts == [5, 8]


def test_the_teacher_teaches() -> None:
    model, teacher = (UnSAM.from_pretrained("nano", seed=1).eval() for _ in range(2))
    weights, prompting = LossWeights(focal=0, dice=0, iou=0, consistency=0.5), Prompting()

    def loss() -> float:
        torch.manual_seed(0)
        return float(training_objective(model, views(), weights, prompting, teacher=teacher).terms["loss_consistency"])

    before = loss()
    torch.manual_seed(0)
    assert before == float(training_objective(model, views(), weights, prompting).terms["loss_consistency"])
    with torch.no_grad():
        teacher.decoder.token += 1.0
    assert abs(loss() - before) > 1e-4


def test_negative_weights_are_refused() -> None:
    with pytest.raises(UserError, match=r"weights .* at least 0; found consistency -1"):
        LossWeights(consistency=-1)
