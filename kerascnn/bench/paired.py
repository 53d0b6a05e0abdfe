"""Training steps of several sides in paired turns, and the intervals of their ratios.

A side is a contender of this checkout or of another. It has several processes, because
one alone says little of memory, whose peak depends on which of XLA's threads compile at
once, nor of time, which depends on where its arrays happen to lie.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerascnn import UsageError
from kerascnn.bench.measure import Contender, Result, warn_where_busy
from kerascnn.process import memory
from kerascnn.text import say

# The fewest turns of each side: with fewer, the interval is too wide to say anything.
PAIRS = 15

# Each side's processes, among which the turns are shared.
PROCESSES = 3


class Side(NamedTuple):
    """A contender of `bench.contenders`, its name in texts, its `kerascnn`'s folder."""

    contender: str
    label: str
    root: Path


@dataclasses.dataclass
class Measured:
    """What was measured of a side.

    `times` are the seconds of each turn, `result` puts them and the processes' memory
    together, and `planned` are the bytes that XLA plans for a step, where it says so.
    """

    result: Result
    times: list[float]
    planned: int | None

    def ratio_to(self, other: Measured) -> tuple[float, float, float]:
        """Return the ratio of the times, and the ends of its 95 % interval."""
        ratios = np.log(self.times) - np.log(other.times)
        ratio, low, high = np.exp(interval(ratios)).tolist()
        return ratio, low, high


def check_pairs(pairs: int, option: str = "") -> None:
    """Raise UsageError where so few pairs of turns would say nothing."""
    if pairs < PAIRS:
        raise UsageError(f"--rounds {pairs}: expected {PAIRS} or more{option}.")


def measure(words: Sequence[str], sides: Sequence[Side], pairs: int) -> list[Measured]:
    """Let sides take steps in turns, each in several processes.

    Args:
        words: The arguments of `bench.contenders` after the contender.
        sides: Who takes turns.
        pairs: Turns of each side, all its processes together.
    """
    warn_where_busy()
    parts = []
    for number in range(PROCESSES):
        share = pairs // PROCESSES + (number < pairs % PROCESSES)
        say(f"process {number + 1} of {PROCESSES} of each side")
        parts.append(_in_turns(words, sides, share))
    return [_together(processes) for processes in zip(*parts, strict=True)]


def _in_turns(
    words: Sequence[str], sides: Sequence[Side], pairs: int
) -> list[Contender]:
    """Start a process of each side, and let them take turns; a first pair warms up."""
    contenders: list[Contender] = []
    with contextlib.ExitStack() as stack:
        for name, label, root in sides:
            say(f"{label}: its first step")
            side = Contender(name, list(words), label, environment(root))
            stack.callback(side.close)
            contenders.append(side)
        for number in range(pairs + 1):
            say(f"pair {number} of {pairs}" if number else "a pair to warm up")
            # Each comes first in every other pair, so that neither always follows.
            for side in contenders[:: 1 if number % 2 else -1]:
                side.turn()
    return contenders


def _together(processes: Sequence[Contender]) -> Measured:
    """Return one side's turns, and the medians over its processes."""
    results = [each.result for each in processes]
    times = [seconds for each in processes for seconds in each.times[1:]]
    result = Result(
        results[0].name,
        statistics.median(times),
        min(times),
        int(statistics.median(each.memory for each in results)),
        statistics.median(each.compile for each in results),
    )
    return Measured(result, times, processes[0].planned)


def interval(values: np.ndarray, resamples: int = 10_000) -> tuple[float, float, float]:
    """Return a trimmed mean of some values and its 95 % bootstrap interval."""
    # Without the largest and smallest fifths: something else on the machine disturbs
    # single turns.
    cut = len(values) // 5
    size = resamples, len(values)
    chosen = np.random.default_rng(0).integers(len(values), size=size)

    def middle(samples: np.ndarray) -> np.ndarray:
        return np.sort(samples)[..., cut : len(values) - cut].mean(-1)

    low, high = np.quantile(middle(values[chosen]), [0.025, 0.975])
    return float(middle(values)), float(low), float(high)


def environment(root: Path) -> dict[str, str]:
    """Return the environment in which Python imports `kerascnn` from a folder."""
    # Each side chooses by itself what the C library is told; the user's choice stays.
    variables = dict(os.environ)
    if memory.is_ours(variables.get("GLIBC_TUNABLES", "")):
        del variables["GLIBC_TUNABLES"]
    paths = [str(root), *variables.get("PYTHONPATH", "").split(os.pathsep)]
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # Both compile: a side that finds the other's programs would take less memory.
    variables["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    # Without this, `python -m` would look in the working directory first, which may
    # hold a checkout.
    variables["PYTHONSAFEPATH"] = "1"
    return variables
