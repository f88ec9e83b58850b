"""The house's shape: what imports what, how large its rooms are, how quick its door opens."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "unsam_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports_at_load(path: Path) -> set[str]:
    """Modules of the package that a file imports when it is loaded: at its top level, not inside functions."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("unsam_lightning"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found - {"unsam_lightning"}


def test_imports_have_no_cycle() -> None:
    graph = {module_name(path): imports_at_load(path) for path in FILES}
    done: set[str] = set()
    while ready := {name for name, needed in graph.items() if name not in done and needed <= done}:
        done |= ready
    assert done == set(graph), f"cycle among {sorted(set(graph) - done)}"


def tour_entries() -> list[str]:
    """The files and folders of the README's reading tour, in its order."""
    section = (PACKAGE.parent / "README.md").read_text().partition("## Reading tour")[2].partition("\n## ")[0]
    table = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")]
    return [entry for cell in table for entry in re.findall(r"`([\w/]+(?:\.py|/))`", cell)]


def reading_tour() -> dict[str, int]:
    """The place of each module in the README's reading tour; the files of a folder named as a whole share a place."""
    place: dict[str, int] = {}
    for number, entry in enumerate(tour_entries()):
        path = PACKAGE / entry
        assert path.exists(), f"the reading tour names {entry}, which is not there"
        for file in [path] if path.is_file() else path.rglob("*.py"):
            assert module_name(file) not in place, f"the reading tour names {entry} twice"
            place[module_name(file)] = number
    return place


def test_reading_tour_is_complete_and_goes_one_way() -> None:
    place = reading_tour()
    packages = {module_name(path) for path in FILES if path.name == "__init__.py"}
    assert set(place) | packages == MODULES
    backwards = [
        f"{module_name(path)} imports {needed}, which the tour shows later"
        for path in FILES
        if module_name(path) in place
        for needed in imports_at_load(path)
        if needed in place and place[needed] > place[module_name(path)]
    ]
    assert not backwards


def named_next(path: Path) -> list[str]:
    """What a file's first lines say comes next in the tour; nothing if they do not say."""
    words = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    sentence = words.partition("Next in the tour:")[2].partition(". ")[0]
    return re.findall(r"`([\w/]+(?:\.py|/))`", sentence)


def test_files_name_the_next_one_of_the_tour() -> None:
    entries = tour_entries()
    wrong = []
    for entry, following in itertools.pairwise([*entries, "nothing"]):
        whole = PACKAGE / entry
        for path in [whole] if whole.is_file() else whole.glob("*.py"):
            beside = [] if whole.is_file() else [file.name for file in whole.glob("*.py")]  # in an order of their own
            wrong += [
                f"{entry}: {path.name} names {named}, not {following}"
                for named in named_next(path)
                if named != following and named not in beside
            ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_rooms_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


def test_package_import_is_light() -> None:
    code = "import sys, unsam_lightning, unsam_lightning.__main__; print([m for m in sys.modules if m in HEAVY])"
    heavy = "HEAVY = {'torch', 'lightning', 'numpy', 'sam2', 'wandb', 'kornia', 'webdataset'}; "
    done = subprocess.run([sys.executable, "-c", heavy + code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
