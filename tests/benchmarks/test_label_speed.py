"""The plain versions that the label stage's speed is compared with do what they are said to do."""

import numpy as np
import pytest

from unsam_lightning.benchmarks.label_speed import (
    grid_features,
    grid_masks,
    main,
    our_masks,
    plain_masks,
    plain_merge,
    take_turns,
)
from unsam_lightning.pairs import decode_masks, encode_masks
from unsam_lightning.pseudo_labels.conquer import PAPER_THRESHOLDS, iterative_merge


@pytest.mark.parametrize("seed", range(3))
def test_plain_merging_finds_the_same_masks(seed):
    features = grid_features(seed, 16, 24)
    plain = [{mask.tobytes() for mask in level} for level in plain_merge(features, PAPER_THRESHOLDS)]
    ours = [{mask.tobytes() for mask in level} for level in iterative_merge(features)]
    assert plain == ours
    assert len(ours[0]) > 1


def test_plain_masks_by_hand():
    instance = np.ones((8, 8), bool)
    half, quarter = instance.copy(), instance.copy()
    half[:, 4:] = False
    quarter[:, 2:] = False
    rows = plain_masks(instance, np.stack([half, quarter, half, instance]), 64)
    masks = decode_masks(rows[0], 64, 64)
    assert masks.sum(axis=(1, 2)).tolist() == [64 * 64, 64 * 32, 64 * 16]  # no copies
    assert rows[0] == encode_masks(masks)
    assert rows[1] == pytest.approx([1.0, 0.1 + 0.9 * (2**0.5 - 1), 0.1])
    ours = our_masks(instance, np.stack([half, quarter, half, instance]), np.zeros((64, 64, 3), np.uint8))
    assert ours[0] == rows[0]
    assert ours[1] == pytest.approx(rows[1])


def test_masks_for_the_comparison_are_many_and_none_is_the_whole():
    masks = grid_masks(200, 24)
    assert masks.shape == (200, 24, 24)
    assert 4 <= masks.sum(axis=(1, 2)).min() <= masks.sum(axis=(1, 2)).max() < 24 * 24
    assert np.array_equal(masks, grid_masks(200, 24))


def test_contestants_take_turns_and_the_first_round_does_not_count():
    order = []
    found = take_turns([lambda: order.append("a"), lambda: order.append("b")], 2)
    assert "".join(order) == "ababab"
    assert len(found) == 2


def test_the_stage_is_timed(tmp_path, capsys):
    (tmp_path / "few.yaml").write_text(
        "format: unsam_lightning/source/1\nreader: scenes\nname: few\noptions: {num_images: 3, size: 64}\n"
    )
    main(["--parts", "stage", "--images", str(tmp_path / "few.yaml"), "--threads", "1", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "whole stage, nano at 256 px on cpu, 3 images, 1 threads:" in printed
    assert "images/s by the clock" in printed
