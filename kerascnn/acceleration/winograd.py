"""Winograd's minimal filtering.

The outputs are cut into squares of m x m pixels; each follows from n x n inputs,
n = m + taps - 1. Polynomials of degree n - 1 are fixed by n values, so a product of
polynomials, which a convolution is, takes one multiplication per point instead of one
per pair of coefficients: n * n of them per square and channel where the definition
takes m * m * taps * taps. For a 3x3 kernel that is 36 instead of 144, and they are
matrix products over the channels. Lavin and Gray, "Fast algorithms for convolutional
neural networks", 2015.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from kerascnn.acceleration.blocks import (
    along_channels,
    block_at,
    extreme,
    filled,
    for_each_block,
    images_a_block,
    largest_under,
    new_images_at,
    output_shape,
    strided_slices,
    without_padding,
    zero_framed,
)
from kerascnn.acceleration.materialize import stored_on_cpu
from kerascnn.acceleration.pooling import largest, windows

# Points at which the polynomials are evaluated (infinity is one more), by n. Rounding
# errors depend on them alone: those for 6 make half the error of the usual 1 and 2.
_POINTS = {
    4: (0.0, 1.0, -1.0),
    6: (0.0, 0.625, -0.625, 1.5, -1.5),
    7: (0.0, 0.5, 1.0, -1.0, 2.0, -2.0),
    8: (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0),
}

# The sizes of n that keep a kernel's error (root mean square) below 1e-5.
TILE_SIZES = {3: (4, 6), 5: (6, 8), 7: (7,)}

# A 7x7 kernel would need so many points that its transforms took longer than its
# products. It is cut in four pieces of 4x4 taps, one row and one column of them zeros.
# The outputs' squares are of 4x4 pixels too, so that the second piece meets where the
# first one does in the next square: the transforms serve all pieces, and their products
# are added up before they are transformed back.
PIECES = {7: 2}

# Numbers that a block holds at each point, about. Few, so that its transforms stay in
# the cache; but as many squares as there are channels or filters, whichever are fewer,
# so that the kernel's transform is not read too often (`kerascnn bench operations`).
_NUMBERS_PER_BLOCK = 10240


@dataclasses.dataclass(frozen=True)
class _Tiling:
    """How an output is cut into `counts` squares of side `m`, each from `n * n` pixels.

    The kernel is cut into `pieces` along a side, of `n - m + 1` taps each.
    """

    n: int
    m: int
    counts: tuple[int, int]
    pieces: int

    @property
    def grid(self):
        """Rows and columns of squares that the pieces meet in the image."""
        return tuple(count + self.pieces - 1 for count in self.counts)

    @property
    def frame(self):
        """Height and width of the image that these squares follow from."""
        return tuple(count * self.m + self.n - self.m for count in self.grid)

    @property
    def output(self):
        """Height and width of the squares together."""
        return tuple(count * self.m for count in self.counts)

    @property
    def matrices(self):
        """Those of `_winograd_matrices`."""
        return _winograd_matrices(self.n - self.m + 1, self.n)


def _tiling(taps, height, width):
    """The one that takes the fewest multiplications for an output of this size."""
    pieces = PIECES.get(taps, 1)

    def of(n):
        m = n - -(-taps // pieces) + 1
        return _Tiling(n, m, (-(-height // m), -(-width // m)), pieces)

    return min(
        map(of, TILE_SIZES[taps]),
        key=lambda tiling: tiling.n**2 * math.prod(tiling.counts),
    )


@functools.cache
def _winograd_matrices(taps, n):
    """Matrices (inputs, kernel, outputs) of the one-dimensional algorithm."""
    # With `d` the n inputs and `k` the kernel, the m outputs are `outputs @ ((kernel @
    # k) * (inputs @ d))`.
    points = np.array(_POINTS[n])
    m = n - taps + 1
    inputs = np.zeros((n, n))
    kernel = np.zeros((n, taps))
    outputs = np.zeros((m, n))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        inputs[i, :-1] = np.polynomial.polynomial.polyfromroots(others)
        kernel[i] = point ** np.arange(taps) / np.prod(point - others)
        outputs[:, i] = point ** np.arange(m)
    inputs[-1] = np.polynomial.polynomial.polyfromroots(points)
    kernel[-1, -1] = outputs[-1, -1] = 1
    return inputs, kernel, outputs


def _apply(matrix, parts, axis=0):
    """`matrix` times the list of arrays `parts`, the products stacked at `axis`."""
    # One loop over the result, with the coefficients read from an array. Written as one
    # expression per row, it would be as many loops to compile.
    shape = list(parts[0].shape)
    shape.insert(axis, len(matrix))
    others = [i for i in range(len(shape)) if i != axis]

    def term(column, part):
        column = lax.broadcast_in_dim(column.astype(part.dtype), shape, [axis])
        return lax.mul(column, lax.broadcast_in_dim(part, shape, others))

    pairs = zip(matrix.T, parts, strict=True)
    return functools.reduce(lax.add, (term(*pair) for pair in pairs))


def _images_per_block(images, tiling, channels, filters):
    """Images a block, of so many channels; the products are of so many filters."""
    numbers = tiling.pieces**2 * channels
    tiles = max(_NUMBERS_PER_BLOCK // numbers, min(channels, filters))
    return images_a_block(images, tiles // math.prod(tiling.counts))


def _transformed_tiles(matrix, block, counts, step, witness):
    """Both transforms of every square of a block, `(n * n, tiles, channels)`."""
    pixels = matrix.shape[1]
    images, height, width, channels = block.shape
    lines = block.reshape(images, height, width * channels)
    lines = _apply(matrix, strided_slices(lines, 1, step, counts[0], pixels))
    lines = stored_on_cpu(lines, witness)
    lines = lines.reshape(-1, images, counts[0], width, channels)
    tiles = _apply(matrix, strided_slices(lines, 3, step, counts[1], pixels), axis=1)
    return tiles.reshape(len(matrix) ** 2, -1, channels)


def _spectrum(tiling, kernel, turned=False):
    """The kernel at each point, `(n * n, pieces * pieces * channels, filters)`."""
    # To be called before the loop over the blocks, so as not to be computed each time.
    n, m, pieces = tiling.n, tiling.m, tiling.pieces
    weights = tiling.matrices[1]
    if turned:
        weights = weights[:, ::-1]
    taps = n - m + 1
    missing = (0, pieces * taps - len(kernel))
    kernel = jnp.pad(kernel, (missing, missing, (0, 0), (0, 0)))
    kernel = kernel.reshape(pieces, taps, pieces, taps, *kernel.shape[2:])
    kernel = kernel.transpose(1, 3, 0, 2, 4, 5)
    return _both_axes(weights, kernel.reshape(taps * taps, -1, kernel.shape[5]))


def _tiles_of_pieces(tiles, tiling, witness):
    """For each piece of the kernel, the transformed squares that it meets, in order."""
    if tiling.pieces == 1:
        return [tiles]
    points, _, channels = tiles.shape
    tiles = stored_on_cpu(tiles, witness)
    tiles = tiles.reshape(points, -1, *tiling.grid, channels)
    rows, columns = tiling.counts
    return [
        tiles[:, :, i : i + rows, j : j + columns].reshape(points, -1, channels)
        for i, j in np.ndindex(tiling.pieces, tiling.pieces)
    ]


def _sum_of_pieces(met, tiling, witness):
    """The transpose of `_tiles_of_pieces`: each square of the image, its parts' sum."""
    if tiling.pieces == 1:
        return met[0]
    last = tiling.pieces - 1
    total = functools.reduce(
        jnp.add,
        (
            jnp.pad(
                part.reshape(len(part), -1, *tiling.counts, part.shape[2]),
                ((0, 0), (0, 0), (i, last - i), (j, last - j), (0, 0)),
            )
            for part, (i, j) in zip(
                met, np.ndindex(tiling.pieces, tiling.pieces), strict=True
            )
        ),
    )
    total = stored_on_cpu(total, witness)
    return total.reshape(len(total), -1, total.shape[4])


