"""This checkout's training step against another commit's, in paired turns.

Each side is a process that runs `kerascnn.bench.contenders` from its own code. That
module's name, its arguments and its lines are the protocol between commits, so they
stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from kerascnn import UsageError
from kerascnn.bench import paired
from kerascnn.bench.measure import Result

ROOT = Path(__file__).parents[2]

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
        sides = (
            paired.Side("kerascnn", "kerascnn", ROOT),
            paired.Side("kerascnn", f"commit {name[:9]}", place),
        )
        ours, theirs = paired.measure(words, sides, pairs)
    return Comparison(
        *(name, ours.result, theirs.result, pairs), *ours.ratio_to(theirs)
    )


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
