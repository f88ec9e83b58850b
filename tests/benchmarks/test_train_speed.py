"""The references do what they are there to do, give what ours give, and the command says so."""

import re

import cv2
import numpy as np
import pytest
import torch

from unsam_lightning.batch import unpack_masks
from unsam_lightning.benchmarks import comparison, loader_speed, step_speed, train_speed
from unsam_lightning.benchmarks.comparison import Comparison, compare, report, verdict
from unsam_lightning.benchmarks.loader_speed import loader_case
from unsam_lightning.benchmarks.op_count import OpCounter
from unsam_lightning.benchmarks.step_memory import noise_batch
from unsam_lightning.benchmarks.step_speed import click_variation, differences
from unsam_lightning.benchmarks.train_account import OUR_STEPS, random_model
from unsam_lightning.benchmarks.train_references import ReferenceModel, copied, noise_clicks, reference_objective
from unsam_lightning.benchmarks.train_speed import main
from unsam_lightning.errors import UserError


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    return ReferenceModel(random_model("nano", "official"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (400, 600), interpolation=cv2.INTER_CUBIC))
    return path


def test_reference_has_our_loss_and_gradients(reference):
    batch = noise_batch(1, 4, 256)
    loss, gradient = differences(
        reference, batch.images.float() / 255, unpack_masks(batch.planes, 4)[0], batch.granularity[0]
    )
    assert loss < 1e-5
    assert gradient < 1e-4
    assert gradient > 0  # two computations, not one twice


def test_a_wrong_reference_is_seen(reference, monkeypatch):
    batch = noise_batch(1, 2, 256)
    arguments = (batch.images.float() / 255, unpack_masks(batch.planes, 2)[0], batch.granularity[0])
    decode = reference.decode
    monkeypatch.setattr(reference, "decode", lambda e, c, l, g, p: decode(e, c, l, 0.9 * g, p))  # noqa: E741
    assert max(differences(reference, *arguments)) > 1e-4


def test_reference_step_trains_every_part_and_drops(reference):
    batch = noise_batch(1, 3, 256)
    masks, index = unpack_masks(batch.planes, 3)[0], torch.zeros(3, dtype=torch.long)
    differences(reference, batch.images.float() / 255, masks, batch.granularity[0])  # moves LoRA from its start
    reference.train().zero_grad()
    images = batch.images.float() / 255
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        losses.append(reference_objective(reference, images, masks, index, batch.granularity[0], 1))
    assert losses[0] == losses[1]
    losses[0].backward()
    trained = [each for each in reference.model.parameters() if each.requires_grad]
    assert len(trained) > 56
    assert all(each.grad is not None for each in trained)
    embedding = copied(reference.model.encode(images), index)
    clicks, labels = noise_clicks(masks, torch.zeros_like(masks))
    answers = [reference.decode(embedding, clicks, labels, batch.granularity[0], None).masks for _ in range(2)]
    assert not torch.equal(*answers)


def test_noise_clicks_by_hand():
    mask, predicted = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    mask[0, 1, 3] = True
    for _ in range(5):
        clicks, labels = noise_clicks(mask, predicted)
        assert (clicks.tolist(), labels.tolist()) == ([[[3.0, 1.0]]], [[1]])
    predicted[0, 1, 3] = predicted[0, 2, 0] = True
    clicks, labels = noise_clicks(mask, predicted)
    assert (clicks.tolist(), labels.tolist()) == ([[[0.0, 2.0]]], [[0]])
    clicks, labels = noise_clicks(mask, mask)  # nothing is wrong
    assert clicks.tolist() != [[[3.0, 1.0]]]
    assert labels.tolist() == [[0]]


def test_both_samplers_have_one_distribution(monkeypatch):
    assert click_variation(4000) < 0.08

    def nearly(truth, guess):
        return noise_clicks(truth, guess & (torch.arange(8) < 5))  # never on the last columns

    monkeypatch.setattr(step_speed, "noise_clicks", nearly)
    assert click_variation(4000) > 0.2


