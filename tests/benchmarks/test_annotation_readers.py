"""COCO-style jsons, SA-1B, SBD, PASCAL-Part and ADE20K: on real samples, and on files made in their layouts."""

import json
from collections import Counter

import numpy as np
import pytest
import scipy.io
from PIL import Image
from pycocotools import mask as coco

from unsam_lightning.benchmarks.readers.ade20k import ADE20K
from unsam_lightning.benchmarks.readers.coco_json import CocoJson
from unsam_lightning.benchmarks.readers.coco_masks import decode_annotations
from unsam_lightning.benchmarks.readers.layout import find_layout, read_split
from unsam_lightning.benchmarks.readers.mask_folder import MaskFolder
from unsam_lightning.benchmarks.readers.mat_files import SBD, PascalPart
from unsam_lightning.benchmarks.readers.sa1b import SA1B
from unsam_lightning.benchmarks.readers.yolo import YoloFolder
from unsam_lightning.benchmarks.sampling import SampledDataset
from unsam_lightning.errors import UserError

H, W = 20, 30

#: Images, objects, parts, pixels of parts outside their object: counted apart from the reader.
PASCAL_PART_COUNTS = (18, 53, 398, 0)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path, **options)


def photo(path, height=H, width=W, **options):
    save(path, np.full((height, width, 3), 90), **options)


def box_mask(y0, y1, x0, x1, height=H, width=W):
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def rle(mask):
    encoded = coco.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def reasons(sample):
    return Counter((remark.reason, remark.kept) for remark in sample.remarks)


# --- COCO's notation -------------------------------------------------------------------------------------------------


def test_all_notations_of_a_mask():
    mask = box_mask(5, 9, 4, 10)
    column = mask.T.ravel()
    counts = np.diff(np.flatnonzero(np.diff(np.concatenate([[1 - column[0]], column, [1 - column[-1]]]))))
    plain = [0, *counts.tolist()] if column[0] else counts.tolist()
    notations = {
        1: [[4, 5, 10, 5, 10, 9, 4, 9]],
        2: rle(mask),
        3: {"size": [H, W], "counts": plain},
        4: [[4, 5, 7, 5, 7, 9, 4, 9], [7, 5, 10, 5, 10, 9, 7, 9]],
    }
    annotations = [{"id": n, "segmentation": s, "iscrowd": 0} for n, s in notations.items()]
    masks, ids, remarks = decode_annotations(annotations, (H, W))
    assert (masks.shape, masks.dtype, remarks) == ((4, H, W), np.int8, [])
    assert ids == ["object1", "object2", "object3", "object4"]
    for found in masks:
        np.testing.assert_array_equal(found, mask)


def test_what_is_left_out_or_odd_is_named():
    good = rle(box_mask(0, 4, 0, 4))
    annotations = [
        {"id": 1, "segmentation": good, "iscrowd": 0},
        {"id": 1, "segmentation": good, "iscrowd": 0},
        {"id": 2, "segmentation": good, "iscrowd": 1},
        {"id": 3, "segmentation": good},
        {"id": 4, "segmentation": rle(np.zeros((H, W), np.uint8)), "iscrowd": 0},
        {"id": 5, "segmentation": rle(np.ones((H, W + 1), np.uint8)), "iscrowd": 0},
        {"id": 6, "segmentation": [[1, 1, 8, 8]], "iscrowd": 0},  # pycocotools would read a box
        {"id": 7, "segmentation": [], "iscrowd": 0},
        {"id": 8, "iscrowd": 0},
        {"id": 9, "segmentation": good, "obj_ann_id": 3, "iscrowd": 0},
        {"segmentation": good, "iscrowd": 0},
    ]
    masks, ids, remarks = decode_annotations(annotations, (H, W))
    assert ids == ["object1", "object3", "object3/part9"]
    assert len(masks) == 3
    assert [(r.mask_id, r.reason, r.kept) for r in remarks] == [
        ("object1", "duplicate id", False),
        ("object2", "crowd region", False),
        ("object3", "no iscrowd, taken as 0", True),
        ("object4", "empty mask", False),
        ("object5", "mask of another size than the image", False),
        ("object6", "malformed polygon", False),
        ("object7", "empty mask", False),
        ("object8", "segmentation that cannot be decoded", False),
        ("objectNone", "no id", False),
    ]
    assert remarks[4].detail == f"{W + 1}x{H}"


