"""Max pooling with a fast gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kerascnn.acceleration.materialize import stored
from kerascnn.acceleration.mesh import is_cut_explicitly, on_each_device


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
    x = jnp.asarray(x)
    if is_cut_explicitly(x):
        return keras.ops.max_pool(x, pool_size, pool_size, data_format="channels_last")
    return on_each_device(lambda x: _max_pool(x, *pool_size), x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x, rows, columns):
    return largest(windows(x, rows, columns))[0]


def _max_pool_forward(x, rows, columns):
    y, index = largest(windows(x, rows, columns))
    # The images give their shape alone.
    return y, (stored(index), x)


def _max_pool_backward(rows, columns, residuals, g):
    index, x = residuals
    return (_in_windows(g, index, rows, columns, x.shape[1:3]),)


def _in_windows(g, index, rows, columns, size):
    """Each number of `g` at its index in its window, zeros elsewhere."""
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
    left = size[0] - g.shape[1], size[1] - g.shape[2]
    return jnp.pad(g, ((0, 0), (0, left[0]), (0, left[1]), (0, 0)))


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def windows(x, rows, columns):
    """Whole windows of images, `(batch, height, rows, width, columns, channels)`."""
    batch, height, width, channels = x.shape
    height, width = height // rows, width // columns
    x = x[:, : height * rows, : width * columns]
    return x.reshape(batch, height, rows, width, columns, channels)


def largest(windows):
    """The largest element of each window, and its index as bytes where they suffice."""
    rows, columns = windows.shape[2], windows.shape[4]
    value = chosen = windows[:, :, 0, :, 0]
    index = jnp.zeros(value.shape, jnp.int8 if rows * columns < 128 else jnp.int32)
    for i in range(1, rows * columns):
        candidate = windows[:, :, i // columns, :, i % columns]
        value = jnp.maximum(value, candidate)  # a NaN stays
        # As the stock pooling's gradient chooses: a NaN gives way to what follows.
        keep = chosen >= candidate
        chosen = jnp.where(keep, chosen, candidate)
        index = jnp.where(keep, index, jnp.asarray(i, index.dtype))
    return value, index


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "index"],
    meta_fields=["size"],
)
@dataclasses.dataclass(frozen=True)
class Unpooled:
    """Images of zeros, but for one pixel of each window of 2 x 2, which is known.

    The gradient of images that were pooled is one, a fourth of their size.

    Attributes:
        values: the pixels, `(batch, height // 2, width // 2, channels)`.
        index: their places in their windows, int8.
        size: the images' height and width.
    """

    values: jax.Array
    index: jax.Array
    size: tuple[int, int]

    @property
    def shape(self):
        """That of the images."""
        return (self.values.shape[0], *self.size, self.values.shape[3])

    def images(self):
        """The images themselves."""
        return _in_windows(self.values, self.index, 2, 2, self.size)


def whole(images):
    """The images, where they may be an `Unpooled`."""
    return images.images() if isinstance(images, Unpooled) else images


def known_by(g, images):
    """The gradient of `g`, which may be an `Unpooled`, of that of its images."""
    if not isinstance(g, Unpooled):
        return images
    parts = windows(images, 2, 2)
    pixels = (
        jnp.where(g.index == i, parts[:, :, i // 2, :, i % 2], 0) for i in range(4)
    )
    return Unpooled(sum(pixels), None, g.size)
