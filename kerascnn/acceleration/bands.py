"""Convolutions of few channels: a band matrix makes some pixels of a row at once.

Some pixels of a row of the output follow from the rows of the image under the kernel by
one matrix: the kernel's rows, repeated along a diagonal band. Much of it is zeros, but
with few channels one product of long lines is faster than many of short ones.
"""

import functools
import math

import jax.numpy as jnp
from jax import lax

from kerascnn.acceleration.blocks import (
    block_at,
    filled,
    for_each_block,
    images_a_block,
    new_images_at,
    output_shape,
    strided_slices,
    without_padding,
    zero_framed,
)
from kerascnn.acceleration.materialize import stored_on_cpu

# Numbers that the lines of a block hold, at most.
_NUMBERS_IN_LINES = 2**21


def pixels_under(band, strides, taps):
    """Pixels of a row of the image that a band follows from."""
    return (band - 1) * strides[1] + taps[1]


def band_width(width, filters, stride, taps):
    """How many pixels of the output one band makes: a divisor of their number."""
    # Enough for a product of long lines; each further pixel adds to the zeros.
    enough = (
        n
        for n in range(1, width)
        if width % n == 0 and n * filters >= 40 and n * stride >= taps - 1
    )
    return next(enough, width)


def _lines(x, strides, padding, taps, height, width, band):
    """The pixels under each band, `(images, height, bands, pixels * channels)`."""
    images, channels = x.shape[0], x.shape[3]
    step, bands = band * strides[1], width // band
    before = padding[1][0]
    after = step * (bands + 1) - x.shape[2] - before
    x = jnp.pad(x, ((0, 0), padding[0], (before, after), (0, 0)))
    x = x.reshape(images, x.shape[1], bands + 1, step * channels)
    # A band ends within the next one's first pixels.
    beyond = (taps[1] - strides[1]) * channels
    columns = jnp.concatenate([x[:, :, :-1], x[:, :, 1:, :beyond]], axis=3)
    return jnp.concatenate(
        strided_slices(columns, 1, strides[0], height, taps[0]), axis=3
    )


def _banded(kernel, stride, band):
    """The kernel once for each pixel of a band: `(under a band, band * filters)`."""
    last = (band - 1) * stride
    columns = [
        jnp.pad(kernel, ((0, 0), (at, last - at), (0, 0), (0, 0)))
        for at in range(0, last + 1, stride)
    ]
    return jnp.stack(columns, axis=3).reshape(-1, band * kernel.shape[3])


def _images_per_band_block(x, g_shape, strides, taps, band):
    """Images a block, so that the lines of all images are never there at once."""
    _, height, width, _ = g_shape
    line = taps[0] * pixels_under(band, strides, taps) * x.shape[3]
    return images_a_block(len(x), _NUMBERS_IN_LINES // (height * width // band * line))


def convolution(x, kernel, strides, padding, finish):
    """The convolution, then `finish` of its elements."""
    shape = output_shape(x, kernel, strides, padding)
    _, height, width, filters = shape
    taps = kernel.shape[:2]
    band = band_width(width, filters, strides[1], taps[1])
    matrix = _banded(kernel, strides[1], band)
    size = _images_per_band_block(x, shape, strides, taps, band)

    def block_of(start):
        block = block_at(x, start, size)
        lines = _lines(block, strides, padding, taps, height, width, band)
        block = jnp.dot(lines.reshape(-1, len(matrix)), matrix)
        return finish(block.reshape(size, *shape[1:]))

    y = filled(shape, x, size, block_of)
    return stored_on_cpu(y, kernel)  # for where one block is all


def input_gradient(g, kernel, padding, size):
    """The gradient of images of this size, without strides."""
    images, height, width, filters = g.shape
    taps, columns, channels, _ = kernel.shape
    band = band_width(width, filters, 1, columns)
    matrix = _banded(kernel, 1, band)
    lines = stored_on_cpu(jnp.dot(g.reshape(-1, band * filters), matrix.T), g)
    lines = lines.reshape(images, height, width // band, taps, -1)
    frame = height + taps - 1, width // band
    x = functools.reduce(
        jnp.add, (zero_framed(lines[:, :, :, i], i, 0, *frame) for i in range(taps))
    )
    x = stored_on_cpu(x, g)
    own, beyond = jnp.split(x, [band * channels], axis=3)
    own = jnp.pad(own, ((0, 0), (0, 0), (0, 1), (0, 0)))
    rest = own.shape[3] - beyond.shape[3]
    x = own + jnp.pad(beyond, ((0, 0), (0, 0), (1, 0), (0, rest)))
    x = x.reshape(images, frame[0], width + band, channels)
    return without_padding(x, padding, size)


def weight_gradient(x, g, strides, padding, taps):
    """The gradient of a kernel of so many rows and columns."""
    _, height, width, filters = g.shape
    band = band_width(width, filters, strides[1], taps[1])
    size = _images_per_band_block(x, g.shape, strides, taps, band)

    def add_block(start, total):
        block = block_at(x, start, size)
        lines = _lines(block, strides, padding, taps, height, width, band)
        g_block = new_images_at(g, start, size).reshape(-1, band * filters)
        return total + jnp.dot(lines.reshape(len(g_block), -1).T, g_block)

    shape = taps[0], pixels_under(band, strides, taps), x.shape[3], band, filters
    total = jnp.zeros_like(x, shape=(math.prod(shape[:3]), band * filters))
    matrix = for_each_block(len(x), size, add_block, total).reshape(shape)
    return functools.reduce(
        jnp.add,
        (
            lax.slice_in_dim(matrix[:, :, :, at], start, start + taps[1], axis=1)
            for at, start in enumerate(range(0, band * strides[1], strides[1]))
        ),
    )
