"""Max pooling with a fast gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kerascnn.acceleration.materialize import stored
from kerascnn.acceleration.mesh import on_each_device


def fast_max_pool(x, pool_size):
    """Non-overlapping max pooling without padding, with a gradient fast on a CPU.

    The gradient of a window goes to its first largest element, as it does in XLA's own
    pooling; `jnp.max` over a reshaped array would share it between equal elements.

    Args:
        x: images of shape `(batch, height, width, channels)`.
        pool_size: the pair (rows, columns) of a window. Rows and columns that fill no
            whole window are left out.

    Returns:
        An array of shape `(batch, height // rows, width // columns, channels)`.
    """
    return on_each_device(lambda x: _max_pool(x, *pool_size), jnp.asarray(x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x, rows, columns):
    return _largest(_windows(x, rows, columns))[0]


def _max_pool_forward(x, rows, columns):
    largest, index = _largest(_windows(x, rows, columns))
    # The images give their shape alone.
    return largest, (stored(index), x)


def _max_pool_backward(rows, columns, residuals, g):
    index, x = residuals
    batch, height, width, channels = g.shape
    # Lines of pixels and channels: the loops are then long enough to be vectorised.
    line = width * columns * channels
    index = jnp.repeat(index[:, :, :, None], columns, axis=3)
    column = np.tile(np.repeat(np.arange(columns), channels), width)
    position = (np.arange(rows)[:, None] * columns + column)[None, None]
    chosen = index.reshape(batch, height, 1, line) == position.astype(index.dtype)
    shape = batch, height, rows, width, columns, channels
    g = jnp.broadcast_to(g[:, :, None, :, None], shape)
    g = jnp.where(chosen, g.reshape(batch, height, rows, line), 0)
    g = g.reshape(batch, height * rows, width * columns, channels)
    left = x.shape[1] - g.shape[1], x.shape[2] - g.shape[2]
    return (jnp.pad(g, ((0, 0), (0, left[0]), (0, left[1]), (0, 0))),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _windows(x, rows, columns):
    batch, height, width, channels = x.shape
    height, width = height // rows, width // columns
    x = x[:, : height * rows, : width * columns]
    return x.reshape(batch, height, rows, width, columns, channels)


def _largest(windows):
    """The largest element of each window, and its index as bytes where they suffice."""
    rows, columns = windows.shape[2], windows.shape[4]
    largest = windows[:, :, 0, :, 0]
    index = jnp.zeros(largest.shape, jnp.int8 if rows * columns < 128 else jnp.int32)
    for i in range(1, rows * columns):
        candidate = windows[:, :, i // columns, :, i % columns]
        # The second test keeps a NaN, as the stock pooling does.
        keep = (largest >= candidate) | (largest != largest)
        largest = jnp.where(keep, largest, candidate)
        index = jnp.where(keep, index, jnp.asarray(i, index.dtype))
    return largest, index
