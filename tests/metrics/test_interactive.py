import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.interactive import (
    click_session,
    iou_curve,
    number_of_clicks,
    oracle_granularity,
    summarize_sessions,
)

NOC = Path(__file__).resolve().parents[3] / "shared" / "golden" / "noc"


def cases(file):
    """The golden cases of a file by name; without the folder a placeholder, which the fixture `shared` skips."""
    if not NOC.is_dir():
        return [pytest.param(None, id="absent")]
    return [pytest.param(case, id=case["name"]) for case in json.loads((NOC / file).read_text())["cases"]]


def ground_truth(shared, name):
    if name.startswith("grabcut13"):
        return np.array(Image.open(shared / f"data/GrabCut_13/seg_GT/{name.split('_')[1]}.bmp")) > 0
    if name.startswith("davis16"):
        _, sequence, frame, _ = name.split("_")
        return np.array(Image.open(shared / f"data/DAVIS2016_val/Annotations/480p/{sequence}/{frame}.png")) > 0
    return np.load(shared / "golden/noc/gt_masks.npz")[f"gt_{name}"]


def predictor(text, gt, granularity=1.0):
    """The fake predictor of a golden case, from the words of golden/README.md."""
    y, x = np.ogrid[: gt.shape[0], : gt.shape[1]]

    def squared(click):
        return (y - click[0]) ** 2 + (x - click[1]) ** 2

    def disc(clicks):
        p = np.zeros(gt.shape)
        for click in clicks:
            p[squared(click) <= size**2] = click[2]
        return p

    def voronoi(clicks):
        p, nearest = np.zeros(gt.shape), np.full(gt.shape, np.inf)
        for click in clicks:
            is_nearer = squared(click) < nearest
            nearest[is_nearer] = np.broadcast_to(squared(click), gt.shape)[is_nearer]
            p[is_nearer] = click[2]
        return p * (nearest <= size**2)

    def soft(clicks):
        bump = {True: np.zeros(gt.shape), False: np.zeros(gt.shape)}
        for click in clicks:
            bump[click[2]] = np.maximum(bump[click[2]], np.exp(-squared(click) / (2 * size**2)))
        return np.clip(bump[True] - bump[False], 0, 1).astype(np.float32)

    def shift(clicks):
        columns = max(0, int(size) - len(clicks))
        return np.pad(gt == 1, ((0, 0), (columns, 0)))[:, : gt.shape[1]].astype(float)

    def tie(clicks):
        moved = np.zeros(gt.shape)
        moved[15:36, 50:71] = 1
        return moved if len(clicks) == 1 else (gt == 1).astype(float)

    def growing(clicks):
        p = np.zeros(gt.shape)
        count = [300, 320, 340, 360, 380, 400][min(len(clicks), 6) - 1]
        p.ravel()[np.flatnonzero(gt == 1)[:count]] = 1
        return p

    if text.startswith("script"):
        return tie if "x50:71" in text else growing
    if text == "gt":
        return lambda clicks: (gt == 1).astype(float)
    name, size, swept = re.fullmatch(r"(\w+)\(([\d.]+)(\*round\(10\*gra\))?\)", text).groups()
    size = float(size) * (round(10 * granularity) if swept else 1)
    constant = size
    if name == "const":
        return lambda clicks: np.full(gt.shape, constant)
    return {"disc": disc, "voronoi": voronoi, "soft": soft, "shift": shift}[name]


def run(case, gt, granularity=1.0):
    options = {"max_iou": case["kw"]["max_iou_thr"], "threshold": case["kw"]["pred_thr"]}
    options |= {key: case["kw"][key] for key in ("max_clicks", "min_clicks") if key in case["kw"]}
    return click_session(gt, predictor(case["predictor"], gt, granularity), **options)


def assert_follows_the_rule_up_to_ties(expected, case, gt, granularity=1.0):
    """Replay the reference's clicks: each is one of the deepest pixels of its error, and gives the reference's IoU.

    For golden rows in which float32 rounding in OpenCV decided between pixels of equal depth.
    """
    predict, prediction, replayed = predictor(case["predictor"], gt, granularity), np.zeros(gt.shape, dtype=bool), []
    for (y, x, is_positive), iou in zip(expected["clicks"], expected["ious"], strict=True):
        depths = []
        for error in ((gt == 1) & ~prediction, (gt == 0) & prediction):
            depth = np.rint(distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1] ** 2)
            for click in replayed:
                depth[click[0], click[1]] = 0
            depths.append(depth)
        assert bool(is_positive) == (depths[0].max() > depths[1].max())
        assert depths[0 if is_positive else 1][y, x] == max(depths[0].max(), depths[1].max())
        replayed.append((y, x, bool(is_positive)))
        prediction = predict(replayed) > case["kw"]["pred_thr"]
        counted = gt != -1
        union = ((gt == 1) | prediction) & counted
        assert np.float32(((gt == 1) & prediction & counted).sum() / union.sum()) == np.float32(iou)


