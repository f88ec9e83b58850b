import json

import numpy as np
import pytest

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.boundary import BoundaryQuality, boundary_iou, davis_f, mask_iou


def ellipse(y, x, a, b, shape=(120, 160)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 * b**2 + (columns - x) ** 2 * a**2 <= a**2 * b**2


def test_f_equals_davis(shared):
    golden = np.load(shared / "golden/boundary/davis_inputs.npz")
    cases = json.loads((shared / "golden/boundary/davis_expected.json").read_text())["cases"]
    assert len(cases) >= 8
    for name, case in cases.items():
        pred, gt = golden[f"{name}__pred"], golden[f"{name}__gt"]
        assert davis_f(pred, gt, bound=case["bound_th"]) == pytest.approx(case["F"], abs=1e-12), name
        assert mask_iou(pred, gt) == pytest.approx(case["J"], abs=1e-12), name


def test_boundary_iou_equals_the_reference(shared):
    golden = np.load(shared / "golden/boundary/biou_inputs.npz")
    cases = json.loads((shared / "golden/boundary/biou_expected.json").read_text())["cases"]
    assert len(cases) >= 4
    metric, values = BoundaryQuality(), []
    for name, case in cases.items():
        pred, gt = golden[f"{name}__pred"], golden[f"{name}__gt"]
        value = boundary_iou(pred, gt, case["dilation_ratio"])
        assert value == pytest.approx(case["boundary_iou"], abs=1e-12), name
        assert mask_iou(pred, gt) == pytest.approx(case["mask_iou"], abs=1e-12), name
        assert min(value, mask_iou(pred, gt)) == pytest.approx(case["used_in_AP_min"], abs=1e-12), name
        metric.update(pred, gt)
        values.append([davis_f(pred, gt), case["boundary_iou"], case["mask_iou"]])
    np.testing.assert_allclose(list(metric.compute().values()), np.mean(values, axis=0))


def test_f_by_hand():
    gt = ellipse(60, 80, 35, 50)
    assert davis_f(np.roll(gt, 1, axis=1), gt) == 1.0  # within the 2 pixels of a 120 x 160 image
    assert davis_f(np.roll(gt, 3, axis=(0, 1)), gt) < 1.0
    assert davis_f(np.ones_like(gt), gt) == 0.0  # a mask of the whole image has no boundary
    assert davis_f(np.roll(gt, 40, axis=1), gt) == davis_f(gt, np.roll(gt, 40, axis=1)) < 0.2


def test_void_is_cut_out_of_both_as_in_the_reference():
    gt = ellipse(60, 80, 35, 50)
    void = np.zeros_like(gt)
    void[:, 80:] = True
    known = ~void
    pred = gt | (void & ellipse(60, 110, 50, 40))  # wrong only where nothing is known
    assert davis_f(pred, gt, void) == davis_f(pred & known, gt & known) == 1.0
    assert mask_iou(pred, gt, void) == 1.0
    # The reference counts the line where void cuts the mask: half of this wrong mask's boundary seems right.
    wrong = np.zeros_like(gt)
    wrong[30:90, 60:] = True
    assert davis_f(wrong, gt, void) > davis_f(wrong, gt, void, void_edges=False)
    assert davis_f(pred, gt, void, void_edges=False) == 1.0
    assert davis_f(pred, gt, void=np.zeros_like(void), void_edges=False) == davis_f(pred, gt)


def test_boundary_iou_by_hand():
    gt = np.zeros((20, 20), dtype=bool)
    gt[5:15, 5:15] = True
    pred = np.zeros_like(gt)
    pred[5:15, 6:16] = True
    # d = 1: rings of 36 pixels, which share 9 + 9 of the upper and the lower row.
    assert boundary_iou(pred, gt) == 18 / (36 + 36 - 18)
    assert boundary_iou(gt, gt) == boundary_iou(gt & False, gt & False) == 1.0
    assert boundary_iou(gt & False, gt) == 0.0
    everything = np.ones((20, 20), dtype=bool)  # the frame is a boundary: a ring of 76 pixels
    assert boundary_iou(everything, gt) == 0.0
    assert boundary_iou(everything, everything, ratio=0.05) == 1.0


@pytest.mark.parametrize(("ratio", "width"), [(0.001, 1), (0.03, 2), (0.05, 2), (0.07, 4), (0.075, 4)])
def test_the_strip_s_width_is_rounded_halves_to_even(ratio, width):
    whole = np.ones((30, 40), dtype=bool)  # a diagonal of 50
    half = whole.copy()
    half[:, 20:] = False
    inside = 30 - 2 * width
    of_whole, of_half = 1200 - inside * (40 - 2 * width), 600 - inside * (20 - 2 * width)
    shared = of_half - width * inside  # all but the half's right side
    assert boundary_iou(half, whole, ratio) == shared / (of_whole + of_half - shared)


def test_means_without_masks_are_nan():
    metric = BoundaryQuality()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert np.isnan(list(metric.compute().values())).all()


@pytest.mark.parametrize("measure", [davis_f, boundary_iou, mask_iou])
def test_other_sizes_are_refused(measure):
    with pytest.raises(UserError, match=r"\(3, 4\) and a ground truth of \(4, 3\)"):
        measure(np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(UserError, match="one mask at a time"):
        measure(np.zeros((1, 3, 4)), np.zeros((1, 3, 4)))
