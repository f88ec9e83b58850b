"""The contact sheets and the summary of a label manifest, on two images labelled by hand."""

import json
import tracemalloc

import cv2
import numpy as np
import pytest
import yaml

from unsam_lightning.image_sample import image_files
from unsam_lightning.manifest import Manifest, write_manifest
from unsam_lightning.pairs import encode_masks
from unsam_lightning.pseudo_labels.preview import FINE, contact_sheet, summarise, write_preview
from unsam_lightning.segment.render import granularity_color
from unsam_lightning.shards import ShardWriter


def entry(mask, granularity, instance, parent):
    (rle,) = encode_masks(mask[None])
    return {
        "rle": rle,
        "granularity": granularity,
        "instance": instance,
        "parent": parent,
        "stage": "conquer",
        "area": int(mask.sum()),
    }


def box(top, bottom, left, right):
    mask = np.zeros((40, 60), bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def labelled(tmp_path):
    """Two grey images: one with a tree of depth 3 and one of depth 1, one without masks."""
    grey = np.full((40, 60, 3), 128, np.uint8)
    jpeg = cv2.imencode(".jpg", grey)[1].tobytes()
    first = [
        entry(box(0, 30, 0, 40), 1.0, 0, -1),  # half of the image
        entry(box(2, 26, 2, 27), 0.55, 0, 0),  # a quarter
        entry(box(4, 8, 4, 10), 0.1, 0, 1),  # a hundredth
        entry(box(32, 38, 50, 58), 1.0, 1, -1),  # a fiftieth
    ]
    manifests = []
    for kind, extra in (
        ("images", {"source": "drawn", "licence": "none"}),
        ("labels", {"recipe": {}, "recipe_hash": "x"}),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        with ShardWriter(folder / "two-000000.tar") as writer:
            for number, masks in enumerate((first, [])):
                label = json.dumps({"height": 40, "width": 60, "masks": masks}).encode()
                files = {"json": label} if kind == "labels" else image_files(jpeg, {"file": f"{number}.jpg"})
                writer.write(f"two-{number:08d}", files)
        manifests.append(Manifest(folder / "two.yaml", kind, "two", [writer.info], extra))
        write_manifest(manifests[-1])
    return manifests


def test_the_summary_by_hand(labelled):
    summary = summarise(labelled[1], {"encode": 0.5})
    assert summary["images"] == 2
    assert summary["images_without_masks"] == 1
    assert summary["masks_per_image"] == {"mean": 2.0, "least": 0, "median": 2.0, "most": 4}
    assert summary["instances_per_image"] == {"mean": 1.0, "least": 0, "median": 1.0, "most": 2}
    # 0.55 is the border between the fifth and the sixth bin, and belongs to one of them.
    assert summary["granularity"][0] == 0.25
    assert summary["granularity"][9] == 0.5
    assert sum(summary["granularity"][4:6]) == 0.25
    assert summary["area_fraction"]["0.5"] == pytest.approx((0.25 + 0.02) / 2)
    assert summary["tree_depth"] == {1: 1, 3: 1}
    assert summary["seconds_per_image"] == {"encode": 0.5}
    assert "seconds_per_image" not in summarise(labelled[1])


def test_the_memory_of_a_summary_is_a_few_bytes_a_mask(tmp_path):
    mask = {"rle": "", "granularity": 1.0, "parent": -1}
    masks = [{**mask, "area": area} for area in range(1, 1001)]
    label = json.dumps({"height": 100, "width": 100, "masks": masks}).encode()
    with ShardWriter(tmp_path / "many-000000.tar") as writer:
        for number in range(100):
            writer.write(f"many-{number:08d}", {"json": label})
    labels = Manifest(tmp_path / "many.yaml", "labels", "many", [writer.info])
    tracemalloc.start()
    try:
        summary = summarise(labels)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert summary["masks"] == 100_000
    assert summary["area_fraction"] == {
        f"{q:g}": pytest.approx(q / 10, rel=0.03) for q in (0.05, 0.25, 0.5, 0.75, 0.95)
    }
    assert most < 24 * summary["masks"]


def test_a_sheet_holds_one_mask_of_the_images_size_at_a_time(tmp_path):
    image, side = np.zeros((1200, 1200, 3), np.uint8), 1200
    (rle,) = encode_masks(np.ones((1, side, side), bool))
    mask = {"rle": rle, "granularity": 1.0, "instance": 0, "parent": -1, "stage": "divide", "area": side * side}
    label = json.dumps({"height": side, "width": side, "masks": [mask] * 60}).encode()
    manifests = []
    for kind, files in (
        ("images", image_files(cv2.imencode(".jpg", image)[1].tobytes(), {"file": "large.jpg"})),
        ("labels", {"json": label}),
    ):
        (tmp_path / kind).mkdir()
        with ShardWriter(tmp_path / kind / "large-000000.tar") as writer:
            writer.write("large-00000000", files)
        manifests.append(Manifest(tmp_path / kind / "large.yaml", kind, "large", [writer.info]))
    tracemalloc.start()
    try:
        contact_sheet(manifests[1], manifests[0], [0])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 60 * side * side


def test_a_sheet_shows_instances_and_parts_where_they_are(labelled):
    images, labels = labelled
    sheet = contact_sheet(labels, images, [0, 1])
    # Rows of 360 px for images of 40 px: an image pixel is 9 px, the columns are 540 px and 4 px of border wide.
    assert sheet.shape == (18 + 2 * 364, 4 * 544, 3)

    def pixel(column, row, y, x):
        return sheet[18 + row * 364 + 2 + round((y + 0.5) * 9), column * 544 + 2 + round((x + 0.5) * 9)].astype(int)

    grey = pixel(0, 0, 6, 7)
    assert abs(grey - 128).max() <= 2
    inside, other, outside = pixel(1, 0, 15, 20), pixel(1, 0, 35, 54), pixel(1, 0, 35, 20)
    assert abs(inside - other).max() > 20
    assert abs(outside - grey).max() <= 2
    coarse = 0.45 * grey + 0.55 * np.array(granularity_color(0.55))
    assert FINE <= 0.55
    assert abs(pixel(2, 0, 15, 15) - coarse).max() <= 2
    assert abs(pixel(2, 0, 28, 35) - grey).max() <= 2  # in the instance alone
    assert abs(pixel(3, 0, 6, 7) - (0.45 * grey + 0.55 * np.array(granularity_color(0.1)))).max() <= 2
    assert all(abs(pixel(column, 1, 20, 30) - grey).max() <= 2 for column in range(4))  # without masks


def test_previews_are_written_beside_the_labels(labelled):
    images, labels = labelled
    lines = write_preview(labels, images, 10)
    path = labels.root / "two.summary.yaml"
    assert yaml.safe_load(path.read_text()) == summarise(labels)
    assert lines[-1] == f"preview: {labels.root / 'preview' / '000.png'}"
    picture = cv2.imread(str(labels.root / "preview" / "000.png"))
    assert np.array_equal(picture[..., ::-1], contact_sheet(labels, images, [0, 1]))
    assert "masks: 4" in lines