@pytest.mark.parametrize("case", [*cases("ritm_expected.json"), *cases("ritm_real_expected.json")])
def test_session_equals_ritm(shared, case):
    gt = ground_truth(shared, case["name"]).astype(np.int8)
    ious, clicks = run(case, gt)
    if case["stable_across_dt_backends"]:
        assert clicks == [(y, x, bool(is_positive)) for y, x, is_positive in case["clicks"]]
        np.testing.assert_array_equal(ious, np.array(case["ious"], dtype=np.float32))
        prediction = predictor(case["predictor"], gt)(clicks) > case["kw"]["pred_thr"]
        assert prediction.sum() == case["final_pred_pixels"]
    else:
        assert_follows_the_rule_up_to_ties(case, case, gt)
        ious = np.array(case["ious"], dtype=np.float32)
    assert ious.dtype == np.float32
    for threshold, clicks_needed in case["noc"].items():
        assert number_of_clicks(ious, float(threshold)) == clicks_needed
        assert (number_of_clicks(ious, float(threshold)) == 20) == case["over_max"][threshold]


@pytest.mark.parametrize("case", cases("graco_expected.json"))
def test_choice_equals_graco(shared, case):
    gt = ground_truth(shared, case["name"])
    sessions = [run(case, gt, granularity) for granularity in SWEEP]
    for granularity, session, expected in zip(SWEEP, sessions, case["per_granularity_full"], strict=True):
        assert granularity == expected["gra"]
        if expected["n_clicks_stable"]:
            assert len(session[0]) == expected["n_clicks"]
        if expected["clicks_stable_across_dt_backends"]:
            assert session[1] == [(y, x, bool(is_positive)) for y, x, is_positive in expected["clicks"]]
            np.testing.assert_array_equal(session[0], np.array(expected["ious"], dtype=np.float32))
        else:
            assert_follows_the_rule_up_to_ties(expected, case, gt, granularity)
    chosen = oracle_granularity(sessions, "graco")
    assert chosen == case["chosen_index"]
    assert SWEEP[chosen] == case["chosen_granularity"]
    np.testing.assert_array_equal(sessions[chosen][0], np.array(case["ious"], dtype=np.float32))
    assert {t: number_of_clicks(sessions[chosen][0], float(t)) for t in case["noc"]} == case["noc"]

    one_past_best = cut(sessions, beyond=1)
    assert any(len(short) < len(full[0]) for short, full in zip(one_past_best, sessions, strict=True))
    assert oracle_granularity(one_past_best, "graco") == chosen
    assert oracle_granularity(one_past_best, "graco", target=0.9) == chosen
    fewest = min(len(session[0]) for session in sessions)  # lock-step: all stop when the first arrives
    assert oracle_granularity([session[0][:fewest] for session in sessions], "graco", target=0.9) == chosen


def cut(sessions, beyond):
    """Sessions as the reference runs them: each stops `beyond` clicks past the fewest that reached 0.9 before it."""
    fewest, short = 20, []
    for ious, _ in sessions:
        short.append(ious[: fewest + beyond])
        if short[-1][-1] >= np.float32(0.9):
            fewest = min(fewest, len(short[-1]))
    return short


def test_choice_does_not_depend_on_the_cut():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sessions = []
        for _ in range(10):
            ious = np.round(rng.random(20), 1).astype(np.float32)  # coarse: many ties
            reached = ious >= np.float32(0.9)
            sessions.append((ious[: np.argmax(reached) + 1] if reached.any() else ious, []))
        expected = min(range(10), key=lambda k: (len(sessions[k][0]), -sessions[k][0][0], k))
        assert oracle_granularity(sessions, "graco") == expected
        assert oracle_granularity(cut(sessions, beyond=1), "graco") == expected
        assert oracle_granularity(sessions, "graco", target=0.9) == expected


def test_choice_by_each_mode():
    sessions = [[0.1, 0.85, 0.92], [0.2, 0.5, 0.91], [0.6, 0.7, 0.8, 0.95], [0.6, 0.7, 0.95]]
    assert oracle_granularity(sessions, "graco") == 3  # three clicks three times; highest first IoU 0.6
    assert oracle_granularity(sessions, "best_noc80") == 0  # 2, 3, 3, 3 clicks
    assert oracle_granularity(sessions, "best_noc90") == 3
    assert oracle_granularity(sessions, "best_iou1") == oracle_granularity(sessions, "best") == 2  # first of two 0.6
    assert oracle_granularity([*sessions, [float("nan")] * 20], "best") == 2


def test_none_reaching_the_target_goes_to_the_highest_first_iou():
    sessions = [np.full(20, 0.3), np.full(20, 0.5), np.full(20, 0.4)]
    assert oracle_granularity(sessions, "graco") == oracle_granularity(sessions, "graco", target=0.9) == 1