def _product(tiles, spectrum, contracted):
    """Transformed squares times the kernel's, `contracted` being its axis to sum."""
    return lax.dot_general(tiles, spectrum, (((2,), (contracted,)), ((0,), (0,))))


def _both_axes(matrix, x):
    """`matrix` applied to the first and to the second axis of `x`."""
    # As one product: for a kernel that is as fast as two loops, and compiled in far
    # less time and memory.
    both = jnp.asarray(np.kron(matrix, matrix), x.dtype)
    return jnp.dot(both, x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])


def convolution(
    x,
    kernel,
    padding,
    turned=False,
    finish=lambda y: y,
    pool=False,
    zeros=None,
    stock=None,
):
    """The convolution with the kernel as it is, or with the turned kernel.

    With `pool`: of each 2 x 2 pixels the largest, and its index. `zeros` may be a
    boolean `()`: whether the result must be zero where the kernel sees zeros alone.
    With `stock`, that function convolves blocks where numbers are extreme.
    """
    # Turning a kernel of one piece by 180 degrees and swapping its channels costs
    # nothing here: the transform takes its taps in reverse, the matrix products the
    # other side.
    images, height, width, _ = output_shape(x, kernel, (1, 1), padding)
    tiling = _tiling(len(kernel), height, width)
    n, m, (rows, columns) = tiling.n, tiling.m, tiling.counts
    inputs, _, outputs = tiling.matrices
    spectrum = _spectrum(tiling, kernel, turned)
    filters = kernel.shape[2 if turned else 3]
    size = _images_per_block(images, tiling, x.shape[3], filters)

    everywhere = jnp.ones_like(kernel, bool, (size, height, width, 1))

    def is_seen(start):
        # A tile's rounding leaves small numbers, of either sign, beside larger ones.
        pixels = jnp.max(jnp.abs(block_at(x, start, size)), axis=3, keepdims=True)
        return largest_under(pixels, len(kernel), padding) > 0

    def block_of(start):
        block = zero_framed(
            block_at(x, start, size), padding[0][0], padding[1][0], *tiling.frame
        )
        tiles = _transformed_tiles(inputs, block, tiling.grid, m, x)
        # Each pixel has its share of the values at zero and infinity.
        corners = [tiles[i] for i in (0, n - 1, n * n - n, n * n - 1)]
        tiles = _tiles_of_pieces(tiles, tiling, x)
        # Side by side: one product adds up what the pieces contribute.
        tiles = jnp.concatenate(tiles, axis=2)
        products = _product(tiles, spectrum, 2 if turned else 1).reshape(n, -1)
        lines = stored_on_cpu(_apply(outputs, list(products)), x)
        lines = lines.reshape(m, n, size, rows, columns, filters)
        squares = _apply(outputs, [lines[:, j] for j in range(n)], axis=4)
        # (images, rows, m, columns, m, filters)
        squares = squares.transpose(1, 2, 0, 3, 4, 5)
        squares = squares.reshape(size, *tiling.output, filters)
        squares = squares[:, :height, :width]
        if zeros is not None:
            seen = lax.cond(zeros, is_seen, lambda start: everywhere, start)
            squares = jnp.where(seen, squares, 0)
        return (finished(squares), extreme(*corners)) if stock else finished(squares)

    def finished(block):
        block = finish(block)
        # Not stored: that the largest and its index each compute the squares is faster.
        return largest(windows(block, 2, 2)) if pool else block

    exactly = stock and (lambda block: finished(stock(block)))
    side, dtypes = (2, (x.dtype, jnp.int8)) if pool else (1, (None,))
    shape = images, height // side, width // side, filters
    return filled(shape, x, size, block_of, dtypes, exactly)