# --- COCO-style json -------------------------------------------------------------------------------------------------


@pytest.fixture
def coco_set(tmp_path):
    """Three images listed out of order, one of them without annotations."""
    images = [{"id": n, "file_name": f"{n}.jpg", "height": H, "width": W} for n in (10, 9, 11)]
    annotations = [
        {"id": 1, "image_id": 10, "segmentation": rle(box_mask(0, 4, 0, 4)), "iscrowd": 0},
        {"id": 2, "image_id": 9, "segmentation": rle(box_mask(3, 9, 0, 4)), "iscrowd": 0},
        {"id": 3, "image_id": 10, "segmentation": rle(box_mask(9, 12, 5, 7)), "iscrowd": 0},
    ]
    for n in (9, 10, 11):
        photo(tmp_path / f"set/val/{n}.jpg")
    content = {"images": images, "annotations": annotations, "categories": []}
    (tmp_path / "set/instances.json").write_text(json.dumps(content))
    return tmp_path / "set", content


def test_coco_images_are_sorted_and_keep_their_masks(coco_set):
    root, _ = coco_set
    for place in (root, root.parent):  # also found below an upper folder
        dataset = CocoJson(place, "instances.json", "val", name="mine")
        assert (dataset.name, dataset.keys, len(dataset)) == ("mine", ["9", "10", "11"], 3)
        assert [sample.ids for sample in dataset] == [["object2"], ["object1", "object3"], []]
        np.testing.assert_array_equal(dataset[1].masks[1], box_mask(9, 12, 5, 7))
        assert dataset[2].masks.shape == (0, H, W)
    assert CocoJson(root, "instances.json", "val", only_annotated=True).keys == ["9", "10"]


