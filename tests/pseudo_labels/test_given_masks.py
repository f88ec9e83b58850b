"""Masks from files: found by name, at any size, and what they do to the two methods' trees."""

import json

import numpy as np
import pytest
from forests import check_forest, color_features, drawn, drawn_scene
from pycocotools import mask as coco

from unsam_lightning.errors import UserError
from unsam_lightning.image_sample import image_files
from unsam_lightning.manifest import Manifest
from unsam_lightning.pseudo_labels.divide_and_conquer import DivideConquerConfig, discover_masks
from unsam_lightning.pseudo_labels.given_masks import GivenMasks, image_name
from unsam_lightning.pseudo_labels.recipe import LabelRecipe, label_image
from unsam_lightning.pseudo_labels.regions import RegionConfig, discover_regions
from unsam_lightning.shards import ShardWriter


def box(top, bottom, left, right, shape=(40, 60)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def rle(mask):
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def annotation(mask, **more):
    return {"segmentation": rle(mask), **more}


def sa1b(name, *masks):
    image = {"image_id": 5, "file_name": f"{name}.jpg", "height": 40, "width": 60}
    return {"image": image, "annotations": [annotation(mask, id=n) for n, mask in enumerate(masks)]}


FIRST, SECOND = box(2, 10, 3, 20), box(20, 40, 30, 60)


def test_results_are_found_by_number_or_name_and_filtered_by_score(tmp_path):
    results = [
        annotation(FIRST, image_id=391895, score=0.9, category_id=1),
        annotation(SECOND, image_id=391895, score=0.2),
        annotation(SECOND, image_id="photo", score=0.5),
    ]
    source = GivenMasks(write(tmp_path / "results.json", results), min_score=0.3)
    (found,) = source.masks("val2017/000000391895", (40, 60), (40, 60))
    assert np.array_equal(found, FIRST)
    assert np.array_equal(source.masks("a/photo", (40, 60), (40, 60)), SECOND[None])
    assert source.masks("000000000007", (40, 60), (40, 60)).shape == (0, 40, 60)
    assert len(GivenMasks(str(source.path)).masks("391895", (40, 60), (40, 60))) == 2


def test_a_number_names_no_image_of_a_file_that_has_names(tmp_path):
    image = {"id": 1, "file_name": "7.jpg", "height": 40, "width": 60}
    coco_json = {"images": [image], "annotations": [annotation(FIRST, id=1, image_id=1)]}
    write(tmp_path / "folder/7.json", sa1b("7", FIRST))
    for path in (write(tmp_path / "coco.json", coco_json), str(tmp_path / "folder")):
        source = GivenMasks(path)
        assert np.array_equal(source.masks("photos/7", (40, 60), (40, 60)), FIRST[None])
        assert source.masks("IMG_0007", (40, 60), (40, 60)).shape == (0, 40, 60)


def test_a_coco_json_is_found_by_file_name_and_its_crowds_stay_out(tmp_path):
    images = [
        {"id": 1, "file_name": "a/same.jpg", "height": 40, "width": 60},
        {"id": 2, "file_name": "b/same.jpg", "height": 40, "width": 60},
        {"id": 3, "file_name": "c/other.png", "height": 40, "width": 60},
    ]
    polygon = [[3, 2, 20, 2, 20, 10, 3, 10]]
    content = {
        "images": images,
        "annotations": [
            annotation(FIRST, id=1, image_id=1, iscrowd=0),
            annotation(SECOND, id=2, image_id=2, iscrowd=0),
            annotation(SECOND, id=3, image_id=3, iscrowd=1),
            {"segmentation": polygon, "id": 4, "image_id": 3},
        ],
    }
    source = GivenMasks(write(tmp_path / "instances.json", content))
    assert np.array_equal(source.masks("a/same", (40, 60), (40, 60)), FIRST[None])
    assert np.array_equal(source.masks("b/same", (40, 60), (40, 60)), SECOND[None])
    assert len(source.masks("d/same", (40, 60), (40, 60))) == 0  # which of the two?
    assert np.array_equal(source.masks("elsewhere/other", (40, 60), (40, 60)), FIRST[None])


def test_sa1b_one_json_or_a_folder_of_them(tmp_path):
    one = GivenMasks(write(tmp_path / "one.json", sa1b("sa_12", FIRST, SECOND)))
    assert np.array_equal(one.masks("sa_12", (40, 60), (40, 60)), np.stack([FIRST, SECOND]))
    write(tmp_path / "many/sa_1.json", sa1b("sa_1", FIRST))
    write(tmp_path / "many/sa_2.json", sa1b("sa_2", SECOND))
    many = GivenMasks(str(tmp_path / "many"))
    assert np.array_equal(many.masks("sa_2", (40, 60), (40, 60)), SECOND[None])
    before = many.sha256
    assert before == GivenMasks(str(tmp_path / "many")).sha256
    write(tmp_path / "many/sa_2.json", sa1b("sa_2", FIRST))
    assert before != GivenMasks(str(tmp_path / "many")).sha256


def test_masks_are_resized_to_the_packed_image_and_below(tmp_path):
    source = GivenMasks(write(tmp_path / "r.json", [annotation(FIRST, image_id="x"), annotation(SECOND, image_id="x")]))
    small = source.masks("x", (20, 30), (20, 30))  # packing halved the image
    assert np.array_equal(small[1], SECOND[::2, ::2])
    assert small[0].sum() == pytest.approx(FIRST.sum() / 4, rel=0.2)
    tiny = source.masks("x", (40, 60), (4, 6))
    assert np.array_equal(tiny[-1], box(2, 4, 3, 6, (4, 6)))
    with pytest.raises(UserError, match=r"'x', an image of 40 x 60 pixels.*60 x 40"):
        source.masks("x", (60, 40), (60, 40))


def test_files_that_are_not_what_they_should_be(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json.*No such file"):
        GivenMasks(str(tmp_path / "nowhere.json"))
    with pytest.raises(UserError, match=r"SA-1B JSON.*KeyError: 'images'"):
        GivenMasks(write(tmp_path / "a.json", {"some": 1}))
    (tmp_path / "b.json").write_text("[")
    with pytest.raises(UserError, match="JSONDecodeError"):
        GivenMasks(str(tmp_path / "b.json"))
    for nothing in (write(tmp_path / "c.json", []), str(tmp_path / "empty")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="at least one image"):
            GivenMasks(nothing)
    bad = GivenMasks(write(tmp_path / "d.json", [{"image_id": "x", "segmentation": {"size": [40, 60], "counts": 7}}]))
    with pytest.raises(UserError, match="masks of 'x' that can be decoded"):
        bad.masks("x", (40, 60), (40, 60))


def test_a_file_for_other_images_is_one_error_that_names_both(tmp_path):
    with ShardWriter(tmp_path / "mine-000000.tar") as writer:
        for n in range(2):
            writer.write(f"mine-{n:08d}", image_files(b"", {"file": f"folder/holiday{n}.jpg"}))
    manifest = Manifest(tmp_path / "mine.yaml", "images", "mine", [writer.info])
    other = GivenMasks(write(tmp_path / "coco.json", [annotation(FIRST, image_id=391895)]))
    with pytest.raises(UserError, match=r"mine\.yaml, such as 'folder/holiday0' in .*coco\.json.*such as '391895'"):
        other.check(manifest)
    GivenMasks(write(tmp_path / "own.json", [annotation(FIRST, image_id="holiday1")])).check(manifest)


@pytest.mark.parametrize(
    ("files", "listed", "found"),
    [
        (["bear/00000.jpg", "car/00000.jpg"], "00000", "'00000', which is 'bear/00000' and 'car/00000'"),
        (["c/a.jpg", "b/a.png"], "d/a", "'d/a', which is 'c/a' and 'b/a'"),
        (["bear/00000.jpg", "IMG_0.png"], 0, "'0', which is 'bear/00000' and 'IMG_0'"),
        (["bear/00000.jpg", "car/00000.jpg"], "bear/00000", None),
    ],
)
def test_masks_that_two_images_could_claim_are_refused(tmp_path, files, listed, found):
    with ShardWriter(tmp_path / "mine-000000.tar") as writer:
        for n, file in enumerate(files):
            writer.write(f"mine-{n:08d}", image_files(b"", {"file": file}))
    manifest = Manifest(tmp_path / "mine.yaml", "images", "mine", [writer.info])
    source = GivenMasks(write(tmp_path / "own.json", [annotation(FIRST, image_id=listed)]))
    if found is None:
        source.check(manifest)
        assert [len(source.masks(name, (40, 60), (40, 60))) for name in ("bear/00000", "car/00000")] == [1, 0]
        return
    with pytest.raises(UserError, match=found):
        source.check(manifest)
    assert image_name({"__key__": "foreign-1"}) == "foreign-1"


def run(method, image, given, divide):
    if method == "regions":
        config = RegionConfig() if divide else RegionConfig(max_bin_share=1.0)  # two masks are few to balance
        return discover_regions([color_features(image, 4)], image, config, given, divide)
    return discover_masks(
        color_features(image, 8), color_features(image, 4), image, DivideConquerConfig(), given, divide
    )


@pytest.mark.parametrize("method", ["regions", "divide_conquer"])
def test_given_masks_join_the_division_or_replace_it(method):
    image, labels = drawn_scene()
    disc = (labels == 1) | (labels == 2)
    for given, roots in ((disc[None], 1), (np.stack([disc, labels == 3]), 2), (np.stack([disc, disc]), 1)):
        alone = drawn(run(method, image, given, False))
        check_forest(alone)
        given_roots = [np.flatnonzero((alone.masks == mask).all(axis=(1, 2)) & (alone.parent < 0)) for mask in given]
        assert all(len(found) == 1 for found in given_roots)
        assert len(np.unique(np.concatenate(given_roots))) == roots
        inside = alone.instance == alone.instance[given_roots[0][0]]
        assert inside.sum() > 1  # the eye at least
        assert alone.instance.max() + 1 == roots
        assert not (alone.masks & ~given.any(axis=0)).any()
    # A strange half of the disc, which nobody would find.
    half = disc.copy()
    half[:, 50:] = False
    merged = drawn(run(method, image, half[None], True))
    own = drawn(run(method, image, None, True))
    check_forest(merged)
    assert not (own.masks == half).all(axis=(1, 2)).any()
    place = np.flatnonzero((merged.masks == half).all(axis=(1, 2)))
    assert merged.stage[place].tolist() == ["divide"]
    assert len(merged) >= len(own) - 2


def test_pieces_count_alone_and_none_at_all_is_no_division():
    image, _ = drawn_scene()
    two = np.zeros((1, 128, 128), bool)
    two[0, 5:20, 5:20] = two[0, 90:120, 5:30] = True
    forest = drawn(discover_regions([], image, RegionConfig(), two, False))
    assert sorted(forest.masks[forest.parent < 0].sum(axis=(1, 2)).tolist()) == [15 * 15, 30 * 25]
    assert len(discover_regions([], image, RegionConfig(), two[:0], False)) == 0


def test_the_recipe_knows_its_files(tmp_path):
    image, labels = drawn_scene()
    disc = (labels == 1) | (labels == 2)
    path = write(tmp_path / "proposals.json", [annotation(disc, image_id="scene", score=0.5)])
    recipe = LabelRecipe(proposals=path, region_levels=())
    forest = label_image([], image, recipe, recipe.given(), "scene")
    assert np.array_equal(forest.masks()[0], disc)
    assert forest.instance.max() == 0
    assert len(label_image([], image, recipe, recipe.given(), "other")) == 0
    merging = LabelRecipe(merge_masks=path, region_levels=())
    assert label_image([], image, merging, merging.given(), "scene").instance.max() > 0
    assert LabelRecipe(merge_masks=path).given().keys() == {"merge_masks"}
    assert LabelRecipe().given() == {}
