import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.clicker import Clicker


def blobs(rng, shape, share):
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), rng.uniform(0.5, 12))
    return noise > np.quantile(noise, 1 - share)


def squared_depth(error, distance_transform):
    """Depth of every pixel of an error in the whole frame, as whole numbers of squared pixels."""
    depth = distance_transform(np.pad(error, 1).astype(np.uint8))[1:-1, 1:-1]
    return np.rint(depth.astype(np.float64) ** 2).astype(int)


def opencv(padded):
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def full_frame_click(gt, prediction, clicks, distance_transform):
    """The click rule, written plainly: two full distance transforms, no cropping and no pruning."""
    missed = squared_depth((gt == 1) & ~prediction, distance_transform)
    spurious = squared_depth((gt == 0) & prediction, distance_transform)
    for y, x, _ in clicks:
        missed[y, x] = spurious[y, x] = 0
    is_positive = bool(missed.max() > spurious.max())
    y, x = np.argwhere((missed if is_positive else spurious) == max(missed.max(), spurious.max()))[0]
    return int(y), int(x), is_positive


@pytest.mark.parametrize("distance_transform", [opencv, distance_transform_edt])
@pytest.mark.parametrize("seed", range(60))
def test_clicks_equal_the_full_frame_transforms(seed, distance_transform):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 150, size=2))
    gt = blobs(rng, shape, rng.uniform(0.02, 0.95)).astype(np.int8)
    gt[blobs(rng, shape, 0.1)] = -1
    clicker = Clicker(gt)
    prediction = np.zeros(shape, dtype=bool)
    for _ in range(6):
        expected = full_frame_click(gt, prediction, clicker.clicks, distance_transform)
        assert clicker.next_click(prediction) == expected
        if rng.random() < 0.6:  # else the same error again: only the pixels clicked before have changed
            prediction = blobs(rng, shape, rng.uniform(0.02, 0.95))


def test_clicks_in_a_large_frame_equal_opencv():
    yx = np.mgrid[:700, :900]
    gt = (np.hypot(yx[0] - 340, (yx[1] - 470) * 0.8) < 330).astype(np.int8)
    prediction = np.roll(gt, 90, axis=1) == 1
    for shown in (np.zeros_like(prediction), prediction, ~prediction):
        assert Clicker(gt).next_click(shown) == full_frame_click(gt, shown, [], opencv)


def test_a_thin_error_is_clicked_pixel_by_pixel_in_row_major_order():
    gt = np.zeros((3, 5), dtype=np.int8)
    gt[1, 1:4] = 1
    clicker, nothing = Clicker(gt), np.zeros((3, 5), dtype=bool)
    assert [clicker.next_click(nothing) for _ in range(4)] == [(1, 1, True), (1, 2, True), (1, 3, True), (0, 0, False)]


def test_the_frame_is_a_boundary():
    # All of a 5 x 7 frame is the object: depth 3 in the middle row only, from column 2 to 4.
    assert Clicker(np.ones((5, 7), dtype=np.int8)).next_click(np.zeros((5, 7), dtype=bool)) == (2, 2, True)


def test_equal_depth_gives_a_negative_click():
    gt = np.zeros((9, 20), dtype=np.int8)
    gt[2:7, 1:6] = 1
    wrong = np.zeros(gt.shape, dtype=bool)
    wrong[2:7, 12:17] = True
    assert Clicker(gt).next_click(wrong) == (4, 14, False)


def test_no_error_left_gives_a_negative_click_at_the_corner_again_and_again():
    gt = np.zeros((9, 9), dtype=np.int8)
    gt[3:6, 3:6] = 1
    clicker = Clicker(gt)
    assert [clicker.next_click(gt == 1) for _ in range(2)] == [(0, 0, False)] * 2


def test_ignored_pixels_are_no_error_and_not_counted():
    gt = np.array([[1, 1, 0, 0, -1, -1]], dtype=np.int8)
    prediction = np.array([[True, False, True, False, True, False]])
    assert Clicker(gt).iou(prediction) == 1 / 3
    everywhere_but_ignored_wrong = np.array([[True, True, False, False, True, True]])
    assert Clicker(gt).iou(everywhere_but_ignored_wrong) == 1.0
    assert Clicker(gt).next_click(everywhere_but_ignored_wrong) == (0, 0, False)


def test_iou_equals_sets_of_pixels():
    rng = np.random.default_rng(0)
    gt = rng.integers(-1, 2, size=(40, 30)).astype(np.int8)
    prediction = rng.random((40, 30)) > 0.5
    counted = gt != -1
    union = ((gt == 1) | prediction) & counted
    assert Clicker(gt).iou(prediction) == ((gt == 1) & prediction & counted).sum() / union.sum()


def test_iou_of_nothing_with_nothing_is_nan():
    empty = np.zeros((4, 4), dtype=np.int8)
    assert np.isnan(Clicker(empty).iou(empty == 1))
    assert Clicker(empty).iou(empty == 0) == 0.0


def test_memory_order_and_strides_do_not_matter():
    rng = np.random.default_rng(3)
    gt, prediction = blobs(rng, (50, 70), 0.4).astype(np.int8), blobs(rng, (50, 70), 0.5)
    plain, fortran = Clicker(gt), Clicker(np.asfortranarray(gt))
    strided = np.zeros((100, 140), dtype=bool)
    strided[::2, ::2] = prediction
    assert plain.next_click(prediction) == fortran.next_click(strided[::2, ::2])
    assert plain.iou(prediction) == fortran.iou(strided[::2, ::2])


@pytest.mark.parametrize(
    "gt", [np.full((3, 3), 2), np.full((3, 3), -2), np.zeros(3), np.zeros((0, 3)), np.zeros((2, 3, 3))]
)
def test_a_wrong_ground_truth_is_refused(gt):
    with pytest.raises(UserError, match="one object at a time"):
        Clicker(gt)


@pytest.mark.parametrize("prediction", [np.zeros((3, 4), dtype=bool), np.zeros((3, 3), dtype=np.float32)])
def test_a_wrong_prediction_is_refused(prediction):
    clicker = Clicker(np.ones((3, 3), dtype=np.int8))
    with pytest.raises(UserError, match=r"bool prediction of shape \(3, 3\)"):
        clicker.next_click(prediction)
    with pytest.raises(UserError, match=r"bool prediction of shape \(3, 3\)"):
        clicker.iou(prediction)