def input_gradient(g, kernel, padding, size):
    """The transpose of the same algorithm with respect to the images."""
    # As many products as forward, where the turned convolution would take one for each
    # square of the larger image; in return, the squares of the result overlap.
    images, height, width, filters = g.shape
    tiling = _tiling(len(kernel), height, width)
    n, m, (rows, columns) = tiling.n, tiling.m, tiling.grid
    inputs, _, outputs = tiling.matrices
    # One by one: the products of all pieces together would not stay in the cache.
    spectra = jnp.split(_spectrum(tiling, kernel), tiling.pieces**2, axis=1)
    channels = kernel.shape[2]
    block_size = _images_per_block(images, tiling, filters, channels)

    def block_of(start):
        g_block = zero_framed(block_at(g, start, block_size), 0, 0, *tiling.output)
        g_tiles = _transformed_tiles(outputs.T, g_block, tiling.counts, m, g)
        products = _sum_of_pieces([_product(g_tiles, s, 2) for s in spectra], tiling, g)
        products = products.reshape(n, n, block_size, rows, -1)
        lines = _overlapping(inputs.T, list(products), 2, m)
        # (n, images, height, columns * channels)
        # Asked itself: with `g` as witness XLA makes a slower loop of these.
        lines = stored_on_cpu(lines).reshape(n, block_size, -1, columns, channels)
        squares = _overlapping(inputs.T, list(lines), 2, m)
        return without_padding(squares, padding, size)

    return filled((images, *size, channels), g, block_size, block_of)


