"""Loops over blocks of images, and the pixels that a convolution takes or leaves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kerascnn.acceleration.materialize import stored_on_cpu
from kerascnn.acceleration.pooling import Unpooled


def output_shape(x, kernel, strides, padding):
    """The shape of a convolution's result."""
    size = (
        (pixels + low + high - taps) // step + 1
        for pixels, taps, step, (low, high) in zip(
            x.shape[1:3], kernel.shape[:2], strides, padding, strict=True
        )
    )
    return (x.shape[0], *size, kernel.shape[3])


def along_channels(values, ndim):
    """Values of shape `(channels,)` as an array of `ndim` axes, the last its own.

    JAX's `numpy_rank_promotion="raise"` refuses what it would do by itself.
    """
    return values.reshape(*[1] * (ndim - 1), -1)


def strided_slices(x, axis, step, count, offsets):
    """`count` elements of an axis, `step` apart, from each offset below `offsets`."""
    return [
        lax.slice_in_dim(x, i, i + step * (count - 1) + 1, step, axis)
        for i in range(offsets)
    ]


def largest_under(x, taps, padding):
    """The largest number under a square kernel at each of its places; `x` is >= 0."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    for axis in (1, 2):
        places = x.shape[axis] - taps + 1
        x = functools.reduce(jnp.maximum, strided_slices(x, axis, 1, places, taps))
    return x


def zero_framed(block, top, left, height, width):
    """The block inside `height` x `width` zeros, at row `top` and column `left`."""
    below, right = height - top - block.shape[1], width - left - block.shape[2]
    return jnp.pad(block, ((0, 0), (top, below), (left, right), (0, 0)))


def without_padding(x, padding, size):
    """The gradient of the images, of that of the padded ones up to the last window."""
    (top, _), (left, _) = padding
    below, right = (
        max(0, before + pixels - length)
        for before, pixels, length in zip((top, left), size, x.shape[1:3], strict=True)
    )
    x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))
    return x[:, top : top + size[0], left : left + size[1]]


# Blocks of images: small enough for the processor's caches, and no copy of the whole
# batch is ever made.


def for_each_block(images, size, body, init, only_if=None):
    """`body(first image, state)` of each block, one after the other.

    Of none where `only_if`, a boolean `()`, is false.
    """
    steps = -(-images // size)
    if only_if is not None:
        steps = jnp.where(only_if, steps, 0)
    return lax.fori_loop(0, steps, lambda i, state: body(i * size, state), init)


# The largest number that is not extreme: half precision's.
_LARGEST = np.float32(65504)


def extreme(*arrays):
    """Whether numbers of float32 arrays of one size are extreme, infinite or NaN."""
    # As integers, which processors compare many at a time: a float's bits grow with it.
    # XLA compiles a reduction to a slow loop, so that of the arrays goes first.
    numbers = (lax.bitcast_convert_type(each, jnp.int32) for each in arrays)
    largest = functools.reduce(jnp.maximum, (each & 0x7FFFFFFF for each in numbers))
    return jnp.max(largest) > _LARGEST.view(np.int32)


def filled(shape, images, size, block_of, dtypes=(None,), exactly=None):
    """An array of this shape, its images from `start` on being `block_of(start)`.

    Of several dtypes, as many arrays, and `block_of` returns a tuple. With `exactly`,
    a function of a block of images, `block_of` says also whether numbers are extreme;
    where some are, `exactly` makes all blocks.
    """
    # What the arrays hold comes from the images: XLA makes one array of all zeros of a
    # step, which it keeps until the step's end and copies for each loop.
    number = jax.tree.leaves(images)[0].ravel()[0]
    several = len(dtypes) > 1
    arrays = tuple(jnp.full(shape, number, dtype) for dtype in dtypes)

    def add(blocks, start, arrays):
        blocks = blocks if several else (blocks,)
        return tuple(
            lax.dynamic_update_slice_in_dim(
                *(y, block, _first(y, start, size), 0), allow_negative_indices=False
            )
            for y, block in zip(arrays, blocks, strict=True)
        )

    if not exactly:
        arrays = for_each_block(
            shape[0],
            size,
            lambda start, arrays: add(block_of(start), start, arrays),
            arrays,
        )
        return arrays if several else arrays[0]

    def add_block(start, state):
        arrays, found = state
        blocks, found_here = block_of(start)
        return add(blocks, start, arrays), found | found_here

    def add_exact_block(start, arrays):
        block = block_at(images, start, size)
        if size == shape[0]:
            # The sum adds zero, but depends on the turn: XLA would move the convolution
            # of a single block out of the loop, and run it in each step.
            block += 0.0 * start
        return add(exactly(block), start, arrays)

    state = arrays, jnp.zeros_like(number, bool)
    arrays, found = for_each_block(shape[0], size, add_block, state)
    # A loop of no turns, nearly always: `lax.cond` would copy the arrays.
    arrays = for_each_block(shape[0], size, add_exact_block, arrays, found)
    return arrays if several else arrays[0]


def _first(x, start, size):
    """The block's first image: the last block overlaps the one before.

    It is never negative, so that slices need no code for that. XLA clamps a slice's
    start too, but it forgets that where `x` is itself such a slice (xla#49121): the
    last block would take the next batch's images.
    """
    return jnp.minimum(start, x.shape[0] - size)


def block_at(x, start, size):
    """Images `start` to `start + size`; the last block ends with the batch."""
    first = _first(x, start, size)
    block = jax.tree.map(
        lambda a: lax.dynamic_slice_in_dim(
            a, first, size, allow_negative_indices=False
        ),
        x,
    )
    return stored_on_cpu(block.images(), x) if isinstance(x, Unpooled) else block


def new_images_at(x, start, size):
    """The same with zeros for the images that the block before has had."""
    block = block_at(x, start, size)
    if x.shape[0] % size == 0:
        return block
    fresh = _first(x, start, size) + jnp.arange(size) >= start
    return jnp.where(fresh.reshape(-1, *[1] * (block.ndim - 1)), block, 0)


def images_a_block(images, at_most):
    """Images a block, so that the last one has about as many new ones as the others."""
    blocks = -(-images // max(1, at_most))
    return -(-images // blocks)
