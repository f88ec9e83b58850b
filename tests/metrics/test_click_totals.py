import json

import numpy as np
import pytest

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.click_totals import ClickTotals
from unsam_lightning.metrics.interactive import iou_curve, summarize_sessions


def totals(sessions, **options):
    metric = ClickTotals(**options)
    for session in sessions:
        metric.update(session)
    return metric.compute()


def test_sums_equal_the_summary_of_the_golden_sessions(shared):
    for file in ("ritm_expected.json", "ritm_real_expected.json"):
        golden = json.loads((shared / "golden/noc" / file).read_text())["cases"]
        sessions = [case["ious"] for case in golden if case["kw"]["max_iou_thr"] >= 0.9]
        numbers = totals(sessions)
        summary = summarize_sessions(sessions)
        assert {name: numbers[name] for name in summary} == pytest.approx(summary, abs=1e-12)
        curve = iou_curve(sessions)
        assert [numbers[f"iou_at_{k + 1}"] for k in range(len(curve))] == pytest.approx(curve.tolist(), abs=1e-12)


def test_a_session_that_has_ended_keeps_its_last_iou():
    sessions = [[0.5, 0.95], ([0.1, 0.3, 0.2, 0.95], [])]
    numbers = totals(sessions, thresholds=(0.8, 0.9, 0.95), max_clicks=4)
    assert [numbers[f"iou_at_{k}"] for k in range(1, 5)] == pytest.approx([0.3, 0.625, 0.575, 0.95])
    assert numbers["noc95"] == (2 + 4) / 2
    assert (numbers["failures95"], numbers["unreached95"]) == (1, 0)
    assert (numbers["num_sessions"], numbers["one_click_iou"]) == (2, pytest.approx(0.3))


def test_clicks_beyond_the_limit_do_not_count():
    numbers = totals([[0.1, 0.2, 0.9]], thresholds=(0.9,), max_clicks=2)
    assert (numbers["noc90"], numbers["unreached90"], numbers["iou_at_2"]) == (2, 1, pytest.approx(0.2))
    assert "iou_at_3" not in numbers


def test_nothing_gives_nan_and_a_cut_session_is_refused():
    metric = ClickTotals()
    with pytest.warns(UserWarning, match="before the ``update``"):
        numbers = metric.compute()
    assert np.isnan([numbers["noc90"], numbers["one_click_iou"], numbers["iou_at_20"]]).all()
    assert (numbers["num_sessions"], numbers["failures90"]) == (0, 0)
    with pytest.raises(UserError, match="stopped below"):
        metric.update([0.5, 0.85])
