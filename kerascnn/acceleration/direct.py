"""Convolutions by their definition, as matrix products of images."""

import math

import jax.numpy as jnp

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


def _flat(x):
    return x.reshape(x.shape[0], -1)


def dense_convolution(x, kernel, finish):
    """One matrix product, where the kernel covers the whole image."""
    y = jnp.dot(_flat(x), kernel.reshape(-1, kernel.shape[3]))[:, None, None]
    return finish(y)


def dense_input_gradient(g, kernel):
    """Its gradient with respect to the images."""
    x = jnp.dot(_flat(g), kernel.reshape(-1, kernel.shape[3]).T)
    return x.reshape(-1, *kernel.shape[:3])


def dense_weight_gradient(x, g):
    """Its gradient with respect to the kernel."""
    return jnp.dot(_flat(x).T, _flat(g)).reshape(*x.shape[1:], -1)


def _shifted(x, taps, strides, padding):
    """The image under each tap of the kernel, row by row."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = (
        (pixels - size) // step + 1
        for pixels, size, step in zip(x.shape[1:3], taps, strides, strict=True)
    )
    rows = strided_slices(x, 1, strides[0], height, taps[0])
    return [
        image
        for row in rows
        for image in strided_slices(row, 2, strides[1], width, taps[1])
    ]


def gathered_convolution(x, kernel, strides, padding, finish):
    """Matrix products over a few images at a time."""
    # All that the kernel covers stands side by side in the channels.
    shape = output_shape(x, kernel, strides, padding)
    size = images_a_block(shape[0], 4096 // math.prod(shape[1:3]))
    matrix = kernel.reshape(-1, shape[3])

    def block_of(start):
        images = _shifted(block_at(x, start, size), kernel.shape[:2], strides, padding)
        seen = jnp.concatenate(images, axis=3)
        block = jnp.dot(seen.reshape(-1, len(matrix)), matrix)
        return finish(block).reshape(size, *shape[1:])

    return filled(shape, x, size, block_of)


def strided_input_gradient(g, kernel, strides, padding, size):
    """One matrix product, whose results are added up where the kernel has been."""
    # In the padded image, a pixel in row a, a + stride, a + 2 stride, ... has met only
    # the kernel's rows a, a + stride, ..., and so with columns. So the pixels fall into
    # stride * stride classes: each is a sum of shifted results, and they are
    # interleaved at the end. The results hold as many numbers as `g` has, times the
    # kernel's taps, divided by its filters and times its channels.
    images, height, width, filters = g.shape
    taps = kernel.shape[:2]
    results = jnp.dot(g.reshape(-1, filters), kernel.reshape(-1, filters).T)
    results = stored_on_cpu(results, g).reshape(*g.shape[:3], *kernel.shape[:3])
    lines = [
        pixels + (length - 1) // step
        for pixels, length, step in zip((height, width), taps, strides, strict=True)
    ]

    def part(a, b):
        total = jnp.zeros((images, *lines, kernel.shape[2]), g.dtype)
        for i in range(a, taps[0], strides[0]):
            for j in range(b, taps[1], strides[1]):
                at = i // strides[0], j // strides[1]
                total += zero_framed(results[:, :, :, i, j], *at, *lines)
        return total

    rows = (
        jnp.stack([part(a, b) for b in range(strides[1])], axis=3)
        for a in range(strides[0])
    )
    x = jnp.stack(list(rows), axis=2).reshape(
        images, lines[0] * strides[0], lines[1] * strides[1], -1
    )
    return without_padding(x, padding, size)


def weight_gradient(x, g, strides, padding, taps):
    """Matrix products over a few images at a time."""
    # The images shifted along a row of the kernel stand side by side in the channels,
    # so that one product gives the gradient of the row; with few channels, of all rows.
    channels, filters = x.shape[3], g.shape[3]
    height, width = g.shape[1:3]

    def add_block(start, total):
        image = jnp.pad(block_at(x, start, size), ((0, 0), *padding, (0, 0)))
        columns = jnp.concatenate(
            strided_slices(image, 2, strides[1], width, taps[1]), axis=3
        )
        rows = strided_slices(columns, 1, strides[0], height, taps[0])
        if channels <= 4:
            rows = [jnp.concatenate(rows, axis=3)]
        cotangent = new_images_at(g, start, size).reshape(-1, filters)
        products = [
            jnp.dot(row.reshape(len(cotangent), -1).T, cotangent) for row in rows
        ]
        return total + jnp.concatenate(products)

    size = images_a_block(x.shape[0], 4096 // (height * width))
    total = jnp.zeros_like(x, shape=(math.prod(taps) * channels, filters))
    total = for_each_block(x.shape[0], size, add_block, total)
    return total.reshape(*taps, channels, filters)
