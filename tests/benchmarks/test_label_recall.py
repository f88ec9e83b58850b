"""Recall of pseudo-labels: best IoUs and AR by hand, budgets, and the table of the command."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from unsam_lightning.benchmarks.label_candidates import by_recipe, official_parts
from unsam_lightning.benchmarks.label_recall import MANY_MASKS, best_ious, main, measure
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.pseudo_labels.recipe import LabelRecipe
from unsam_lightning.pseudo_labels.regions import RegionConfig


def strip(*columns):
    mask = np.zeros((4, 20), bool)
    mask[:, slice(*columns)] = True
    return mask


def test_best_ious_by_hand():
    truth = np.stack([strip(0, 10), strip(12, 20)])
    masks = np.stack([strip(0, 8), strip(5, 15), strip(0, 20)])
    assert best_ious(masks, truth) == pytest.approx([0.8, 0.4])
    assert best_ious(masks[:0], truth).tolist() == [0.0, 0.0]
    many = np.concatenate([np.repeat(masks[:1], 100, 0), truth[1:]])  # more than one chunk
    assert best_ious(many, truth) == pytest.approx([0.8, 1.0])


def test_recall_by_hand():
    # One annotator's segment is met at 0.8, hence at 7 of 10 IoUs; two equal ones at 1.0 by the same mask.
    sample = EvalSample(
        key="a",
        image=np.zeros((4, 20, 3), np.uint8),
        masks=np.stack([strip(0, 10), strip(12, 20), strip(12, 20)]).astype(np.int8),
        ids=["x", "y", "z"],
    )

    def method(features, image, budget):
        return np.stack([strip(12, 20), strip(0, 8)])[:budget], np.array([1.0, 0.15])[:budget]

    both = measure(method, [(sample, {})], 2)
    assert both.masks_per_image == 2
    assert both.mean_best_iou == pytest.approx((0.8 + 1 + 1) / 3)
    assert both.average_recall == pytest.approx((0.7 + 1 + 1) / 3)
    assert both.fullest_bin == 0.5
    assert measure(method, [(sample, {})], 1).mean_best_iou == pytest.approx(2 / 3)


def test_methods_keep_to_their_budget():
    generator = torch.Generator().manual_seed(0)
    features = {f"trunk{256 // n}": torch.randn(n, n, 6, generator=generator) for n in (64, 32, 16, 8)}
    image = np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)
    many = LabelRecipe(regions=MANY_MASKS)
    for method in (*map(by_recipe, (LabelRecipe(), many, LabelRecipe(method="divide_conquer"))), official_parts):
        masks, _ = method(features, image, 5)
        assert masks.dtype == bool
        assert masks.shape[1:] == (96, 80)
        assert len(masks) <= 5
        assert masks.any(axis=(1, 2)).all()


def test_the_command_prints_a_row_for_each_method(tmp_path, capsys):
    source = "format: unsam_lightning/source/1\nreader: scenes\nname: two\noptions: {num_images: 2, size: 96}\n"
    (tmp_path / "two.yaml").write_text(source)
    main([str(tmp_path / "two.yaml"), "--images", "1", "--budgets", "10", "--methods", "regions", "official parts"])
    lines = capsys.readouterr().out.splitlines()
    assert "1 images" in lines[0]
    assert [line.split(" | ")[0] for line in lines[3:]] == ["| regions", "| official parts"]


def test_many_masks_are_measured_with_the_settings_that_the_command_of_labels_md_gives():
    page = (Path(__file__).resolve().parents[2] / "experiments" / "labels.md").read_text()
    given = {
        name: tuple(tuple(row) if isinstance(row, list) else row for row in value) if isinstance(value, list) else value
        for name, text in re.findall(r"--data\.recipe\.regions\.(\w+) ('.+?'|[\d.]+)", page)
        for value in [yaml.safe_load(text.strip("'"))]
    }
    assert RegionConfig(**given) == MANY_MASKS