def test_coco_opens_only_the_images_asked_for(coco_set):
    root, _ = coco_set
    (root / "val/9.jpg").write_bytes(b"nonsense")
    (root / "val/11.jpg").unlink()
    dataset = CocoJson(root, "instances.json", "val")
    assert dataset[1].ids == ["object1", "object3"]
    for index, file in ((0, r"9\.jpg"), (2, r"11\.jpg")):
        with pytest.raises(UserError, match=file):
            dataset[index]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda c: c["images"].append(c["images"][0]), "1 image ids listed twice: 10"),
        (lambda c: c["annotations"].append({"image_id": 77}), "1 annotated images not listed: 77"),
        (lambda c: c["images"][0].pop("file_name"), "1 images without file_name"),
        (lambda c: c["annotations"][0].pop("image_id"), "1 annotations without image_id"),
        (lambda c: c.update(images=[], annotations=[]), "no images"),
        (lambda c: c.pop("annotations"), "the keys categories, images"),
    ],
)
def test_coco_defects_of_the_whole_are_counted(coco_set, change, found):
    root, content = coco_set
    change(content)
    (root / "instances.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=found):
        CocoJson(root, "instances.json", "val")


def test_coco_image_of_another_size_is_refused_but_exif_is_understood(coco_set):
    root, _ = coco_set
    dataset = CocoJson(root, "instances.json", "val")
    exif = Image.Exif()
    exif[274] = 6
    photo(root / "val/9.jpg", exif=exif)  # stored as annotated, shown on its side
    assert dataset[0].image.shape == (H, W, 3)
    assert reasons(dataset[0]) == {("image annotated as stored, against its EXIF orientation", True): 1}
    photo(root / "val/9.jpg", height=H + 1)
    with pytest.raises(UserError, match=r"30x20 .*9\.jpg; found 30x21"):
        dataset[0]


def test_coco_folder_without_the_images_is_refused_at_once(coco_set):
    root, _ = coco_set
    (root / "val").rename(root / "images")
    (root / "val").mkdir()
    photo(root / "val/other.jpg")
    with pytest.raises(UserError, match=r"expected 9\.jpg in .*val; found no such entry among other\.jpg"):
        CocoJson(root, "instances.json", "val")
    # The annotations may lie in a folder of their own.
    (root / "archive").mkdir()
    (root / "instances.json").rename(root / "archive/instances.json")
    assert CocoJson(root, "instances.json", "images").keys == ["9", "10", "11"]


def test_coco_broken_json_is_named(coco_set):
    root, _ = coco_set
    (root / "instances.json").write_text("{")
    with pytest.raises(UserError, match=r"instances\.json; found JSONDecodeError"):
        CocoJson(root, "instances.json", "val")


def test_coco_panoptic_sample_equals_its_maps(shared):
    root = shared / "data/COCO_panoptic_sample/sample_data"
    dataset = CocoJson(root, "panoptic_coco_detection_format.json", "input_images")
    assert dataset.keys == ["142238", "439180"]
    for sample in dataset:
        coloured = np.asarray(Image.open(root / f"panoptic_examples/{int(sample.key):012d}.png")).astype(int)
        numbers = coloured @ [1, 256, 65536]
        assert len(sample.masks) + len(sample.remarks) == len(set(np.unique(numbers)) - {0})
        for mask in sample.masks:
            values = np.unique(numbers[mask == 1])
            assert len(values) == 1
            np.testing.assert_array_equal(mask == 1, numbers == values[0])
    assert [len(sample.masks) for sample in dataset] == [17, 30]
    assert [reasons(sample) for sample in dataset] == [{("crowd region", False): n} for n in (1, 2)]


def test_lvis_sample_without_iscrowd(shared, tmp_path):
    path = shared / "data/LVIS_val_100/data/lvis_val_100.json"
    content = json.loads(path.read_text())
    image = content["images"][0]
    photo(tmp_path / "val2017" / f"{image['id']:012d}.jpg", image["height"], image["width"])
    with pytest.raises(UserError, match=r"expected val2017/\d+\.jpg in"):
        CocoJson(tmp_path / "val2017", str(path), ".", file_key="coco_url")
    for first in sorted(content["images"], key=lambda image: image["id"])[:1]:
        photo(tmp_path / "val2017" / f"{first['id']:012d}.jpg")
    dataset = CocoJson(tmp_path, str(path), ".", file_key="coco_url")
    assert len(dataset) == 100
    sample = dataset[dataset.keys.index(str(image["id"]))]
    stated = {f"object{a['id']}": a for a in content["annotations"] if a["image_id"] == image["id"]}
    assert sample.ids == list(stated)
    assert reasons(sample) == {("no iscrowd, taken as 0", True): len(stated)}
    for name, mask in zip(sample.ids, sample.masks, strict=True):
        assert abs(int(mask.sum()) - stated[name]["area"]) < 10 + 0.03 * stated[name]["area"]  # pixels, polygons


# --- SA-1B -----------------------------------------------------------------------------------------------------------


def write_sa1b(folder, number, annotations, height=H, width=W):
    photo(folder / f"sa_{number}.jpg", height, width)
    image = {"image_id": number, "width": width, "height": height, "file_name": f"sa_{number}.jpg"}
    (folder / f"sa_{number}.json").write_text(json.dumps({"image": image, "annotations": annotations}))


def test_sa1b_boxes_and_areas_are_compared_with_the_masks(tmp_path):
    mask = box_mask(2, 6, 3, 10)
    about = {"segmentation": rle(mask), "area": 28, "iscrowd": 0}
    boxes = {1: [3, 2, 6, 3], 2: [3, 2, 7, 4], 3: [0, 0, 7, 4]}
    annotations = [{**about, "id": n, "bbox": box} for n, box in boxes.items()]
    annotations.append({**about, "id": 4, "area": 27})
    write_sa1b(tmp_path / "sa_000001", 5, annotations)
    write_sa1b(tmp_path / "sa_000000", 7, [])
    dataset = SA1B(tmp_path)
    assert dataset.keys == ["sa_5", "sa_7"]
    sample = dataset[0]
    assert sample.ids == ["object1", "object2", "object3", "object4"]
    assert [(r.mask_id, r.reason, r.kept) for r in sample.remarks] == [
        ("object1", "box one pixel short in width and height", True),
        ("object3", "box that is not the mask's", True),
        ("object4", "stated area that is not the mask's", True),
    ]
    assert len(dataset[1].masks) == 0


def test_sa1b_is_drawn_alike_however_its_tars_were_unpacked(tmp_path):
    annotations = [{"id": n, "segmentation": rle(box_mask(n, n + 2, 3, 10))} for n in range(1, 9, 2)]
    for number in range(12):
        write_sa1b(tmp_path / "flat", number, annotations)
        write_sa1b(tmp_path / f"by_tar/sa_00000{11 - number}", number, annotations)
    one, other = (SampledDataset(SA1B(tmp_path / how), "draw", 0, 4, masks_per_image=2) for how in ("flat", "by_tar"))
    assert len(one.keys) == 4
    assert [(sample.key, sample.ids) for sample in one] == [(sample.key, sample.ids) for sample in other]


def test_sa1b_image_in_two_folders_is_refused(tmp_path):
    for folder in ("a", "b"):
        write_sa1b(tmp_path / folder, 5, [])
    with pytest.raises(UserError, match="1 twice: a/sa_5 and b/sa_5"):
        SA1B(tmp_path)


def test_sa1b_unpaired_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match="found neither"):
        SA1B(tmp_path)
    write_sa1b(tmp_path, 5, [])
    (tmp_path / "sa_5.json").write_text('{"image": {}}')
    with pytest.raises(UserError, match=r"sa_5\.json; found KeyError"):
        SA1B(tmp_path)[0]
    photo(tmp_path / "sa_6.jpg")
    with pytest.raises(UserError, match="1 unpaired: sa_6 without json"):
        SA1B(tmp_path)
    with pytest.raises(UserError, match="nothing there"):
        SA1B(tmp_path / "gone")


