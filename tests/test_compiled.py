"""Numba's cache: used where nothing has changed, never for code that has, and not needed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numba.core.caching import CacheImpl

from unsam_lightning.compiled import _files_behind, compiled, compiled_in_lanes
from unsam_lightning.losses.frame_cpu import measure_mask
from unsam_lightning.pseudo_labels.region_tree import _merge

RUN = "import kernel; print(kernel.add(1), sum(kernel.add.stats.cache_hits.values()))"
KERNEL = """
from unsam_lightning.compiled import compiled
from shared import more

@compiled
def add(x):
    return more(x)
"""
SHARED = """
from unsam_lightning.compiled import inlined_in_lanes

@inlined_in_lanes
def more(x):
    return x + {}
"""


def test_a_kernel_is_compiled_anew_when_a_file_that_is_written_into_it_changes(tmp_path: Path) -> None:
    def run() -> str:
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])}
        return subprocess.run([sys.executable, "-c", RUN], env=env, capture_output=True, text=True, check=True).stdout

    (tmp_path / "kernel.py").write_text(KERNEL)
    (tmp_path / "shared.py").write_text(SHARED.format("1"))
    assert run() == "2 0\n"
    assert run() == "2 1\n"  # from the cache
    (tmp_path / "shared.py").write_text(SHARED.format("10"))
    assert run() == "11 0\n"
    assert run() == "11 1\n"


def names_behind(kernel: Any) -> set[str]:
    return {path.name for path in _files_behind(kernel.py_func)}


def test_the_files_behind_a_kernel_are_those_of_its_kernels_and_the_options() -> None:
    assert names_behind(measure_mask) == {"compiled.py", "frame_cpu.py", "lane_math.py"}
    assert names_behind(_merge) >= {"compiled.py", "half_edges.py"}


def test_without_a_place_for_the_cache_functions_are_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])  # as root, every place is writable
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)

    def add(x: int) -> int:
        return x + 1

    assert compiled(add)(1) == compiled_in_lanes(add)(1) == 2
