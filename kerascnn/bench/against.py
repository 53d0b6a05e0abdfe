"""This checkout's training step against another commit's, in paired turns.

Each side is a process that runs `kerascnn.bench.contenders` from its own code. That
module's name, its arguments and its lines are the protocol between commits, so they
stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kerascnn import UsageError
from kerascnn.bench.measure import Contender, Result
from kerascnn.process import memory
from kerascnn.text import say

ROOT = Path(__file__).parents[2]

# The fewest turns of each side: with fewer, the interval is too wide to say anything.
PAIRS = 15

# Each side's processes, among which the turns are shared. One says little of memory: a
# peak depends on which of XLA's threads compile at once.
PROCESSES = 3

# A lower end of the interval above this ratio is "slower".
SLOWER = 1.03


@dataclasses.dataclass
class Comparison:
    """What was measured of two sides: `ratio`, ours by theirs, in its 95 % interval."""

    commit: str
    ours: Result
    theirs: Result
    pairs: int
    ratio: float
    low: float
    high: float

    @property
    def slower(self) -> bool:
        """Whether the whole interval lies above `SLOWER`."""
        return self.low > SLOWER

    @property
    def memory_ratio(self) -> float:
        """Our peak memory divided by theirs."""
        return self.ours.memory / self.theirs.memory


def compare(words: Sequence[str], commit: str, pairs: int) -> Comparison:
    """Let this code and another commit's take steps in turns, in several processes."""
    with worktree(commit) as (name, place):
        sides = (("kerascnn", ROOT), (f"commit {name[:9]}", place))
        parts = []
        for number in range(PROCESSES):
            share = pairs // PROCESSES + (number < pairs % PROCESSES)
            say(f"process {number + 1} of {PROCESSES} of each side")
            parts.append(_in_turns(words, sides, share))
    ours, theirs = zip(*parts, strict=True)
    times = [[t for each in side for t in each.times[1:]] for side in (ours, theirs)]
    ratio, low, high = np.exp(interval(np.log(times[0]) - np.log(times[1]))).tolist()
    return Comparison(name, _result(ours), _result(theirs), pairs, ratio, low, high)


def _in_turns(
    words: Sequence[str], sides: Sequence[tuple[str, Path]], pairs: int
) -> list[Contender]:
    """Start a process of each side, and let them take turns; a first pair warms up."""
    contenders: list[Contender] = []
    with contextlib.ExitStack() as stack:
        for label, root in sides:
            say(f"{label}: its first step")
            side = Contender("kerascnn", list(words), label, environment(root))
            stack.callback(side.close)
            contenders.append(side)
        for number in range(pairs + 1):
            say(f"pair {number} of {pairs}" if number else "a pair to warm up")
            # Each comes first in every other pair, so that neither always follows.
            for side in contenders[:: 1 if number % 2 else -1]:
                side.turn()
    return contenders


def _result(processes: Sequence[Contender]) -> Result:
    """Return the medians of one side's processes."""
    results = [each.result for each in processes]
    times = [seconds for each in processes for seconds in each.times[1:]]
    return Result(
        results[0].name,
        statistics.median(times),
        min(times),
        int(statistics.median(each.memory for each in results)),
        statistics.median(each.compile for each in results),
    )


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


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[tuple[str, Path]]:
    """Check a commit out for a `with` block: its SHA-1, and its `kerascnn`'s folder."""
    try:
        git("ls-files", "--error-unmatch", "kerascnn/__init__.py")
        prefix = git("rev-parse", "--show-prefix")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"--against {commit}: {ROOT} is no git checkout of kerascnn, or git is not "
            "installed."
        ) from error
    try:
        name = git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError as error:
        raise UsageError(
            f"--against {commit}: git knows no such commit; `git log` shows them."
        ) from error
    for file, what in (
        ("kerascnn/__init__.py", "kerascnn"),
        ("kerascnn/bench/contenders.py", "benchmark to compare with"),
    ):
        try:
            git("cat-file", "-e", f"{name}:./{file}")
        except subprocess.CalledProcessError as error:
            raise UsageError(
                f"--against {commit}: the commit holds no {what} ({file})."
            ) from error
    with tempfile.TemporaryDirectory(prefix="kerascnn-bench-") as folder:
        place = Path(folder, "worktree")
        try:
            git("worktree", "add", "--detach", str(place), name)
            yield name, place / prefix
        finally:
            if place.exists():
                git("worktree", "remove", "--force", str(place))


def git(*words: str) -> str:
    """Return what git says in this checkout; no hook of the user's runs."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "-c", f"core.hooksPath={os.devnull}", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
