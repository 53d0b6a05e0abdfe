"""A convolution whose result is known, computed before the fast ones are trusted."""

import functools
import warnings
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np

from kerascnn.acceleration import winograd


@functools.cache
def trusted():
    """Whether this process computes convolutions in tiles right."""
    # XLA for the CPU has had releases that computed wrong values without an error
    # (jax#39103). Once per process a small convolution and its weight gradient, in
    # tiles, are compared with NumPy's; if they differ, the stock operation is used for
    # all.
    if jax.default_backend() != "cpu":
        return True
    rng = np.random.default_rng(0)
    # So many images take a loop over three blocks; the last one overlaps.
    x, g = rng.standard_normal((2, 239, 8, 8, 32), np.float32)
    kernel = rng.standard_normal((3, 3, 32, 32), np.float32)
    padding = ((1, 1), (1, 1))

    def stock(block):  # for numbers that are extreme, of which there are none
        return jnp.full_like(block, jnp.nan)

    @jax.jit
    def fast(x, kernel, g):
        return (
            winograd.convolution(x, kernel, padding, stock=stock),
            winograd.weight_gradient(x, g, padding, 3),
        )

    # A thread of its own traces nothing and has no mesh, whatever the caller does.
    with futures.ThreadPoolExecutor(1) as thread:
        computed = thread.submit(lambda: jax.device_get(fast(x, kernel, g)))
    results = computed.result()
    framed = np.pad(x, ((0, 0), *padding, (0, 0)))
    taps = [framed[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    images = np.stack(taps, axis=3).reshape(-1, 9 * 32).astype(np.float64)
    exact = (images @ kernel.reshape(-1, 32), images.T @ g.reshape(-1, 32))
    for value, expected in zip(results, exact, strict=True):
        error = np.max(np.abs(value.reshape(expected.shape) - expected))
        if not error < 1e-4 * np.max(np.abs(expected)):
            warnings.warn(
                "XLA computes kerascnn's fast convolution wrong on this machine "
                f"(error {error:.1e}); the slow stock convolution is used instead. "
                f"Try another version of jaxlib than {jax.lib.__version__}.",
                RuntimeWarning,
                stacklevel=3,
            )
            return False
    return True
