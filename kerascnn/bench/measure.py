"""Run contenders side by side, in turns, and report medians and ratios."""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kerascnn import UsageError, processes
from kerascnn.process.estimate import Estimate
from kerascnn.text import say, warn

BACKENDS = {"kerascnn": "jax", "torch": "torch"}

# On a GPU, every contender takes what it needs and leaves the rest to the others.
SHARED_GPU = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}

# One turn of a contender lasts about this long, in seconds.
TURN = 0.6


@dataclasses.dataclass
class Result:
    """One contender's median and shortest time, peak memory and compile time."""

    name: str
    seconds: float
    fastest: float
    memory: int
    compile: float


class Contender:
    """A process that waits, works when it is asked, and says how long it took."""

    def __init__(
        self,
        name: str,
        words: list[str],
        label: str | None = None,
        environment: Mapping[str, str] = os.environ,
    ):
        self.label = label or name
        kind, _, rest = name.partition("-")
        backend = BACKENDS.get(kind.partition("@")[0], rest)
        environment = {**environment, **SHARED_GPU, "KERAS_BACKEND": backend}
        self.child = processes.Child(
            "kerascnn.bench.contenders", [name, *words], environment
        )
        self.number = 1
        self.times: list[float] = []
        self.compile = self._answer()["seconds"]

    def turn(self) -> None:
        """Take as many steps as fill a turn, and note the time of one."""
        # A short step is taken once before them: the first finds the caches as the
        # contender before has left them, and cores that have rested.
        if self.times and self.times[-1] < 10 * TURN:
            self._answer(1)
        answer = self._answer(self.number)
        self.memory = answer["memory"]
        self.planned = answer.get("planned")  # another commit's may not say it
        self.times.append(answer["seconds"] / self.number)
        self.number = max(1, round(TURN / self.times[-1]))

    def close(self) -> None:
        """End the process."""
        self.child.close()

    @property
    def result(self) -> Result:
        """The measurements, without the first turn, which warms up."""
        times = self.times[1:]
        return Result(
            self.label,
            statistics.median(times),
            min(times),
            self.memory,
            self.compile,
        )

    def _answer(self, number: int | None = None) -> dict[str, Any]:
        """Let the process take so many steps, or wait for the first one."""
        try:
            if number is None:
                return self.child.answer()
            return self.child.ask(str(number))
        except processes.EndedError as error:
            self.close()
            raise UsageError(f"{self.label} ended: {error.why}") from error


def interleave(contenders: list[Contender], rounds: int) -> list[Result]:
    """Let the contenders work in turns, so that a slow minute slows them all."""
    progress = Estimate("all rounds", rounds + 1)
    progress.after(0)
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "a round to warm up")
        for contender in contenders:
            contender.turn()
        progress.after(number + 1)
    return [contender.result for contender in contenders]


def _load() -> float:
    """Return how many programs ran at once in the last minute; 0 where none can say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # the former on Windows
        return 0


def warn_where_busy() -> None:
    """Warn where other programs are at work, which what is measured would show."""
    if (load := _load()) > 1:
        warn(
            f"in the last minute {load:.1f} programs were at work here: where they go "
            "on, the figures are no good."
        )


def compare(
    names: Sequence[tuple[str, str, Sequence[str]]], rounds: int
) -> tuple[list[Result], list[str]]:
    """Let contenders (name, label, words) take turns; return results and failures."""
    ready, missing = [], []
    warn_where_busy()
    try:
        for number, (name, label, words) in enumerate(names, 1):
            say(f"{number} of {len(names)}: {label}, its first step")
            try:
                ready.append(Contender(name, list(words), label))
            except UsageError as error:
                missing.append(str(error))
        if not ready:
            raise UsageError("; ".join(missing))
        return interleave(ready, rounds), missing
    finally:
        for contender in ready:
            contender.close()