def test_sa1b_sample(shared, tmp_path):
    text = (shared / "data/SA-1B_json_sample/sa_226381_subset.json").read_text()
    (tmp_path / "sa_226381.json").write_text(text)
    photo(tmp_path / "sa_226381.jpg", 1500, 2000)
    sample = SA1B(tmp_path)[0]
    assert [int(mask.sum()) for mask in sample.masks] == [a["area"] for a in json.loads(text)["annotations"]]
    assert reasons(sample) == {
        ("no iscrowd, taken as 0", True): 19,
        ("box one pixel short in width and height", True): 19,
    }


# --- SBD and PASCAL-Part ---------------------------------------------------------------------------------------------


@pytest.fixture
def sbd(tmp_path):
    root = tmp_path / "benchmark_RELEASE/dataset"
    for n, name in enumerate(("a", "b", "c")):
        photo(root / f"img/{name}.jpg")
        labels = np.zeros((H, W), dtype=np.uint8)
        labels[:5], labels[5:9] = 1, 3
        (root / "inst").mkdir(exist_ok=True)
        instances = {"Segmentation": labels * (n > 0), "Boundaries": 0, "Categories": 0}
        scipy.io.savemat(root / f"inst/{name}.mat", {"GTinst": instances})
    (root / "val.txt").write_text("c\na\n")
    return tmp_path


