"""Ground-truth masks as COCO results, and back as given masks of a labelling."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsam_lightning.benchmarks import annotations_json
from unsam_lightning.pseudo_labels.given_masks import GivenMasks


def test_masks_come_back_as_proposals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    square = np.zeros((20, 30), np.uint8)
    square[4:12, 5:20] = 255
    for folder, picture in (("photos", np.zeros((20, 30, 3), np.uint8)), ("masks", square)):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "one.png")
    source = tmp_path / "mine.yaml"
    source.write_text(
        "format: unsam_lightning/source/1\nname: mine\nreader: mask_folder\nroot: .\n"
        "options: {images: photos, masks: masks}\n"
    )
    out = tmp_path / "deep" / "people.json"
    monkeypatch.setattr(sys, "argv", ["annotations_json", str(source), str(out)])
    annotations_json.main()
    (result,) = json.loads(out.read_text())
    assert (result["image_id"], result["score"], result["segmentation"]["size"]) == ("one", 1.0, [20, 30])
    masks = GivenMasks(str(out), 0.3).masks("one", (20, 30), (20, 30))
    assert np.array_equal(masks[0], square > 0)
    assert len(masks) == 1


def test_a_wrong_source_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["annotations_json", str(tmp_path / "none.yaml"), str(tmp_path / "out.json")])
    with pytest.raises(SystemExit) as stopped:
        annotations_json.main()
    assert stopped.value.code == 2
    assert "none.yaml" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
