"""Means and deviations over seeds, and what may not stand in one table."""

from pathlib import Path
from typing import Any

import pytest

from unsam_lightning.benchmarks.tables import Row
from unsam_lightning.errors import UserError
from unsam_lightning.report.runs import Run
from unsam_lightning.report.seeds import BARS, main, seeds_table

EMPTY = dict.fromkeys(Row.__dataclass_fields__)


def row(model: str, mode: str, **numbers: float) -> Row:
    values: dict[str, Any] = EMPTY | {"dataset": "set", "model": model, "mode": mode, "num_masks": 3} | numbers
    return Row(**values)


def run(name: str, oracle: float, sha: str = "a", error: float = 0.05) -> Run:
    base = [row("base", BARS[1].base, one_click_iou=0.4, noc90=16.0), row("base", BARS[0].base, one_click_iou=0.3)]
    tuned = [row("tuned", BARS[1].tuned, one_click_iou=oracle, noc90=12.0)]
    tuned += [row("tuned", BARS[0].tuned, one_click_iou=0.33)]
    about = {"base": {"sha256": sha}, "evaluation": {"max_clicks": 20}}
    dial: dict[str, dict[str, float | None]] = {"set": {"calibration_error": error}}
    contours = {"set": {"base": {"ods_f": 0.5}, "tuned": {"ods_f": 0.55}}}
    return Run("A", name, Path(name), about, [*base, *tuned], [], dial, {}, contours, {}, [])


def test_by_hand() -> None:
    head, base, one, two = seeds_table({"one": [run("r0", 0.5), run("r1", 0.6)], "two": [run("r2", 0.44)]}, "set")
    assert head[:4] == ["", "seeds", "1-IoU %, automatic", "1-IoU %, GraCo's oracle"]
    column = head.index("NoC90, GraCo's oracle")
    assert "NoC80, GraCo's oracle" not in head  # not measured
    assert base[2:4] == ["30.0", "40.0"]
    assert one[:4] == ["one", "2", "33.0 ± 0.0 (+10 %)", "55.0 ± 7.1 (+38 %)"]
    assert one[column] == "12.00 ± 0.00 (-25 %)"
    column = head.index("boundary F %, ODS")
    assert (base[column], one[column]) == ("50.0", "55.0 ± 0.0 (+10 %)")
    assert two[3] == "44.0 (+10 %)"
    assert two[head.index("calibration error")] == "0.050"
    assert two[head.index("nesting %")] == ""


def test_a_number_that_no_tuned_model_has_is_left_out() -> None:
    """Runs of one click have no choice of GraCo's, though the base has its opponent."""
    one = run("r0", 0.5)
    one.rows[:] = [each for each in one.rows if each.mode != BARS[1].tuned]
    head, base, cells = seeds_table({"one": [one]}, "set")
    assert (head[2], cells[2]) == ("1-IoU %, automatic", "33.0 (+10 %)")
    assert "1-IoU %, GraCo's oracle" not in head
    assert len(base) == len(head) == len(cells)


def test_other_bases_and_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="one base"):
        seeds_table({"one": [run("r0", 0.5)], "two": [run("r1", 0.5, sha="b")]}, "set")
    with pytest.raises(UserError, match="measured on other"):
        seeds_table({"one": [run("r0", 0.5)]}, "other")


def test_a_pattern_without_folders_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no folder"):
        main([f"one={tmp_path}/none-*"])