def test_sbd_follows_its_split(sbd):
    dataset = SBD(sbd)
    assert (dataset.name, dataset.keys) == ("sbd_val", ["c", "a"])
    assert [sample.ids for sample in dataset] == [["object1", "object3"], []]
    np.testing.assert_array_equal(dataset[0].masks, [box_mask(0, 5, 0, W), box_mask(5, 9, 0, W)])
    assert SBD(sbd, split=None).keys == ["a", "b", "c"]


def test_sbd_missing_files_are_named(sbd):
    root = sbd / "benchmark_RELEASE/dataset"
    (root / "val.txt").write_text("c\nx\n")
    with pytest.raises(UserError, match=r"2 missing: x without image, x without \.mat"):
        SBD(sbd)
    (root / "val.txt").write_text("c\na\nc\n")
    with pytest.raises(UserError, match="1 twice: c"):
        SBD(sbd)
    with pytest.raises(UserError, match=r"expected train\.txt in .*among benchmark_RELEASE/"):
        SBD(sbd, split="train")
    (root / "inst/c.mat").write_bytes(b"no mat")
    with pytest.raises(UserError, match=r"c\.mat"):
        SBD(sbd, split=None)[2]
    photo(root / "img/b.jpg", height=H + 1)
    assert reasons(SBD(sbd, split=None)[1]) == {("mask of another size than the image", False): 2}