def test_a_session_cut_too_early_is_refused():
    assert oracle_granularity([[0.1, 0.2], [0.3, 0.9]], "best_noc90") == 1  # could need 3 clicks at best: no matter
    with pytest.raises(UserError, match=r"session 0 stopped after 1 clicks at 0\.1"):
        oracle_granularity([[0.1], [0.3, 0.9]], "best_noc90")
    with pytest.raises(UserError, match=r"IoU 0\.95"):
        oracle_granularity([[0.1, 0.91], [0.3, 0.9]], "graco", target=0.95)


@pytest.mark.parametrize("mode", ["oracle", "best_noc", "best_iou5", ""])
def test_an_unknown_mode_is_refused(mode):
    with pytest.raises(UserError, match="best_noc80"):
        oracle_granularity([[0.5]], mode)


@pytest.mark.parametrize("sessions", [[], [[0.5], []]])
def test_choice_needs_clicks(sessions):
    with pytest.raises(UserError, match="at least one click"):
        oracle_granularity(sessions, "graco")


def test_number_of_clicks_by_hand():
    assert number_of_clicks([0.5, 0.9, 0.7, 0.95], 0.9) == 2
    assert number_of_clicks([90 / 100], 0.9000000000000001) == 1  # float32: 90 of 100 pixels count
    assert number_of_clicks([0.5] * 20, 0.9) == number_of_clicks([0.5], 0.9) == 20
    assert number_of_clicks([0.5, 0.6, 0.9], 0.9, max_clicks=2) == 2
    assert number_of_clicks([], 0.9, max_clicks=7) == 7
    assert number_of_clicks([float("nan")] * 20, 0.0) == 20


def test_session_of_an_empty_object_is_never_reached():
    ious, clicks = click_session(np.zeros((8, 8), np.int8), lambda clicks: np.zeros((8, 8)), max_clicks=3)
    assert np.isnan(ious).all()
    assert clicks == [(0, 0, False)] * 3


def test_session_hands_over_all_clicks_and_compares_strictly():
    gt = np.zeros((9, 9), np.int8)
    gt[3:6, 3:6] = 1
    seen = []

    def predict(clicks):
        seen.append(list(clicks))
        clicks.clear()  # a predictor may do with its list as it likes
        return np.where(gt == 1, 0.5 if len(seen) < 3 else 0.6, 0.0)

    ious, clicks = click_session(gt, predict, threshold=0.5)
    assert ious.tolist() == [0.0, 0.0, 1.0]
    assert seen == [clicks[:1], clicks[:2], clicks[:3]]
    assert clicks[0] == (4, 4, True)


def test_session_refuses_zero_clicks_and_a_map_of_another_size():
    gt = np.ones((4, 4), np.int8)
    with pytest.raises(UserError, match="max_clicks"):
        click_session(gt, lambda clicks: gt, max_clicks=0)
    with pytest.raises(UserError, match=r"bool \(2, 2\)"):
        click_session(gt, lambda clicks: np.ones((2, 2)))


def test_summary_by_hand():
    sessions = [[0.5, 0.8, 0.9], ([0.9], [(0, 0, True)]), [0.1] * 20, [0.4] * 19 + [0.9]]
    summary = summarize_sessions(sessions, thresholds=(0.8, 0.9))
    assert summary == {
        "num_sessions": 4,
        "one_click_iou": pytest.approx((0.5 + 0.9 + 0.1 + 0.4) / 4),
        "noc80": (2 + 1 + 20 + 20) / 4,
        "failures80": 2,  # one never arrives, one arrives with its very last click
        "unreached80": 1,
        "noc90": (3 + 1 + 20 + 20) / 4,
        "failures90": 2,
        "unreached90": 1,
    }


def test_summary_of_the_golden_sessions(shared):
    golden = json.loads((shared / "golden/noc/ritm_expected.json").read_text())["cases"]
    golden = [case for case in golden if case["kw"]["max_iou_thr"] == 0.9]
    summary = summarize_sessions([case["ious"] for case in golden])
    assert summary["one_click_iou"] == pytest.approx(np.mean([case["iou1"] for case in golden]), abs=1e-12)
    for percent, threshold in ((80, "0.80"), (85, "0.85"), (90, "0.90")):
        assert summary[f"noc{percent}"] == np.mean([case["noc"][threshold] for case in golden])
        assert summary[f"failures{percent}"] == sum(case["over_max"][threshold] for case in golden)


def test_summary_refuses_a_threshold_that_the_sessions_did_not_aim_at():
    with pytest.raises(UserError, match=r"1 of 2 that stopped below, the first at 0\.91"):
        summarize_sessions([[0.5, 0.91], [0.5, 0.96]], thresholds=(0.9, 0.95))


def test_summary_and_curve_of_nothing():
    summary = summarize_sessions([])
    assert summary["num_sessions"] == 0
    assert np.isnan([summary["noc90"], summary["one_click_iou"]]).all()
    assert iou_curve([]).shape == (0,)
    with pytest.raises(UserError, match="1 of 2 without any"):
        iou_curve([[0.5], []])


def test_curve_ends_with_the_shortest_session():
    np.testing.assert_allclose(iou_curve([[0.2, 0.4, 0.6], ([0.6, 0.8], [])]), [0.4, 0.6], rtol=1e-7)
