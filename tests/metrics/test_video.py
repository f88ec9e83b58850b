import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.video import JAndF, davis_j_and_f, per_frame, sequence_statistics

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "golden" / "jf"
EXPECTED = json.loads((FOLDER / "expected.json").read_text()) if FOLDER.is_dir() else None


def names(kind):
    return list(EXPECTED[kind]) if EXPECTED else ["absent"]


@pytest.fixture(scope="module")
def sequences(request):
    return np.load(request.getfixturevalue("shared") / "golden/jf/inputs.npz")


@pytest.mark.parametrize("name", names("davis"))
def test_davis_equals_the_reference(sequences, name):
    case = EXPECTED["davis"][name]
    (sequence,) = case["sequences"]
    gt, pred = sequences[f"{sequence}__gt"], sequences[f"{sequence}__pred"]
    numbers = davis_j_and_f(gt, pred, case["task"], as_reference=True)
    for key, value in case.items():
        if key.endswith(("Mean", "Recall", "Decay")):
            assert numbers[key] == pytest.approx(value, abs=1e-12), key
    for key in ("J_per_object", "F_per_object"):
        expected = {int(name.rpartition("_")[2]): value for name, value in case[key].items()}
        assert numbers[key] == pytest.approx(expected, abs=1e-12)
    values = per_frame(gt, pred, case["task"], by_proposal=True)
    calls = np.array(case["per_frame_calls_JF_alternating"]).reshape(len(values), 2, -1)
    np.testing.assert_allclose(np.stack(list(values.values())), calls, atol=1e-12)
    metric = JAndF(case["task"])
    metric.update(gt, pred)
    assert metric.compute() == pytest.approx({key: numbers[key] for key in metric.compute()}, abs=1e-12)


@pytest.mark.parametrize("name", names("sav"))
def test_sav_equals_the_reference(sequences, name):
    sequence, layout, frames = name.split("__")
    gt, pred = sequences[f"{sequence}__gt"], sequences[f"{sequence}__pred"]
    case = EXPECTED["sav"][name]
    if layout == "davisfmt":
        numbers = davis_j_and_f(gt, pred, "sa-v", skip_ends=frames == "skip1")
        found = {key: {str(k): 100 * v for k, v in numbers[f"{key}_per_object"].items()} for key in "JF"}
    else:  # one folder of binary masks for each object, every second frame annotated
        found = {"J": {}, "F": {}}
        for key in case["J"]:
            k = int(key) + 1
            numbers = davis_j_and_f(gt[::2] == k, pred[::2] == k, "sa-v", skip_ends=frames == "skip1")
            found["J"][key], found["F"][key] = 100 * numbers["J_Mean"], 100 * numbers["F_Mean"]
    for key in "JF":
        assert found[key] == pytest.approx(case[key], abs=1e-10)


@pytest.mark.parametrize("name", names("real_osvos_vs_davis2016"))
def test_real_predictions_equal_the_reference(shared, name):
    def read(folder):
        return np.stack(
            [np.array(Image.open(file)) > 0 for file in sorted((shared / "data" / folder / name).glob("*.png"))]
        )

    case = dict(EXPECTED["real_osvos_vs_davis2016"][name])
    gt = read("DAVIS2016_val/Annotations/480p")
    assert len(gt) == case.pop("frames")
    numbers = davis_j_and_f(gt, read("DAVIS2017_results_osvos"))
    assert {key: numbers[key] for key in case} == pytest.approx(case, abs=1e-12)


def test_statistics_equal_the_reference(shared):
    expected = json.loads((shared / "golden/jf/expected.json").read_text())["db_statistics"]
    inputs = {"ones_8": np.ones(8), "ramp_10": np.linspace(1, 0.1, 10), "ramp_300_uint8_wrap": np.linspace(1, 0, 300)}
    inputs["ramp_6"] = np.linspace(0.9, 0.4, 6)
    for name, values in inputs.items():
        np.testing.assert_allclose(sequence_statistics(values, uint8_bins=True), expected[name], atol=1e-12)
    # The same ramp without the defect: the first quarter's mean is 0.875, the last one's 0.125.
    assert sequence_statistics(inputs["ramp_300_uint8_wrap"])[2] == pytest.approx(0.75, abs=0.01)
    assert sequence_statistics([0.5, 0.6])[:2] == (0.55, 0.5)  # 0.5 itself is not recalled


