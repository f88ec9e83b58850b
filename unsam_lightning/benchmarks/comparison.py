"""Ours against a reference: times that take turns, their ratio beside its target, and whether both give the same.

Times are seconds of the processor, which other programs on the machine change less than the clock.
Next in the tour: `benchmarks/train_references.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time
from typing import NamedTuple

from unsam_lightning.benchmarks.label_speed import take_turns


class Comparison(NamedTuple):
    """Median CPU-seconds of two contestants that took turns, and the median of each turn's ratio."""

    ours: float
    reference: float
    ratio: float


def compare(ours: Callable[[], object], reference: Callable[[], object], rounds: int) -> Comparison:
    """Let two contestants take turns; a first round, in which caches fill and functions compile, does not count."""
    spent: tuple[list[float], list[float]] = ([], [])

    def timed(run: Callable[[], object], seconds: list[float]) -> None:
        start = process_time()
        run()
        seconds.append(process_time() - start)

    take_turns([partial(timed, ours, spent[0]), partial(timed, reference, spent[1])], rounds)
    fast, slow = (seconds[1:] for seconds in spent)
    return Comparison(median(fast), median(slow), median(b / a for a, b in zip(fast, slow, strict=True)))


def report(name: str, times: Comparison, target: float | None) -> None:
    """Print a comparison on one line, with the ratio that is wanted, if any."""
    ours, reference = (f"{1000 * each:.3g} ms" if each < 1 else f"{each:.3g} s" for each in times[:2])
    wanted = "" if target is None else f"; target {target:g}: {'met' if times.ratio >= target else 'MISSED'}"
    print(f"  {name}: ours {ours}, reference {reference}, {times.ratio:.2f} times{wanted}", flush=True)


def verdict(what: str, difference: float, allowed: float) -> bool:
    """Print whether both give the same, and return it."""
    is_same = difference <= allowed  # and not where it is nan
    print(f"  {'the same' if is_same else 'NOT THE SAME'}: {what} {difference:.1e}, allowed {allowed:g}", flush=True)
    return is_same
