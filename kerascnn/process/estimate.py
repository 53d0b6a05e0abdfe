"""How long a computation will take, said before it has taken a minute."""

from __future__ import annotations

import time

from kerascnn import text

# Shorter computations need no estimate; so long is looked at before one is made.
WORTH = 60.0
LOOK = 2.0


class Estimate:
    """Says once, after the first steps, how long the others take if over a minute.

    `total` is in any unit of work; with `at_most` less may be enough.
    """

    def __init__(self, what: str, total: float, at_most: bool = False):
        self.what = what
        self.total = total
        self.at_most = at_most
        self._first: tuple[float, float] | None = None
        self._said = False

    def after(self, done: float) -> None:
        """Look at the clock; `done` is in the unit of `total`."""
        if self._said:
            return
        now = time.perf_counter()
        if self._first is None:  # the first step compiles
            self._first = now, done
            return
        began, before = self._first
        if now - began < LOOK:
            return
        self._said = True
        left = (now - began) / (done - before) * (self.total - done)
        if left > WORTH:
            most = "at most " if self.at_most else ""
            text.say(f"{self.what}: {most}about {text.duration(left)} more.")
