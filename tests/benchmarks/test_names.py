"""Files whose names are no UTF-8: all readers give names that tables and reports can hold."""

import json
import os

import numpy as np
import pytest
import scipy.io
from PIL import Image

from unsam_lightning.benchmarks.readers.ade20k import ADE20K
from unsam_lightning.benchmarks.readers.bsds import BSDS500
from unsam_lightning.benchmarks.readers.coco_json import CocoJson
from unsam_lightning.benchmarks.readers.mask_folder import MaskFolder
from unsam_lightning.benchmarks.readers.mat_files import SBD
from unsam_lightning.benchmarks.readers.sa1b import SA1B
from unsam_lightning.benchmarks.readers.sav_json import SAVJson
from unsam_lightning.benchmarks.readers.video_frames import VideoFrames
from unsam_lightning.benchmarks.readers.yolo import YoloFolder
from unsam_lightning.benchmarks.sampling import SampledDataset

H, W = 20, 30
LATIN = os.fsdecode(b"caf\xe9")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


def photo(path):
    save(path, np.full((H, W, 3), 99))


def box_map(value):
    values = np.zeros((H, W))
    values[:5, :5] = value
    return values


def latin_coco(root):
    photo(root / "images/a.jpg")
    image = {"id": LATIN, "height": H, "width": W, "file_name": "a.jpg"}
    (root / "a.json").write_text(json.dumps({"images": [image], "annotations": []}))
    return CocoJson(root, "a.json")


def latin_folders(root):
    photo(root / f"images/{LATIN}.jpg")
    save(root / f"masks/{LATIN}/{LATIN}.png", box_map(255))
    save(root / f"masks/{LATIN}/empty {LATIN}.png", box_map(0))
    return MaskFolder(root / "images", root / "masks")


def latin_bsds(root):
    photo(root / f"val/images/{LATIN}.jpg")
    (root / "val/groundTruth").mkdir()
    cells = np.empty((1, 1), dtype=object)
    cells[0, 0] = {"Segmentation": np.ones((H, W), np.uint16)}
    scipy.io.savemat(root / f"val/groundTruth/{LATIN}.mat", {"groundTruth": cells})
    return BSDS500(root)


def latin_sbd(root):
    photo(root / f"img/{LATIN}.jpg")
    (root / "inst").mkdir()
    scipy.io.savemat(root / f"inst/{LATIN}.mat", {"GTinst": {"Segmentation": np.ones((H, W), np.uint8)}})
    return SBD(root, split=None)


def latin_sa1b(root):
    photo(root / f"sa_{LATIN}.jpg")
    content = {"image": {"width": W, "height": H}, "annotations": []}
    (root / f"sa_{LATIN}.json").write_text(json.dumps(content))
    return SA1B(root)


def latin_ade(root):
    photo(root / f"images/ADE/validation/ADE_{LATIN}.jpg")
    (root / f"images/ADE/validation/ADE_{LATIN}.json").write_text('{"annotation": {"object": []}}')
    return ADE20K(root)


def latin_yolo(root):
    photo(root / f"images/{LATIN}.jpg")
    (root / "labels").mkdir()
    (root / f"labels/{LATIN}.txt").write_text("0 0 0 1 0 1 1\n")
    return YoloFolder(root)


def latin_video(root):
    photo(root / f"JPEGImages/{LATIN}/{LATIN}.jpg")
    save(root / f"Annotations/{LATIN}/{LATIN}/{LATIN}.png", box_map(1))
    return VideoFrames(root, per_object=True)


@pytest.mark.parametrize(
    "build",
    [latin_coco, latin_folders, latin_bsds, latin_sbd, latin_sa1b, latin_ade, latin_yolo, latin_video],
    ids=lambda build: build.__name__,
)
def test_names_that_are_no_utf8_can_be_printed(build, tmp_path):
    dataset = build(tmp_path)
    (sample,) = dataset
    assert [sample.key] == dataset.keys
    assert "caf\\udce9" in sample.key
    named = [remark.named(sample.key) for remark in sample.remarks]
    assert "".join([dataset.name, sample.key, *sample.ids, *named]).encode()
    assert SampledDataset(dataset, "draw", seed=0)[0].key == sample.key


def test_a_video_whose_name_is_no_utf8_can_be_named(tmp_path):
    (tmp_path / f"sav_{LATIN}_manual.json").write_text(
        json.dumps({"video_height": H, "video_width": W, "video_frame_count": 1, "masklet_id": [], "masklet": []})
    )
    videos = SAVJson(tmp_path)
    assert videos.keys == [videos[0].key] == ["sav_caf\\udce9"]
