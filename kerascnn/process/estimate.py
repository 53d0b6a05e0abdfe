"""How long a computation will take, said before it has taken a minute."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from kerascnn import text

# Shorter computations need no estimate; so long is looked at before one is made.
WORTH = 60.0
LOOK = 2.0


class Estimate:
    """Says once, after the first steps, how long the others take if over a minute.

    `total` is in any unit of work; with `at_most` less may be enough.
    """

    def __init__(
        self,
        what: str,
        total: float,
        at_most: bool = False,
        say: Callable[[str], None] = text.say,
    ):
        self.what = what
        self.total = total
        self.at_most = at_most
        self.say = say
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
            self.say(f"{self.what}: {most}about {text.duration(left)} more.")


def matmul_peak(turns: int = 5, quick: bool = False) -> float:
    """Return the speed of a large float32 matrix product, in operations a second.

    On the backend in use, at its default precision: on a GPU TensorFloat-32 for JAX.

    Args:
        turns: The fastest of so many counts.
        quick: On a CPU, take smaller matrices, which come near the peak.
    """
    import keras
    import numpy as np

    ops: Any = keras.ops
    # A GPU is done with the smaller one before it has called the next.
    size = 8192 if _on_gpu() else 1024 if quick else 2048
    a = ops.convert_to_tensor(np.random.default_rng(0).random((size, size), "float32"))
    ops.convert_to_numpy(ops.matmul(a, a)[0, 0])
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        ops.convert_to_numpy(ops.matmul(a, a)[0, 0])  # waits for the product
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _on_gpu() -> bool:
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if os.environ["KERAS_BACKEND"] == "torch":
        return sys.modules["torch"].cuda.is_available()
    return bool(sys.modules["tensorflow"].config.list_physical_devices("GPU"))
