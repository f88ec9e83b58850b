"""Scenes: the same for a seed, masks that form a forest, and pictures whose pixels agree with the masks."""

import hashlib

import numpy as np
import pytest

from unsam_lightning.benchmarks.readers.scenes import ScenesDataset, mask_ids
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import granularity_scores
from unsam_lightning.scenes import FIRST_TEST_SEED, make_scene, textures

SIZES = [256] * 20 + [128, (96, 200), (200, 96), 64, 32, (32, 400), (400, 32), 300, (500, 300), 640] * 2


def fingerprint(scene):
    digest = hashlib.sha256(scene.image.tobytes())
    for field in (scene.masks, scene.parent, scene.level, scene.granularity):
        digest.update(field.tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def scenes():
    return [(size, make_scene(seed, size)) for seed, size in enumerate(SIZES)]


def smallest(height, width, min_area_px=16):
    return max(min_area_px * height * width / 65536, 4)


def test_a_seed_gives_the_same_scene_whatever_was_made_before(scenes):
    first = {seed: fingerprint(scenes[seed][1]) for seed in (3, 7, 29)}
    textures.bank.cache_clear()
    textures.sensor_noise.cache_clear()
    for seed in (29, 3, 7):
        assert fingerprint(make_scene(seed, SIZES[seed])) == first[seed]


def test_seeds_and_sizes_give_different_scenes(scenes):
    prints = {fingerprint(scene) for _, scene in scenes}
    assert len(prints) == len(scenes)
    assert not np.array_equal(make_scene(1, 64).masks.any(0), make_scene(1, 65).masks.any(0))


def test_shapes_and_dtypes(scenes):
    for size, scene in scenes:
        height, width = (size, size) if isinstance(size, int) else size
        count = len(scene.parent)
        assert scene.image.shape == (height, width, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (count, height, width)
        assert scene.masks.dtype == np.bool_
        assert (scene.parent.dtype, scene.level.dtype, scene.granularity.dtype) == (np.int32, np.int32, np.float64)
        assert len(scene.level) == len(scene.granularity) == count >= 1


def test_masks_form_a_forest(scenes):
    for _, scene in scenes:
        index = np.arange(len(scene.parent))
        assert (scene.parent < index).all()
        assert (scene.parent >= -1).all()
        roots = scene.parent < 0
        assert (scene.level[roots] == 0).all()
        assert (scene.level[~roots] == scene.level[scene.parent[~roots]] + 1).all()
        assert scene.level.max() <= 2


def test_children_are_strict_subsets_and_siblings_are_disjoint(scenes):
    for _, scene in scenes:
        least = smallest(*scene.image.shape[:2])
        for parent in range(-1, len(scene.parent)):
            children = scene.masks[scene.parent == parent]
            if len(children) == 0:
                continue
            assert children.sum(0, dtype=np.uint8).max() <= 1
            if parent >= 0:
                whole = scene.masks[parent]
                assert not (children & ~whole).any()
                assert (whole.sum() - children.sum((1, 2)) >= least).all()


def test_masks_are_not_smaller_than_asked():
    for size, scene in ((256, make_scene(5)), (32, make_scene(5, 32)), ((100, 300), make_scene(5, (100, 300)))):
        height, width = (size, size) if isinstance(size, int) else size
        assert scene.masks.sum((1, 2)).min() >= smallest(height, width)
    few, many = make_scene(5, min_area_px=400), make_scene(5, min_area_px=4)
    assert few.masks.sum((1, 2)).min() >= 400
    assert len(few.masks) < len(many.masks)
    assert np.array_equal(few.image, many.image)  # what is masked does not change the picture


def test_granularity_is_by_area_within_each_object(scenes):
    for _, scene in scenes:
        root = np.arange(len(scene.parent))
        for k, parent in enumerate(scene.parent):
            if parent >= 0:
                root[k] = root[parent]
        for top in np.unique(root):
            tree = root == top
            assert np.array_equal(scene.granularity[tree], granularity_scores(scene.masks[tree].sum((1, 2))))
            assert scene.granularity[top] == 1.0
        assert scene.granularity.min() >= 0.1


def test_every_pixel_shows_an_object_unless_its_object_is_too_small(scenes):
    covered = [scene.masks.any(0).mean() for _, scene in scenes]
    assert np.mean(covered) > 0.99


def test_scenes_are_rich_and_varied(scenes):
    square = [scene for size, scene in scenes if size == 256]
    masks = [len(scene.masks) for scene in square]
    assert 20 <= np.median(masks) <= 60
    assert 5 <= np.median([(scene.level == 0).sum() for scene in square]) <= 14
    assert (np.concatenate([scene.level for scene in square]) == 2).mean() > 0.1
    assert max(masks) > 2 * min(masks)


def test_edges_of_the_picture_lie_on_edges_of_the_masks():
    """The picture must agree with its masks: moving the masks away from it must lose contrast at their borders."""
    aligned, moved = [], []
    for seed in range(12):
        scene = make_scene(seed, 128)
        grey = scene.image.mean(2)
        step = np.abs(np.diff(grey, axis=1))
        objects = scene.masks[scene.level == 0]
        border = (objects[:, :, 1:] != objects[:, :, :-1]).any(0)
        aligned.append(step[border].mean() / step.mean())
        moved.append(step[np.roll(border, 9, axis=1)].mean() / step.mean())
    assert np.mean(aligned) > 1.4 * np.mean(moved)


def test_pictures_have_the_statistics_of_photographs(scenes, shared):
    import cv2

    def steepness(image):
        side = 256
        grey = image[:side, :side].mean(2) / 255
        window = np.hanning(side)
        power = np.abs(np.fft.fft2((grey - grey.mean()) * window * window[:, None])) ** 2
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))) * side
        radius = np.round(frequency).astype(int).ravel()
        profile = np.bincount(radius, power.ravel()) / np.bincount(radius)
        k = np.arange(4, 120)
        return np.polyfit(np.log(k), np.log(profile[k] + 1e-12), 1)[0]

    photos = [cv2.imread(str(path)) for path in sorted((shared / "data/BSDS500/train/images").glob("*.jpg"))[:40]]
    real = [steepness(photo) for photo in photos]
    made = [steepness(scene.image) for size, scene in scenes if size == 256]
    assert abs(np.mean(made) - np.mean(real)) < 0.7
    contrast = [photo.std() for photo in photos], [scene.image.std() for size, scene in scenes if size == 256]
    assert np.mean(contrast[1]) == pytest.approx(np.mean(contrast[0]), rel=0.3)