def test_account_of_a_step_with_all_terms(monkeypatch, capsys):
    monkeypatch.setattr(train_speed, "OUR_STEPS", OUR_STEPS[-1:])
    sizes = ["--corrections", "0", "--account_images", "1", "--account_masks", "2"]
    assert main(["account", "--model", "nano", *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    kernels = [int(re.search(r"([\d,]+) kernels", line)[1].replace(",", "")) for line in lines if "kernels, " in line]
    reference, ours, decoder, our_decoder = kernels
    assert reference > 64 * 4 + decoder  # sines and cosines of 64 frequencies, a product before each
    assert decoder > our_decoder > 100
    assert ours > 2 * our_decoder  # two views
    assert not any("target" in line for line in lines)  # they are for another size


def test_counts_at_the_official_size_stay_within_their_targets(monkeypatch, capsys):
    monkeypatch.setattr(train_speed, "OUR_STEPS", OUR_STEPS[:1])
    assert main(["account"]) == 0  # 1 where a step or the decoder of SAM-2.1 small moves more than it may
    assert capsys.readouterr().out.count(": met") == 2
    few, many = OpCounter(), OpCounter()
    few.kernels = few.moved_bytes = few.flops = many.kernels = 1
    many.moved_bytes = 191 * 10**9
    monkeypatch.setattr(train_speed, "count_our_step", lambda *_: many)
    monkeypatch.setattr(train_speed, "count_reference_step", lambda *_: few)
    monkeypatch.setattr(train_speed, "count_decode", lambda *_: (few, few))
    assert main(["account"]) == 1


def test_loaders_agree_on_the_masks(photo, tmp_path, monkeypatch):
    case = loader_case(photo, tmp_path, num_masks=12, num_drawn=5, side=256, max_side=10**6)
    image, masks = case.reference()
    assert image.shape == (3, 256, 256)
    assert masks.shape == (5, 256, 256)
    assert case.batch().images.shape == (1, 3, 320, 320)
    same = case.agreement()
    assert 0.9 < same.iou < 1  # nearest pixels of nearest pixels, and few of them
    assert 0.8 < same.iou_at_stride <= 1
    assert same.pixels > 0.99
    assert same.stray < 1e-3
    monkeypatch.setattr(loader_speed, "_DEGREES", -12.5)  # of the reference and our matrix alike
    assert case.agreement().stray < 1e-3
    warp = loader_speed._reference_warp
    monkeypatch.setattr(loader_speed, "_reference_warp", lambda *sizes: warp(*sizes) + torch.eye(3) * 0.02)
    assert case.agreement().stray > 1e-3
    with pytest.raises(UserError, match="--photo"):
        loader_case(tmp_path / "none.jpg", tmp_path, 1, 1, 64, 64)


def test_ratios_are_those_of_each_turn(monkeypatch):
    now = iter([0, 1, 1, 3, 10, 12, 20, 28, 30, 31, 40, 41, 50, 54, 60, 68])  # start, end of each run
    monkeypatch.setattr(comparison, "process_time", lambda: next(now))
    found = compare(lambda: None, lambda: None, 3)
    assert found.ratio == 2  # of 4, 1 and 2; the first round's does not count


def test_targets_and_verdicts_are_said(capsys):
    report("a", Comparison(0.001, 0.003, 3.0), 2.5)
    report("b", Comparison(0.001, 0.002, 2.0), 2.5)
    report("c", Comparison(0.001, 0.002, 2.0), None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("ours 1 ms, reference 3 ms, 3.00 times; target 2.5: met")
    assert lines[1].endswith("MISSED")
    assert lines[2].endswith("2.00 times")
    assert verdict("x", 0.01, 0.02)
    assert not verdict("x", 0.03, 0.02)
    assert not verdict("x", float("nan"), 0.02)


def test_the_command_runs(photo, monkeypatch, capsys):
    sizes = ["--rounds", "1", "--corrections", "1", "--masks", "2", "--side", "256"]
    loader = ["--photo", str(photo), "--annotations", "8", "--objects", "3"]
    monkeypatch.setattr(train_speed, "account", lambda *sizes: not print("A1, A2,", *sizes[:3]))  # has tests of its own
    assert main([*sizes, *loader]) == 0
    printed = capsys.readouterr().out
    for title in ("T0,", "A1, A2, small 2 30", "L1,", "clicks,", "D1, D2,"):
        assert title in printed
    assert printed.count("the same:") == 5
    assert "NOT THE SAME" not in printed


def test_what_is_not_the_same_fails_the_command(monkeypatch, capsys):
    monkeypatch.setattr(step_speed, "click_variation", lambda: 0.5)
    assert main(["clicks", "--rounds", "1", "--masks", "2", "--side", "64"]) == 1
    assert "NOT THE SAME" in capsys.readouterr().out
