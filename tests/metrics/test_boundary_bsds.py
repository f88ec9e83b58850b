import json

import cv2
import numpy as np
import pytest
import scipy.io

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.boundary import bsds_counts
from unsam_lightning.metrics.boundary_bsds import BSDSBoundary, bsds_summary, bsds_thresholds, precision_recall_f
from unsam_lightning.metrics.contours import boundary_pixels

SAMPLE = ("2018", "3063", "5096", "6046", "8068")


def test_counts_equal_the_reference(shared):
    golden = np.load(shared / "golden/boundary/bsds_inputs.npz")
    cases = json.loads((shared / "golden/boundary/bsds_expected.json").read_text())["cases"]
    assert len(cases) >= 5
    for name, case in cases.items():
        gts = [golden[f"{name}__gt{k}_bdry"] for k in range(case["n_annotators"])]
        counts = bsds_counts(golden[f"{name}__pred_bdry"], gts, case["maxDist"])
        np.testing.assert_allclose(counts, case["counts_median"], atol=3, rtol=0, err_msg=name)
        assert counts.matched_gt == case["exact_max_matching"][0]
        assert counts == bsds_counts(golden[f"{name}__pred_thin"], gts, case["maxDist"], thin=False)
        thick = bsds_counts(golden[f"{name}__pred_bdry"], gts, thin=False)
        np.testing.assert_allclose(thick, case["nothin_counts_median"], atol=3, rtol=0, err_msg=name)
        expected = [case["precision"], case["recall"], case["F"]]
        np.testing.assert_allclose(precision_recall_f(counts), expected, atol=0.012, err_msg=name)


def test_counts_of_people_equal_the_reference(shared):
    cases = json.loads((shared / "golden/boundary/bsds_real_expected.json").read_text())["cases"]
    assert len(cases) >= 2
    for name, case in cases.items():
        cells = scipy.io.loadmat(shared / f"data/BSDS500/val/groundTruth/{name}.mat")["groundTruth"].ravel()
        maps = [cell["Boundaries"][0, 0] for cell in cells]
        counts = bsds_counts(maps[0], maps[1:])
        np.testing.assert_allclose(counts, case["counts_median"], rtol=0.0015, err_msg=name)
        assert counts.matched_gt == case["exact_max_matching"][0] == case["min_cost_matching"][0]
        assert abs(counts.matched_pred - case["min_cost_matching"][2]) <= 2
        assert (counts.gt, counts.pred) == (case["counts_median"][1], case["counts_median"][3])
        np.testing.assert_allclose(precision_recall_f(counts)[2], case["F"], atol=1e-3)


@pytest.mark.parametrize(("results", "from_strengths"), [("test_4", False), ("test_2", True)])
def test_the_whole_benchmark_equals_its_published_results(shared, results, from_strengths):
    folder = shared / "data/BSDS500_bench_sample"
    thresholds = bsds_thresholds(5) if from_strengths else np.arange(1, 6)
    metric = BSDSBoundary(thresholds)
    for name in SAMPLE:
        cells = scipy.io.loadmat(folder / f"groundTruth/{name}.mat")["groundTruth"].ravel()
        if from_strengths:
            strength = cv2.imread(str(folder / f"png/{name}.png"), cv2.IMREAD_UNCHANGED) / 255
            preds = [strength >= threshold for threshold in thresholds]
        else:
            preds = [
                boundary_pixels(labels) for labels in scipy.io.loadmat(folder / f"segs/{name}.mat")["segs"].ravel()
            ]
        metric.update(preds, [cell["Boundaries"][0, 0] for cell in cells])
    published = np.loadtxt(folder / results / "eval_bdry_thr.txt")[:, 1:]  # recall, precision, F
    np.testing.assert_allclose(precision_recall_f(metric.total.numpy())[:, [1, 0, 2]], published, atol=6e-4)
    names = ["threshold", "ods_recall", "ods_precision", "ods_f", "ois_recall", "ois_precision", "ois_f", "ap"]
    published = dict(zip(names, np.loadtxt(folder / results / "eval_bdry.txt"), strict=True))
    numbers = metric.compute()
    assert numbers["ods_threshold"] == pytest.approx(published.pop("threshold"), abs=1e-6)
    assert {name: numbers[name] for name in published} == pytest.approx(published, abs=6e-4)


def test_union_over_annotators_by_hand():
    pred, first, second = np.zeros((3, 40, 60), dtype=bool)
    pred[10, 5:25] = True
    first[10, 5:15] = True  # meets the left half
    second[30, 5:15] = True  # meets nothing
    counts = bsds_counts(pred, [first, second, first], max_dist=1 / 73)  # a little less than one pixel
    assert counts == (20, 30, 10, 20)
    assert bsds_counts(pred, [first], max_dist=0.001) == (10, 10, 10, 20)


def test_precision_recall_f_by_hand():
    np.testing.assert_allclose(precision_recall_f([30, 60, 10, 40]), [0.25, 0.5, 1 / 3])
    np.testing.assert_array_equal(precision_recall_f([[0, 0, 0, 0], [0, 5, 0, 0]]), np.zeros((2, 3)))


def test_summary_by_hand():
    # Precision 0.5 and 1, recall 1 and 0.5 at two thresholds: F 2/3 at both ends, 0.75 where both are 0.75.
    total = [[100, 100, 50, 100], [50, 100, 30, 30]]
    numbers = bsds_summary(total, [80, 100, 40, 50], thresholds=[0.2, 0.4])
    assert numbers["ods_f"] == pytest.approx(0.75, abs=1e-4)
    assert numbers["ods_threshold"] == pytest.approx(0.3, abs=2e-3)
    assert numbers["ois_f"] == pytest.approx(0.8)
    # The area under precision 1.5 - recall from recall 0.5 to 1 in 51 points of 0.01.
    assert numbers["ap"] == pytest.approx(51 * 0.75 * 0.01)
    assert bsds_summary(total[:1], total[0], [0.2])["ap"] == 0
    assert bsds_summary([[0, 0, 0, 0]] * 2, [0] * 4, [0.2, 0.4])["ods_f"] == 0


def test_the_best_of_each_image_is_its_own():
    pred = np.zeros((30, 30), dtype=bool)
    pred[10, 3:27] = True
    nothing = np.zeros_like(pred)
    metric = BSDSBoundary([0.1, 0.2])
    metric.update([pred, nothing], [pred])
    metric.update([nothing, pred], [pred])
    numbers = metric.compute()
    assert (numbers["ois_f"], numbers["ois_recall"]) == (1.0, 1.0)
    assert numbers["ods_recall"] == 0.5


def test_thresholds_of_the_reference():
    np.testing.assert_allclose(bsds_thresholds()[[0, 49, 98]], [0.01, 0.5, 0.99])


def test_what_does_not_fit_is_refused():
    map_ = np.zeros((4, 5), dtype=bool)
    with pytest.raises(UserError, match="no annotator"):
        bsds_counts(map_, [])
    with pytest.raises(UserError, match=r"\(4, 5\) and \(4, 5\), \(5, 4\)"):
        bsds_counts(map_, [map_, map_.T])
    with pytest.raises(UserError, match="3 boundary maps"):
        BSDSBoundary([0.1, 0.2, 0.3]).update([map_], [map_])