@pytest.mark.parametrize(("seed", "size"), [(-1, 256), (0, 0), (0, 31), (0, 4096), (0, (256, 8)), (0, -256)], ids=str)
def test_bad_input_says_what_to_do(seed, size):
    with pytest.raises(UserError, match="expected"):
        make_scene(seed, size)


def test_benchmark_serves_scenes_that_training_never_sees():
    data = ScenesDataset(3, size=64)
    assert len(data) == 3
    samples = list(data)
    scene = make_scene(FIRST_TEST_SEED + 2, 64)
    assert np.array_equal(samples[2].image, scene.image)
    assert samples[2].masks.dtype == np.int8
    assert np.array_equal(samples[2].masks == 1, scene.masks)
    assert set(np.unique(samples[2].masks)) <= {0, 1}
    assert len({sample.key for sample in samples}) == 3
    assert all(len(set(sample.ids)) == len(sample.ids) == len(sample.masks) for sample in samples)
    with pytest.raises(IndexError):
        data[3]
    with pytest.raises(UserError, match="num_images"):
        ScenesDataset(-1)


def test_benchmark_leaves_out_small_masks_and_keeps_their_neighbours_names():
    whole, large = (ScenesDataset(1, size=64, min_area_px=area)[0] for area in (0, 100))
    wanted = [mask for mask, pixels in enumerate(whole.masks) if (pixels == 1).sum() >= 100]
    assert 0 < len(wanted) < len(whole.ids)
    assert np.array_equal(large.masks, whole.masks[wanted])
    assert large.ids == [whole.ids[mask] for mask in wanted]


def test_mask_ids_follow_the_tree():
    parent = np.array([-1, 0, 1, 0, -1, 4], np.int32)
    assert mask_ids(parent) == [
        "object0", "object0/part0", "object0/part0/part0", "object0/part1", "object1", "object1/part0"
    ]  # fmt: skip