def write_parts(path, *objects):
    """A PASCAL-Part file: each object is a mask and its named parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    things = np.empty((1, len(objects)), dtype=[(n, object) for n in ("class", "class_ind", "mask", "parts")])
    for k, (mask, parts) in enumerate(objects):
        inner = np.empty((1, len(parts)), dtype=[("part_name", object), ("mask", object)])
        for j, (name, part) in enumerate(parts):
            inner[0, j] = (name, part)
        things[0, k] = ("cat", 8, mask, inner if parts else np.zeros((0, 0)))
    scipy.io.savemat(path, {"anno": {"imname": path.stem, "objects": things}})


def test_pascal_part_defects_are_named(tmp_path):
    photo(tmp_path / "JPEGImages/a.jpg")
    whole = box_mask(0, 10, 0, 10)
    parts = [
        ("head", box_mask(0, 4, 0, 4)),
        ("tail", np.zeros((H, W), np.uint8)),
        ("leg", whole[:5]),
        ("ear", whole * 7),
        ("head", box_mask(4, 6, 0, 4)),
    ]
    write_parts(tmp_path / "Annotations_Part/a.mat", (whole, parts), (box_mask(12, 15, 0, 9), []))
    sample = PascalPart(tmp_path, include="all")[0]
    assert sample.ids == ["object0", "object0/part0_head", "object0/part4_head", "object1"]
    assert [(r.mask_id, r.reason) for r in sample.remarks] == [
        ("object0/part1_tail", "empty mask"),
        ("object0/part2_leg", "mask of another size than the image"),
        ("object0/part3_ear", "mask of other values than 0 and 1"),
    ]
    assert PascalPart(tmp_path, include="objects")[0].ids == ["object0", "object1"]
    assert PascalPart(tmp_path)[0].ids == ["object0/part0_head", "object0/part4_head"]
    with pytest.raises(UserError, match="objects, parts or all; found part"):
        PascalPart(tmp_path, include="part")


def test_pascal_part_sample(shared):
    root = shared / "data/PASCAL-Part/examples"
    dataset = PascalPart(root, images=".", annotations=".", include="all")
    num_objects = num_parts = num_outside = 0
    for sample in dataset:
        for name, mask in zip(sample.ids, sample.masks, strict=True):
            owner, _, part = name.partition("/")
            num_objects, num_parts = num_objects + (not part), num_parts + bool(part)
            num_outside += int((mask > sample.masks[sample.ids.index(owner)]).sum())
        assert not sample.remarks
    assert (len(dataset), num_objects, num_parts, num_outside) == PASCAL_PART_COUNTS
    parts = PascalPart(root, images=".", annotations=".")
    assert sum(len(sample.ids) for sample in parts) == num_parts


# --- ADE20K ----------------------------------------------------------------------------------------------------------


def test_ade20k_sample_equals_its_segmentation(shared):
    root = shared / "data/ADE20K_2021_17_01"
    dataset = ADE20K(root, split="training")
    assert len(dataset) == 3
    levels = []
    for sample in (dataset[0], dataset[1]):
        levels.append([sum(name.count("/") == level for name in sample.ids) for level in range(3)])
        assert not sample.remarks
    assert levels == [[51, 14, 5], [34, 3, 0]]
    # The blue channel of the segmentation numbers the visible objects.
    path = root / f"images/ADE/training/{sample.key}_seg.png"
    blue = np.asarray(Image.open(path))[..., 2]
    for name, mask in zip(sample.ids, sample.masks, strict=True):
        if "/" not in name:
            values = np.unique(blue[mask == 1])
            assert len(values) == 1
            np.testing.assert_array_equal(mask == 1, blue == values[0])


def write_ade(folder, key, things):
    """One image; `things` are id, parent (or none), level and instance map."""
    photo(folder / f"{key}.jpg")
    listed = []
    for number, parent, level, values in things:
        name = f"{key}/instance_{number:03d}_{key}.png"
        if values is not None:
            save(folder / name, values)
        parts = {"hasparts": [], "ispartof": [] if parent is None else parent, "part_level": level}
        listed.append({"id": number, "parts": parts, "instance_mask": name})
    (folder / f"{key}.json").write_text(json.dumps({"annotation": {"object": listed}}))


def test_ade20k_hierarchy_and_defects(tmp_path):
    folder = tmp_path / "ADE20K/images/ADE/validation/home/kitchen"
    full = box_mask(0, 9, 0, 9) * 255
    half = full.copy()
    half[5:9][half[5:9] > 0] = 128
    things = [
        (0, None, 0, half),
        (3, 0, 1, full),
        (4, 3, 2, full),
        (5, 99, 1, full),
        (6, None, 0, np.minimum(full, 128)),
        (7, None, 0, full[:4]),
        (8, None, 0, None),
        (9, None, 0, full // 5),
        (0, None, 0, half),
    ]
    write_ade(folder, "ADE_val_00000001", things)
    sample = ADE20K(tmp_path)[0]
    assert sample.key == "home/kitchen/ADE_val_00000001"
    assert sample.ids == ["object0", "object0/part3", "object0/part3/part4", "object5"]
    np.testing.assert_array_equal(sample.masks[0], box_mask(0, 5, 0, 9))  # occluded pixels are not the object's
    assert [(r.mask_id, r.reason, r.kept) for r in sample.remarks] == [
        ("object5", "part of something that is not listed", True),
        ("object6", "empty mask", False),
        ("object7", "mask of another size than the image", False),
        ("object8", "instance map that cannot be read", False),
        ("object9", "instance map of other values than 0, 128 and 255", False),
        ("object0", "duplicate id", False),
    ]
    assert ADE20K(tmp_path, include="parts")[0].ids == ["object0/part3", "object0/part3/part4", "object5"]
    (folder / "ADE_val_00000001.jpg").unlink()
    with pytest.raises(UserError, match=r"1 without \.jpg: home/kitchen/ADE_val_00000001"):
        ADE20K(tmp_path)


def test_scene_parsing_sample_and_its_instances(shared, tmp_path):
    root = shared / "data/ADE20K_sceneparsing"
    dataset = MaskFolder.below(root, "images", "annotations", "ade", ignore_value=-1)
    assert [len(sample.ids) for sample in dataset] == [7, 6, 12]
    for sample in dataset:
        labels = np.asarray(Image.open(root / f"sampleData/annotations/{sample.key}.png"))
        np.testing.assert_array_equal(sample.masks.any(0), labels > 0)
        assert sample.masks.sum(0).max() == 1
    # Instances: the class in the first channel, the number in the second.
    photo(tmp_path / "images/a.jpg")
    save(
        tmp_path / "masks/a.png",
        np.stack([box_mask(0, 9, 0, 9) * 12, box_mask(0, 9, 0, 5) * 2, box_mask(0, 0, 0, 0)], -1),
    )
    sample = MaskFolder(tmp_path / "images", tmp_path / "masks", values="second_channel")[0]
    assert sample.ids == ["object2"]
    np.testing.assert_array_equal(sample.masks[0], box_mask(0, 9, 0, 5))


# --- readings of maps ------------------------------------------------------------------------------------------------


def one_map(tmp_path, array, **options):
    photo(tmp_path / "images/a.jpg")
    if isinstance(array, Image.Image):
        (tmp_path / "masks").mkdir(exist_ok=True)
        array.save(tmp_path / "masks/a.png")
    else:
        save(tmp_path / "masks/a.png", array)
    return MaskFolder(tmp_path / "images", tmp_path / "masks", **options)[0]


def test_binary_maps_are_read_as_ritm_reads_them(tmp_path):
    grey = box_mask(0, 9, 0, 9) * 255 + box_mask(10, 12, 0, 9) * 128 + box_mask(13, 15, 0, 9) * 100
    expected = box_mask(0, 9, 0, 9).astype(np.int8) - box_mask(10, 12, 0, 9)
    sample = one_map(tmp_path, grey, values="binary")
    assert sample.ids == ["object1"]
    np.testing.assert_array_equal(sample.masks[0], expected)
    assert reasons(sample) == {("map of other values than 0, 128 and 255", True): 1}
    # Palette indices stand for colours; in a colour image the first channel counts.
    palette = Image.fromarray(box_mask(0, 9, 0, 9) + box_mask(10, 12, 0, 9) * 2).convert("P")
    palette.putpalette([0, 0, 0, 255, 255, 255, 128, 128, 128])
    for picture in (palette, np.stack([grey * (grey != 100), grey * 0, grey * 0], -1)):
        sample = one_map(tmp_path, picture, values="binary")
        np.testing.assert_array_equal(sample.masks[0], expected)
        assert not sample.remarks
    sample = one_map(tmp_path, box_mask(0, 3, 0, 3) * 128, values="binary")
    assert (sample.ids, reasons(sample)) == ([], {("empty mask", False): 1})


def test_union_of_all_colours(tmp_path):
    coloured = np.stack([box_mask(0, 3, 0, 9) * 7, box_mask(0, 0, 0, 0), box_mask(5, 8, 0, 9) * 200], -1)
    sample = one_map(tmp_path, coloured, values="union")
    np.testing.assert_array_equal(sample.masks, [box_mask(0, 3, 0, 9) + box_mask(5, 8, 0, 9)])
    with pytest.raises(UserError, match="a colour image"):
        one_map(tmp_path, coloured)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_opaque_is_no_object_for_that(tmp_path, mode):
    expected = box_mask(0, 3, 0, 9)
    with_alpha = Image.fromarray((expected * 200).astype(np.uint8)).convert(mode)  # opaque everywhere
    for values in ("union", "binary", "objects"):
        np.testing.assert_array_equal(one_map(tmp_path, with_alpha, values=values).masks, [expected])


def test_alpha_numbers_no_objects(tmp_path):
    for_numbers = Image.fromarray(box_mask(0, 3, 0, 9).astype(np.uint8)).convert("LA")
    with pytest.raises(UserError, match="one channel"):
        one_map(tmp_path, for_numbers, values="second_channel")


def test_background_other_than_zero(tmp_path):
    labels = np.full((H, W), 40, dtype=np.uint8)
    labels[:4], labels[4:6] = 0, 7
    sample = one_map(tmp_path, labels, background=40, ignore_value=-1)
    assert sample.ids == ["object0", "object7"]
    np.testing.assert_array_equal(sample.masks[0], labels == 0)
    with pytest.raises(UserError, match="values: objects, binary, union, second_channel; found binery"):
        one_map(tmp_path, labels, values="binery")


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_layout_is_found_below_the_root_and_doubts_are_named(tmp_path):
    (tmp_path / "x/y/img").mkdir(parents=True)
    assert find_layout(tmp_path, ["img"]) == tmp_path / "x/y"
    (tmp_path / "x/z/img").mkdir(parents=True)
    with pytest.raises(UserError, match="found 2: x/y, x/z"):
        find_layout(tmp_path, ["img"])
    (tmp_path / "img").mkdir()
    assert find_layout(tmp_path, ["img"]) == tmp_path
    with pytest.raises(UserError, match=r"expected gt in .*found no such entry among img/, x/"):
        find_layout(tmp_path, ["img", "gt"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file"):
        find_layout(tmp_path / "file", ["img"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        find_layout(tmp_path / "empty", ["img"])


def test_split_lists_of_all_kinds(tmp_path):
    path = tmp_path / "split.txt"
    path.write_text("b 1\n\na -1\n")
    assert read_split(path) == ["b", "a"]
    path.write_text("/JPEGImages/480p/bear/00000.jpg x\n/JPEGImages/480p/bear/00001.jpg x\n/J/480p/camel/00000.jpg x\n")
    assert read_split(path) == ["bear", "camel"]
    path.write_text("\n")
    with pytest.raises(UserError, match="an empty file"):
        read_split(path)
    with pytest.raises(UserError, match="No such file"):
        read_split(tmp_path / "gone.txt")


def test_yolo_lines_by_hand(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for stem in ("a", "b"):
        Image.new("RGB", (20, 10)).save(tmp_path / f"set/images/{stem}.png")
    lines = ["3 0.5 0.2 1.0 0.2 1.0 0.8 0.5 0.8", "7 0.1 0.1 0.5 0.5", "1 nan? 0.2 0.3", "", "2 0 0 0 0 0 0"]
    (tmp_path / "set/labels/a.txt").write_text("\n".join(lines))
    (tmp_path / "set/labels/c.txt").write_text("")
    dataset = YoloFolder(tmp_path, name="mine")
    assert dataset.keys == ["a", "b"]
    first, second = dataset
    assert first.ids == ["object0"]
    expected = np.zeros((10, 20), np.int8)
    expected[2:8, 10:] = 1  # x from 0.5 * 20 on, y from 0.2 * 10 to 0.8 * 10
    np.testing.assert_array_equal(first.masks[0], expected)
    assert [(remark.reason, remark.mask_id or remark.detail) for remark in first.remarks] == [
        ("text file without an image", "c.txt"),
        ("line that is no numbers", "object2"),
        ("malformed polygon", "object1"),
        ("empty mask", "object3"),
    ]
    assert (second.ids, [remark.reason for remark in second.remarks]) == ([], ["image without a text file"])
    (tmp_path / "set/labels/a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"expected a readable file .*a\.txt"):
        dataset[0]
    with pytest.raises(UserError, match="expected images, texts in"):
        YoloFolder(tmp_path, labels="texts")


def test_coco128_sample(shared):
    dataset = YoloFolder(shared / "data/coco128-seg", "images/train2017", "labels/train2017")
    assert len(dataset) == 128
    sample = dataset[0]
    assert (sample.key, sample.image.shape, len(sample.masks)) == ("000000000009", (480, 640, 3), 8)
    # COCO's own area of the bowl in front, 120,057 px; one polygon of its file.
    assert sample.masks.sum(axis=(1, 2)).max() == pytest.approx(120057, rel=0.02)