def _overlapping(matrix, parts, axis, step):
    """Squares' lines `matrix @ parts`, added up where they overlap."""
    n, squares = len(matrix), parts[0].shape[axis]
    pieces = -(-n // step)
    total = 0
    for piece in range(pieces):
        rows = np.zeros((step, n))
        rows[: min(step, n - piece * step)] = matrix[piece * step : piece * step + step]
        line = _apply(rows, parts, axis + 1)
        around = [(0, 0)] * line.ndim
        around[axis] = (piece, pieces - 1 - piece)
        total += jnp.pad(line, around)
    shape = list(parts[0].shape)
    shape[axis] = (squares + pieces - 1) * step
    return lax.slice_in_dim(
        total.reshape(shape), 0, step * squares + n - step, axis=axis
    )


def weight_gradient(x, g, padding, taps, affine_input=()):
    """The transpose of the same algorithm with respect to the kernel."""
    images, height, width, filters = g.shape
    tiling = _tiling(taps, height, width)
    n, m, pieces = tiling.n, tiling.m, tiling.pieces
    inputs, weights, outputs = tiling.matrices
    channels = x.shape[3]
    size = _images_per_block(images, tiling, channels, filters)
    kept, *affine = affine_input or (x,)

    def add_block(start, total):
        block = block_at(kept, start, size)
        if affine:
            scale, shift = affine
            block = block * along_channels(scale, 4) + along_channels(shift, 4)
        block = zero_framed(block, padding[0][0], padding[1][0], *tiling.frame)
        tiles = _transformed_tiles(inputs, block, tiling.grid, m, kept)
        tiles = _tiles_of_pieces(tiles, tiling, kept)
        g_block = zero_framed(new_images_at(g, start, size), 0, 0, *tiling.output)
        g_tiles = _transformed_tiles(outputs.T, g_block, tiling.counts, m, g)
        return [
            part + lax.dot_general(seen, g_tiles, (((1,), (1,)), ((0,), (0,))))
            for part, seen in zip(total, tiles, strict=True)
        ]

    total = [jnp.zeros_like(x, shape=(n * n, channels, filters))] * pieces**2
    total = for_each_block(images, size, add_block, total)
    side = n - m + 1
    parts = [
        _both_axes(weights.T, part).reshape(side, side, channels, filters)
        for part in total
    ]
    rows = [
        jnp.concatenate(parts[i : i + pieces], axis=1)
        for i in range(0, len(parts), pieces)
    ]
    total = jnp.concatenate(rows)[:taps, :taps]
    # `after` asks for one number, of one piece: XLA would keep the other pieces' sums
    # until the images' gradient is done.
    return total if pieces == 1 else stored_on_cpu(total, g)
