"""How far a long command is, on standard error: a bar on a terminal, now and then a line elsewhere.

Light on purpose: rich is imported where the bar is drawn. Training has Lightning's own bar.
Next in the tour: `compiled.py`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

LOG_SECONDS = 10.0  # between two progress lines where there is no terminal


@contextlib.contextmanager
def show_progress(name: str, unit: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """Show how far the work inside the block is, with its rate and the time left.

    Args:
        name: What is worked on; begins every line.
        unit: What is counted, in the plural.
        total: How many there are.
        done: How many an earlier run has done; they do not count for the rate.

    Yields:
        What to call after each.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    start = last_line = time.monotonic()
    resumed = done
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, completed=done, pace="")

        def advance() -> None:
            nonlocal done, last_line
            done, now = done + 1, time.monotonic()
            rate = (done - resumed) / max(now - start, 1e-6)
            pace = f"{rate:.1f} {unit}/s, {timedelta(seconds=round((total - done) / rate))} left"
            bar.update(task, completed=done, pace=pace)
            if not console.is_terminal and now - last_line >= LOG_SECONDS:
                last_line = now
                print(f"{name}: {done}/{total} {unit}, {pace}", file=sys.stderr, flush=True)

        yield advance
