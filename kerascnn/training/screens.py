"""Where a training's progress is shown: a terminal, a notebook."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_BLOCKS = "▁▂▃▄▅▆▇█"
# The most letters of a sparkline; of more values the last are drawn.
MOST = 24


def sparkline(values: Sequence[float | None]) -> str:
    """Draw values as letters of rising height, a gap where there is none."""
    shown = [v if v is not None and math.isfinite(v) else None for v in values][-MOST:]
    known = [v for v in shown if v is not None]
    low, span = min(known, default=0), max(known, default=0) - min(known, default=0)
    return "".join(
        " " if v is None else _BLOCKS[round((v - low) / (span or 1) * 7)] for v in shown
    )


class Terminal:
    """A bar and what is known of the training, below the epochs that have ended."""

    SECONDS = 0.1  # between changes

    def __init__(self, console: Console, total: int):
        from rich import progress
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.percentage:>3.0f} %"),
            console=console,
        )
        self._task = self._bar.add_task("", total=total)
        self._below = Text(no_wrap=True, overflow="ellipsis")
        self.draws = (console.encoding or "").lower().startswith("utf")
        self._live = Live(
            Group(self._bar, self._below), console=console, transient=True
        )
        self._live.start()

    def at(self, text: str, done: int, facts: Sequence[str], curve: str) -> None:
        """Show where the training is, facts of it, and its epochs as a curve."""
        self._bar.update(self._task, completed=done, description=text)
        self._below.plain = "\n".join(filter(None, ["  ".join(facts), curve]))

    def ended(self, line: str) -> None:
        """Leave an epoch's line."""
        self._live.console.print(line, highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        self._live.stop()


class Notebook:
    """A line in a notebook: the step, beside the epoch that ended last."""

    SECONDS = 0.25  # between changes: each is a message to the browser
    draws = True

    def __init__(self):
        from IPython.display import display  # type: ignore[import-not-found]

        self._last = ""
        self._next = 0.0
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def at(self, text: str, done: int, facts: Sequence[str], curve: str) -> None:
        """Show where the training is, facts of it, and its epochs as a curve."""
        if time.perf_counter() >= self._next:
            self._put("   ".join(filter(None, [text, *facts, curve or self._last])))

    def ended(self, line: str) -> None:
        """Show an epoch's line until the next step."""
        self._last = line
        self._put(line)

    def close(self) -> None:
        """Leave the line as it is."""

    def _put(self, text: str) -> None:
        self._next = time.perf_counter() + self.SECONDS
        self._handle.update({"text/plain": text}, raw=True)