def test_void_in_unsupervised_and_semi_supervised_evaluation(sequences):
    gt, pred = sequences["void_stripe__gt"], sequences["void_stripe__pred"]
    assert (gt == 255).any()
    unsupervised = davis_j_and_f(gt, pred, "unsupervised")
    assert (unsupervised["J_Mean"], unsupervised["F_Mean"]) == pytest.approx((0.9088, 0.8857), abs=5e-5)
    excluded = davis_j_and_f(gt, pred, exclude_void=True)
    assert excluded["J_Mean"] > davis_j_and_f(gt, pred)["J_Mean"] + 0.1
    same_frames = davis_j_and_f(gt, pred, "unsupervised", skip_ends=True)
    assert excluded["J_Mean"] == pytest.approx(same_frames["J_Mean"], abs=1e-12)


def test_objects_keep_their_own_number(sequences):
    gt, pred = sequences["permuted_ids__gt"], sequences["permuted_ids__pred"]
    ours, theirs = davis_j_and_f(gt, pred, "unsupervised"), davis_j_and_f(gt, pred, "unsupervised", as_reference=True)
    assert ours["J_per_object"] == {1: theirs["J_per_object"][2], 2: theirs["J_per_object"][1]}
    assert ours["JandF_Mean"] == theirs["JandF_Mean"]


def video(*columns, width=24, height=20, label=1):
    """Frames with one square of 8 x 8 at a column each; None for no object."""
    frames = np.zeros((len(columns), height, width), dtype=np.uint8)
    for frame, column in zip(frames, columns, strict=True):
        if column is not None:
            frame[4:12, column : column + 8] = label
    return frames


def test_the_ends_are_not_scored_and_absence_is_right():
    gt, pred = video(4, 4, None, 4), video(None, 8, None, None)
    numbers = davis_j_and_f(gt, pred)
    assert numbers["J_Mean"] == pytest.approx((32 / 96 + 1) / 2)
    assert numbers["J_Recall"] == 0.5
    assert davis_j_and_f(gt, pred, skip_ends=False)["J_Mean"] == pytest.approx((0 + 32 / 96 + 1 + 0) / 4)


def test_sav_counts_an_object_from_its_first_appearance():
    gt, late = video(None, None, None, 4, None), video(None, None, None, 4, None)
    early = video(None, None, 4, 4, None)
    assert davis_j_and_f(gt, late, "sa-v")["J_Mean"] == 1.0  # one scored frame
    assert davis_j_and_f(gt, early, "sa-v")["J_Mean"] == 0.5  # a wrong frame before, and the right one
    other = np.where(gt == 0, video(16, 16, 16, 16, 16, label=2), gt)
    assert davis_j_and_f(gt, other, "sa-v")["J_per_object"] == {1: 1.0}  # ids that are never true do not count


def test_the_mean_is_over_objects_not_sequences():
    metric = JAndF()
    two = np.where(video(0, 0, 0) == 1, 1, video(14, 14, 14, label=2))
    metric.update(two, two)
    metric.update(video(4, 4, 4), video(None, None, None))
    assert metric.compute()["J_Mean"] == pytest.approx(2 / 3)


def test_what_the_rules_do_not_allow_is_refused():
    with pytest.raises(UserError, match=r"predicted ids of at most 1 .*found 1 objects, and the predicted id 2"):
        davis_j_and_f(video(4, 4, 4), video(4, 4, 4, label=2))
    with pytest.raises(UserError, match=r"at most 20 .* predicted id 21"):
        davis_j_and_f(video(4, 4, 4), video(4, 4, 4, label=21), "unsupervised")
    with pytest.raises(UserError, match="found 0 objects"):
        davis_j_and_f(video(None, 4, 4), video(4, 4, 4))
    with pytest.raises(UserError, match="at least 3"):
        davis_j_and_f(video(4, 4), video(4, 4))
    with pytest.raises(UserError, match="an object in the ground truth"):
        davis_j_and_f(video(4, None, 4), video(4, 4, 4), "sa-v")
