"""The bounds of `acceleration.dispatch.THRESHOLDS`, measured on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from kerascnn import text
from kerascnn.acceleration import dispatch, fast_convolution
from kerascnn.process import settings


class Case(NamedTuple):
    """A convolution on one side of a bound, and the value that the bound is for."""

    value: float
    image: tuple[int, int, int]
    kernel: tuple[int, int, int, int]
    of: str = "output"
    padding: str = "same"


_SMALLER = ("image gradient", "valid")

# Of each bound, a convolution on each side; all else is the same, as far as it goes.
CASES = {
    "winograd": [Case(c, (16, 16, c), (3, 3, c, c)) for c in (12, 20)],
    "transposed": [
        Case((1 - 2 / size) ** 2, (size, size, 32), (3, 3, 32, 32), *_SMALLER)
        for size in (9, 20)
    ],
    "bands": [Case(14 * c, (14, 14, c), (5, 5, c, 8)) for c in (14, 22)],
    "bands, output": [Case(14 * f, (14, 14, 6), (5, 5, 6, f)) for f in (14, 22)],
    "bands, channels": [Case(c, (28, 28, c), (5, 5, c, 16)) for c in (3, 6)],
    "bands, zeros": [
        Case(under / 5, (width, width, 3), (5, 5, 3, 16))
        for width, under in ((28, 8), (26, 17))
    ],
}


@contextlib.contextmanager
def bound(name: str, value: float) -> Iterator[None]:
    """Let a threshold be another while functions are traced in this context."""
    old = dispatch.THRESHOLDS[name]
    dispatch.THRESHOLDS[name] = old._replace(bound=value)
    try:
        yield
    finally:
        dispatch.THRESHOLDS[name] = old


def compiled(case: Case, images: int) -> Callable[[], Any]:
    """Compile the map of a case, as the thresholds now are, to be called."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((images, *case.image), np.float32)
    kernel = rng.standard_normal(case.kernel, np.float32)

    def convolution(x, kernel):
        return fast_convolution(x, kernel, 1, case.padding)

    if case.of == "output":
        function, arrays = convolution, (x, kernel)
    else:
        g = np.ones(jax.eval_shape(convolution, x, kernel).shape, np.float32)
        arrays = (x, kernel, g)

        def function(x, kernel, g):
            return jax.vjp(lambda x: convolution(x, kernel), x)[1](g)

    call = jax.jit(function).lower(*arrays).compile()
    placed = jax.device_put(arrays)
    return lambda: jax.block_until_ready(call(*placed))


def in_turns(calls: Sequence[Callable[[], Any]], turns: int) -> list[float]:
    """Return the median seconds of each call, which take turns; one more warms up."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(turns + 1):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return [statistics.median(own[1:]) for own in times]


def chosen(case: Case) -> str:
    """Return the name of the algorithm that the thresholds choose for a case."""
    geometry = case.image, case.kernel, (1, 1), case.padding, case.of
    return dispatch.algorithm(*geometry).name


def measure(name: str, case: Case, images: int, turns: int) -> dict[str, Any]:
    """Return the times of both algorithms between which a bound decides."""
    names, calls = [], []
    for value in (-math.inf, math.inf):
        with bound(name, value):
            jax.clear_caches()  # of what was traced with the other bound
            names.append(chosen(case))
            calls.append(compiled(case, images))
    jax.clear_caches()
    seconds = in_turns(calls, turns)
    return {
        "threshold": name,
        "bound": dispatch.THRESHOLDS[name].bound,
        "value": case.value,
        "algorithms": names,
        "seconds": seconds,
        "faster": names[seconds.index(min(seconds))],
        "chosen": chosen(case),
    }


@dataclasses.dataclass
class Thresholds:
    """Time the two convolution algorithms on both sides of each threshold.

    Where the faster one is not the one that is chosen, another bound would be better on
    this machine.
    """

    batch: int = 128
    """Images a convolution."""
    rounds: int = 15
    """Turns of each algorithm; the medians are shown."""
    json: bool = False
    """Print JSON lines instead of a table."""

    def __post_init__(self):
        text.check_positive(self, "batch", "rounds")

    @settings.computing()
    def __call__(self) -> None:
        rows = [
            measure(name, case, self.batch, self.rounds)
            for name, cases in CASES.items()
            for case in cases
        ]
        if self.json:
            for row in rows:
                print(json.dumps(row))
            return
        table = Table(title=f"thresholds, batch {self.batch}", padding=(0, 1, 0, 0))
        for column in ("threshold", "bound", "at", "one", "other", "chosen", ""):
            table.add_column(column)
        for row in rows:
            table.add_row(
                row["threshold"],
                f"{row['bound']:g}",
                f"{row['value']:.3g}",
                *(
                    f"{name} {seconds * 1e3:.2f} ms"
                    for name, seconds in zip(
                        row["algorithms"], row["seconds"], strict=True
                    )
                ),
                row["chosen"],
                "" if row["chosen"] == row["faster"] else f"slower: {row['faster']}",
            )
        Console().print(table)
