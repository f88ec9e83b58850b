import numpy as np
import pytest
import scipy.io
from PIL import Image

from unsam_lightning.benchmarks.readers.bsds import BSDS500
from unsam_lightning.benchmarks.readers.image_file import files_by_stem, read_rgb
from unsam_lightning.benchmarks.readers.mask_folder import MaskFolder
from unsam_lightning.benchmarks.sample import Remark
from unsam_lightning.errors import UserError

H, W = 24, 30


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)


def photo(path, height=H, width=W, **options):
    rng = np.random.default_rng(height * width)
    save(path, rng.integers(0, 256, (height, width, 3), dtype=np.uint8), **options)


def write_mat(path, *label_maps):
    """A .mat file as BSDS has them: a cell of structs with Segmentation and Boundaries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.empty((1, len(label_maps)), dtype=object)
    for k, labels in enumerate(label_maps):
        cells[0, k] = {"Segmentation": labels.astype(np.uint16), "Boundaries": np.zeros(labels.shape, np.uint8)}
    scipy.io.savemat(path, {"groundTruth": cells})


def stripes(*heights, width=W):
    """A label map of horizontal stripes, labels from 1."""
    return np.repeat(np.arange(1, len(heights) + 1), heights)[:, None] * np.ones((1, width), dtype=int)


def assert_same(one, other):
    assert (one.key, one.ids) == (other.key, other.ids)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.masks, other.masks)


# --- BSDS500 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bsds(tmp_path):
    """Two images; the annotators of "a" cut it into 3 and into 5 stripes."""
    for key in ("b", "a"):
        photo(tmp_path / f"val/images/{key}.jpg")
    write_mat(tmp_path / "val/groundTruth/a.mat", stripes(2, 10, 12), stripes(5, 5, 5, 5, 4))
    write_mat(tmp_path / "val/groundTruth/b.mat", stripes(24))
    return tmp_path


def test_bsds_masks_are_the_segments_of_every_annotator(bsds):
    dataset = BSDS500(bsds, min_area_px=100)
    assert dataset.name == "bsds500_val"
    assert [sample.key for sample in dataset] == ["a", "b"]
    sample = dataset[0]
    assert (sample.image.shape, sample.image.dtype) == ((H, W, 3), np.uint8)
    assert (sample.masks.shape, sample.masks.dtype) == ((7, H, W), np.int8)
    # The stripe of 2 rows has 60 pixels, those of 4 and 5 rows 120 and 150.
    assert sample.ids == [
        *("annotator0/segment2", "annotator0/segment3"),
        *(f"annotator1/segment{label}" for label in range(1, 6)),
    ]
    np.testing.assert_array_equal(sample.masks[0], stripes(2, 10, 12) == 2)
    np.testing.assert_array_equal(sample.masks[6], stripes(5, 5, 5, 5, 4) == 5)
    assert set(np.unique(sample.masks)) == {0, 1}


def test_bsds_smallest_area_is_included(bsds):
    assert len(BSDS500(bsds, min_area_px=60)[0].ids) == 8
    assert len(BSDS500(bsds, min_area_px=61)[0].ids) == 7
    empty = BSDS500(bsds, min_area_px=10_000)[0]
    assert (empty.ids, empty.masks.shape) == ([], (0, H, W))


def test_bsds_missing_folders_are_named(bsds, tmp_path):
    with pytest.raises(UserError, match="the splits val"):
        BSDS500(bsds, split="test")
    with pytest.raises(UserError, match="no folder"):
        BSDS500(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no folder with images/"):
        BSDS500(tmp_path / "empty")


def test_bsds_as_released_has_the_folders_the_other_way_round(bsds, tmp_path):
    released = tmp_path / "new/BSDS500-master/BSDS500/data"
    for kind in ("images", "groundTruth"):
        (released / kind).mkdir(parents=True)
        (bsds / "val" / kind).rename(released / kind / "val")
    assert [sample.ids for sample in BSDS500(tmp_path / "new", min_area_px=700)] == [[], ["annotator0/segment1"]]


def test_bsds_unpaired_files_are_all_named(bsds):
    photo(bsds / "val/images/c.jpg")
    write_mat(bsds / "val/groundTruth/d.mat", stripes(24))
    with pytest.raises(UserError, match="c without annotation, d without image"):
        BSDS500(bsds)


@pytest.mark.parametrize("content", [b"", b"no mat file at all", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_bsds_broken_annotation_is_named(bsds, content):
    (bsds / "val/groundTruth/b.mat").write_bytes(content)
    dataset = BSDS500(bsds)
    assert dataset[0].key == "a"
    with pytest.raises(UserError, match=r"b\.mat"):
        dataset[1]


def test_bsds_annotation_without_segmentations_is_named(bsds):
    scipy.io.savemat(bsds / "val/groundTruth/b.mat", {"something": np.zeros(3)})
    with pytest.raises(UserError, match=r"b\.mat; found KeyError: 'groundTruth'"):
        BSDS500(bsds)[1]


def test_bsds_sizes_that_differ_are_named(bsds):
    write_mat(bsds / "val/groundTruth/b.mat", stripes(24), stripes(10), stripes(24, width=7))
    with pytest.raises(UserError, match=r"\(10, 30\) of annotator1, \(24, 7\) of annotator2"):
        BSDS500(bsds)[1]


def test_bsds_real_images(shared):
    dataset = BSDS500(shared / "data/BSDS500")
    assert (len(dataset), len(BSDS500(shared / "data/BSDS500", "train"))) == (100, 200)
    sample = dataset[0]
    cells = scipy.io.loadmat(shared / f"data/BSDS500/val/groundTruth/{sample.key}.mat")["groundTruth"]
    num_found = 0
    for k in range(cells.shape[1]):
        labels = cells[0, k][0, 0]["Segmentation"]
        for label in np.unique(labels):
            mask, name = labels == label, f"annotator{k}/segment{label}"
            assert (name in sample.ids) == (mask.sum() >= 100)
            if name in sample.ids:
                np.testing.assert_array_equal(sample.masks[sample.ids.index(name)], mask)
                num_found += 1
    assert num_found == len(sample.ids) == len(sample.masks) > 10


# --- folders of masks ------------------------------------------------------------------------------------------------


def rows(*values):
    """A map (H, W) of the values, one row each, the rest 0."""
    array = np.zeros((H, W), dtype=np.uint8)
    array[: len(values)] = np.array(values, dtype=np.uint8)[:, None]
    return array


@pytest.fixture
def folder(tmp_path):
    photo(tmp_path / "set/images/a.jpg")
    (tmp_path / "set/masks").mkdir()
    return tmp_path / "set"


def read(folder, **options):
    return MaskFolder(folder / "images", folder / "masks", **options)[0]


@pytest.mark.parametrize(
    ("values", "ignore_value", "ids", "ignored_rows"),
    [
        pytest.param([0, 255, 255], None, ["object255"], [], id="binary"),
        pytest.param([0, 255, 128], None, ["object255"], [2], id="binary with the band of GrabCut"),
        pytest.param([0, 1], None, ["object1"], [], id="one object"),
        pytest.param([3, 0, 7, 128, 9], None, ["object3", "object7", "object9", "object128"], [], id="object numbers"),
        pytest.param([1, 2, 255], 255, ["object1", "object2"], [2], id="void of DAVIS"),
        pytest.param([1, 2, 255], -1, ["object1", "object2", "object255"], [], id="255 is an object"),
        pytest.param([255, 128], 7, ["object128", "object255"], [], id="128 is an object"),
        pytest.param([1, 254, 255], None, ["object1", "object254", "object255"], [], id="numbers up to 255"),
        pytest.param([0], None, [], [], id="no object"),
    ],
)
def test_values_of_a_map(folder, values, ignore_value, ids, ignored_rows):
    save(folder / "masks/a.png", rows(*values))
    sample = read(folder, ignore_value=ignore_value)
    assert sample.ids == ids
    assert (sample.masks.shape, sample.masks.dtype) == ((len(ids), H, W), np.int8)
    for mask, name in zip(sample.masks, ids, strict=True):
        expected = (rows(*values) == int(name.removeprefix("object"))).astype(np.int8)
        expected[ignored_rows] = -1
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(("values", "message"), [([128], "0 and 128 only"), ([1, 2, 255], "255 beside other objects")])
def test_ambiguous_maps_are_refused(folder, values, message):
    save(folder / "masks/a.png", rows(*values))
    with pytest.raises(UserError, match=message):
        read(folder)


def test_maps_of_all_kinds_of_grey(folder):
    expected = (rows(0, 1, 1) == 1).astype(np.int8)[None]
    palette = Image.fromarray(rows(0, 1, 1)).convert("P")
    palette.putpalette([0, 0, 0, 200, 30, 30])
    binary = rows(0, 255, 255)
    alpha = np.full((H, W, 1), 255, dtype=np.uint8)
    kinds = {
        "palette": palette,
        "bits": Image.fromarray(binary).convert("1"),
        "deep": Image.fromarray(rows(0, 1, 1).astype(np.uint16) * 999),
        "rgb": Image.fromarray(np.repeat(binary[..., None], 3, axis=2)),
        "rgba": Image.fromarray(np.concatenate([np.repeat(binary[..., None], 3, axis=2), alpha], axis=2)),
    }
    for image in kinds.values():
        image.save(folder / "masks/a.png")
        np.testing.assert_array_equal(read(folder).masks, expected)


def test_colour_maps_are_refused(folder):
    photo(folder / "masks/a.png")
    with pytest.raises(UserError, match="a colour image"):
        read(folder)


def test_a_folder_of_objects(folder):
    save(folder / "masks/a/tail.png", rows(0, 255))
    save(folder / "masks/a/head.bmp", rows(255, 128))
    save(folder / "masks/a/whole.png", rows(1, 1, 1))
    (folder / "masks/a/notes.txt").write_text("not a mask")
    sample = read(folder)
    assert sample.ids == ["head", "tail", "whole"]
    assert sample.masks[:, :4, 0].tolist() == [[1, -1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]]


def test_problems_in_a_folder_of_objects_are_all_named(folder):
    save(folder / "masks/a/two.png", rows(1, 2))
    save(folder / "masks/a/good.png", rows(1))
    save(folder / "masks/a/three.png", rows(1, 2, 3))
    with pytest.raises(UserError, match=r"three\.png: 3 objects.*two\.png: 2 objects"):
        read(folder)


def test_empty_masks_and_those_of_another_size_are_left_out_and_named(folder):
    save(folder / "masks/a/good.png", rows(1))
    save(folder / "masks/a/none.png", rows(0))
    save(folder / "masks/a/small.png", rows(1)[:5])
    photo(folder / "images/b.jpg")
    save(folder / "masks/b.png", rows(1)[:, :3])
    one, other = MaskFolder(folder / "images", folder / "masks")
    assert (one.ids, one.masks.shape) == (["good"], (1, H, W))
    assert one.remarks == [
        Remark("", "empty mask", "none.png"),
        Remark("small", "mask of another size than the image", "small.png is 30x5, the image 30x24"),
    ]
    assert (other.ids, other.masks.shape) == ([], (0, H, W))
    assert other.remarks == [Remark("", "mask of another size than the image", "b.png is 3x24, the image 30x24")]


def test_problems_of_a_data_set_are_all_named(folder):
    for key in ("b", "c", "d"):
        photo(folder / f"images/{key}.jpg")
    save(folder / "masks/a.png", rows(1))
    save(folder / "masks/b/x.png", rows(1))
    (folder / "masks/d").mkdir()
    save(folder / "masks/e.png", rows(1))
    with pytest.raises(UserError) as caught:
        read(folder)
    problems = [
        "image c.jpg has no mask",
        "mask e.png has no image",
        "mask folder d is empty",
    ]
    assert f"found {'; '.join(problems)}; rename" in str(caught.value)


def test_folders_and_files_of_one_name_are_refused(folder):
    save(folder / "masks/a.png", rows(1))
    save(folder / "masks/a/x.png", rows(1))
    with pytest.raises(UserError, match="both for a"):
        read(folder)


def test_missing_or_unusable_folders_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"none of them among 0 entries"):
        read(folder)
    photo(folder / "masks/a.jpg")
    with pytest.raises(UserError, match=r"expected \.png.*none of them among 1 entries"):
        read(folder)
    with pytest.raises(UserError, match="nothing there"):
        MaskFolder(tmp_path / "nowhere", folder / "masks")
    with pytest.raises(UserError, match="nothing there"):
        MaskFolder(folder / "images", tmp_path / "nowhere")


def test_a_broken_mask_is_named(folder):
    (folder / "masks/a.png").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"readable file .*a\.png"):
        read(folder)
    save(folder / "masks/a.png", np.random.default_rng(0).integers(0, 2, (H, W), dtype=np.uint8))
    dataset = MaskFolder(folder / "images", folder / "masks")
    (folder / "masks/a.png").write_bytes((folder / "masks/a.png").read_bytes()[:70])
    with pytest.raises(UserError, match=r"a\.png"):
        dataset[0]


def test_images_are_turned_upright(folder):
    exif = Image.Exif()
    exif[274] = 6  # stored lying on its side
    photo(folder / "images/a.jpg", exif=exif)
    save(folder / "masks/a.png", rows(1).T)
    sample = read(folder)
    assert sample.image.shape == (W, H, 3)
    assert sample.masks.shape == (1, W, H)
    save(folder / "masks/a.png", rows(1))  # the size as stored, not as seen
    assert [remark.detail for remark in read(folder).remarks] == ["a.png is 30x24, the image 24x30"]


def test_names_and_order(folder):
    for key in ("c", "b"):
        photo(folder / f"images/{key}.png")
    for key in ("a", "b", "c"):
        save(folder / f"masks/{key}.png", rows(1))
    dataset = MaskFolder(folder / "images", folder / "masks")
    assert (dataset.name, len(dataset), [sample.key for sample in dataset]) == ("set", 3, ["a", "b", "c"])
    assert MaskFolder(folder / "images", folder / "masks", name="mine").name == "mine"
    assert_same(dataset[1], dataset[1])


def test_grabcut(shared):
    root = shared / "data/GrabCut_13"
    dataset = MaskFolder(root / "imgs", root / "seg_GT")
    assert (dataset.name, len(dataset)) == ("GrabCut_13", 13)
    areas = {}
    for sample in dataset:
        assert sample.ids == ["object255"]
        assert sample.masks.shape == (1, *sample.image.shape[:2])
        assert set(np.unique(sample.masks)) == {0, 1}
        areas[sample.key] = int(sample.masks.sum())
    assert list(areas) == sorted(areas)
    # The object's pixels as the golden click sessions count them.
    assert (areas["llama"], areas["flower"], areas["sheep"]) == (33455, 52289, 14034)


# --- image files -----------------------------------------------------------------------------------------------------


def test_files_of_one_stem_are_refused(tmp_path):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "a.PNG")
    with pytest.raises(UserError, match=r"a\.PNG and a\.jpg"):
        files_by_stem(tmp_path)


def test_hidden_and_other_files_are_left_out(tmp_path):
    photo(tmp_path / "b.JPG")
    photo(tmp_path / ".a.png")
    (tmp_path / "c.txt").write_text("")
    (tmp_path / "d.png").mkdir()
    assert files_by_stem(tmp_path) == {"b": tmp_path / "b.JPG"}


def test_grey_images_become_rgb_and_deep_ones_are_refused(tmp_path):
    save(tmp_path / "grey.png", rows(9))
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.repeat(rows(9)[..., None], 3, axis=2))
    save(tmp_path / "deep.png", rows(9).astype(np.uint16))
    with pytest.raises(UserError, match="8 bits"):
        read_rgb(tmp_path / "deep.png")


def test_broken_images_are_named(tmp_path):
    photo(tmp_path / "a.jpg", height=200, width=200)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"a\.jpg.*truncated"):
        read_rgb(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.jpg"):
        read_rgb(tmp_path / "a.jpg")
