"""What XLA does badly on a CPU: each operation beside the fast one."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kerascnn import acceleration, text
from kerascnn.acceleration import dispatch
from kerascnn.bench import page
from kerascnn.bench.thresholds import in_turns
from kerascnn.process import machine, settings

COLUMNS = ("operation", "XLA's own", "fast", "times", "where")

Shape = tuple[int, ...]


def _convolution(channels: Shape, taps: int, strides: int, by: int | None) -> Any:
    """A convolution of 28x28 images, or its gradient by images (0) or kernel (1)."""

    def make(images: int) -> tuple[Callable[..., Any], list[Shape]]:
        def output(x, kernel):
            return acceleration.fast_convolution(x, kernel, strides, "same")

        def gradient(x, kernel):
            return jax.grad(lambda *a: jnp.sum(output(*a) ** 2), by)(x, kernel)

        shapes = [(images, 28, 28, channels[0]), (taps, taps, *channels)]
        return (output if by is None else gradient), shapes

    return make


def _in_a_loop(images: int) -> tuple[Callable[..., Any], list[Shape]]:
    """Three gradients of a kernel, one after the other in `jax.lax.scan`."""
    gradient, shapes = _convolution((16, 16), 3, 1, 1)(images)

    def three(x, kernel):
        return jax.lax.scan(
            lambda k, _: (k - 1e-3 * gradient(x, k), None), kernel, None, 3
        )[0]

    return three, shapes


def _pooling(images: int) -> tuple[Callable[..., Any], list[Shape]]:
    def gradient(x):
        return jax.grad(lambda x: jnp.sum(_pool(x) ** 2))(x)

    return gradient, [(images, 28, 28, 32)]


def _pool(x):
    if dispatch.uses_fast():
        return acceleration.fast_max_pool(x, (2, 2))
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


OPERATIONS = {
    "a 3x3 convolution, 32 channels": _convolution((32, 32), 3, 1, None),
    "its gradient by the images": _convolution((32, 32), 3, 1, 0),
    "its gradient by the kernel": _convolution((32, 32), 3, 1, 1),
    "a 5x5 convolution of one channel": _convolution((1, 6), 5, 1, None),
    "its gradient by the kernel, one channel": _convolution((1, 6), 5, 1, 1),
    "a 3x3 convolution with strides of 2": _convolution((32, 32), 3, 2, None),
    "its gradient by the images, with strides": _convolution((32, 32), 3, 2, 0),
    "three kernel gradients in a loop": _in_a_loop,
    "the gradient of 2x2 max pooling": _pooling,
}


def measure(name: str, images: int, turns: int) -> dict[str, Any]:
    """Return the seconds of XLA's own operation and of the fast one."""
    function, shapes = OPERATIONS[name](images)
    rng = np.random.default_rng(0)
    arrays = [jax.device_put(rng.standard_normal(s, np.float32)) for s in shapes]
    calls = [_compiled(function, arrays)]
    with acceleration.stock_operations():
        calls.append(_compiled(function, arrays))
    fast, stock = in_turns(calls, turns)
    return {
        **{"xla": stock, "fast": fast, "images": images},
        **{"machine": machine.processor(), "date": datetime.date.today().isoformat()},
    }


def _compiled(function: Callable[..., Any], arrays: list[Any]) -> Callable[[], Any]:
    # A new function, because `jax.jit` would give the trace of the other way.
    call = jax.jit(lambda *a: function(*a)).lower(*arrays).compile()
    return lambda: jax.block_until_ready(call(*arrays))


@dataclasses.dataclass
class Operations:
    """Time XLA's own operations beside the fast ones that replace them on a CPU."""

    batch: int = 128
    """Images an operation."""
    rounds: int = 7
    """Turns of each; the medians are shown."""
    write: bool = False
    """Keep what was found with the package, and render its page anew."""

    def __post_init__(self):
        text.check_positive(self, "batch", "rounds")

    @settings.computing()
    def __call__(self) -> None:
        found = {}
        for name in OPERATIONS:
            found[name] = measure(name, self.batch, self.rounds)
            print(line(name, found[name]), flush=True)
        if self.write:
            page.write("operations", found, COLUMNS, line)


def line(name: str, row: dict[str, Any]) -> str:
    """Return an operation's row of the table."""
    cells = (
        *(name, f"{row['xla'] * 1e3:.2f} ms", f"{row['fast'] * 1e3:.2f} ms"),
        f"{row['xla'] / row['fast']:.1f}",
        f"{row['machine']}, {row['date']}",
    )
    return f"| {' | '.join(cells)} |"
