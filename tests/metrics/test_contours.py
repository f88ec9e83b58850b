import cv2
import numpy as np
import pytest
import scipy.io

from unsam_lightning.metrics.contours import boundary_pixels, thin_lines

BSDS_CASES = (
    "bsds_shift1_inside_tol",
    "bsds_shift3_outside_tol",
    "bsds_two_annotators",
    "bsds_empty_prediction",
    "bsds_full_size_wavy",
)


def test_boundary_by_hand():
    labels = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    # Right, below and diagonally below count; the last row and column see only along themselves, the corner nothing.
    expected = [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    np.testing.assert_array_equal(boundary_pixels(labels), np.array(expected, dtype=bool))
    np.testing.assert_array_equal(boundary_pixels(labels * 1000), np.array(expected, dtype=bool))


def test_an_edge_on_the_frame_is_no_boundary():
    assert not boundary_pixels(np.ones((5, 6), dtype=bool)).any()
    assert not boundary_pixels(np.zeros((1, 1), dtype=bool)).any()


@pytest.mark.parametrize("name", BSDS_CASES)
def test_boundary_and_thinning_equal_the_reference(shared, name):
    golden = np.load(shared / "golden/boundary/bsds_inputs.npz")
    for part in ("pred", "gt0", "gt1"):
        if f"{name}__{part}_seg" in golden:
            np.testing.assert_array_equal(
                boundary_pixels(golden[f"{name}__{part}_seg"]), golden[f"{name}__{part}_bdry"]
            )
    np.testing.assert_array_equal(thin_lines(golden[f"{name}__pred_bdry"]), golden[f"{name}__pred_thin"])


def test_the_boundaries_of_bsds_are_the_thinned_ones_of_its_segmentations(shared):
    files = sorted((shared / "data/BSDS500/val/groundTruth").glob("*.mat"))[:8]
    annotations = [cell[0, 0] for file in files for cell in scipy.io.loadmat(file)["groundTruth"].ravel()]
    assert len(annotations) > 30
    for one in annotations:
        np.testing.assert_array_equal(thin_lines(boundary_pixels(one["Segmentation"])), one["Boundaries"] > 0)


def test_thinning_by_hand():
    bar = np.zeros((5, 9), dtype=bool)
    bar[1:4, 1:8] = True
    thinned = thin_lines(bar)
    assert thinned[2].sum() >= 5
    assert not thinned[[0, 1, 3, 4]].any()
    one_pixel = np.zeros((3, 3), dtype=bool)
    one_pixel[1, 1] = True
    np.testing.assert_array_equal(thin_lines(one_pixel), one_pixel)
    assert not thin_lines(np.zeros((3, 3))).any()


@pytest.mark.parametrize("seed", range(5))
def test_thinning_keeps_components_and_is_done_at_once(seed):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((60, 80)), (0, 0), 2)
    blobs = noise > 0.02
    thinned = thin_lines(blobs)
    assert 0 < thinned.sum() < blobs.sum()
    assert not (thinned & ~blobs).any()
    components = [cv2.connectedComponents(each.astype(np.uint8), connectivity=8)[0] for each in (blobs, thinned)]
    assert components[0] == components[1]
    np.testing.assert_array_equal(thin_lines(thinned), thinned)
