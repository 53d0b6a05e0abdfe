"""Convolutions whose gradients are fast on a CPU, for any functional Keras model.

XLA on a CPU computes the weight gradient of a convolution, and the gradient of a max
pooling, several times slower than the forward pass: most of a training step is spent
there. `accelerate(model)` returns a model that computes the same from the same weights
with faster gradients, and with a BatchNorm that reads the images fewer times. On a GPU
or a TPU it runs the stock operations, and on another Keras backend than JAX it returns
the model it was given.

    fast = kerascnn.accelerate(model)
    fast.compile(...)
    fast.fit(...)
    model.save("trained.keras")  # plain Keras: the weights are the same variables
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
import warnings
import weakref

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from kerascnn import UsageError

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

_fast = contextvars.ContextVar("fast", default=True)


@contextlib.contextmanager
def stock_operations():
    """Have fast layers run the stock operations that they stand for.

    For a function, traced in this context, that will seldom be called: it is slower,
    and compiled in less time and memory (`Dropout`, whose twin is, stays a fast one).
    One that `jax.jit` has traced before stays as it is.
    """
    token = _fast.set(False)
    try:
        yield
    finally:
        _fast.reset(token)


# The axis of a mesh of devices over which a batch is cut (see `_on_each_device`).
BATCH = "batch"
_PART, _WHOLE = PartitionSpec(BATCH), PartitionSpec()


def fast_convolution(
    x, kernel, strides=(1, 1), padding="valid", bias=None, relu=False, source=()
):
    """Two-dimensional convolution with fast gradients on a CPU.

    The value is that of `keras.ops.conv` with `data_format="channels_last"`, to which a
    bias and ReLU may be added while it is in the processor's caches. All
    derivatives, of any order, forward and reverse, are exact. What the fast code does
    not cover (another type than float32, grouped channels, a symbolic batch size) runs
    as the stock operation, as does everything on a GPU or a TPU and under
    `stock_operations`.

    Args:
        x: images, float32 of shape `(batch, height, width, channels)`.
        kernel: float32 of shape `(kernel_height, kernel_width, channels, filters)`.
        strides: one integer or a pair, in pixels.
        padding: `"valid"`, `"same"`, or the pixels added on each side,
            `((top, bottom), (left, right))`.
        bias: float32 of shape `(filters,)`.
        relu: whether to return zero for what is negative.
        source: `(images, scale, shift)` where `x` is `images * scale + shift`, float32,
            the last two of shape `(channels,)`. From them the kernel's gradient may
            compute `x` again in pieces, so that a training step need not keep it. This
            is not checked: of another source it would be another gradient.

    Returns:
        float32 of shape `(batch, new_height, new_width, filters)`.

    Example:
        >>> import jax.numpy as jnp
        >>> fast_convolution(jnp.ones((1, 3, 3, 1)), jnp.ones((2, 2, 1, 1)))[0, ..., 0]
        Array([[4., 4.],
               [4., 4.]], dtype=float32)
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            x.shape[1:3], kernel.shape[:2], strides, padding.upper()
        )
    padding = tuple((int(low), int(high)) for low, high in padding)
    bias = () if bias is None else (bias,)
    if not (_fast.get() and _covered(x, kernel, padding) and _trusted()):
        groups = x.shape[3] // kernel.shape[2]
        y = _stock_convolution(x, kernel, strides, padding, groups)
        return _finished(y, bias, relu)
    # Images are cut among devices, the other arrays whole on each.
    images = source[:1]
    bias, affine = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), (bias, source[1:]))
    return _on_each_device(
        lambda batches, kernel, bias, affine: _finished_convolution(
            batches[0], kernel, bias, (*batches[1:], *affine), strides, padding, relu
        ),
        *((x, *images), kernel, bias, affine),
    )


def is_fast_in_a_loop(layer):
    """Whether a CPU computes a built layer as fast inside `jax.lax.scan` as outside.

    The gradients of XLA's own convolutions take twenty times as long there.

    Args:
        layer: the layer; all but convolutions are fast.
    """
    if not isinstance(layer, keras.layers.Conv2D):
        return True
    covered = type(layer) is Conv2D and layer._is_covered
    if not (covered and layer.compute_dtype == "float32" and _fast.get()):
        return False
    image = layer.input.shape[1:]
    shape = (*layer.kernel_size, image[2], layer.filters)
    if _tiles_pay(shape, layer.strides) and _trusted():
        return True  # without having to look

    def step(images, kernel):
        return layer.convolution_op(images, kernel).sum()

    arrays = (jax.ShapeDtypeStruct(each, jnp.float32) for each in ((1, *image), shape))
    text = jax.jit(jax.value_and_grad(step, (0, 1))).lower(*arrays).as_text()
    return "stablehlo.convolution" not in text


def _on_each_device(function, images, *others, result=_PART):
    """`function` of images and others; each device of a mesh takes its images.

    `images` may be a tuple of arrays, of equally many. Left to itself, XLA would send
    images from device to device for the loops over blocks. The result is one for each
    image, or, as `_WHOLE`, the same on all.
    """
    if not _may_be_cut(images):
        return function(images, *others)
    return jax.shard_map(
        function,
        in_specs=(_PART, *[_WHOLE] * len(others)),
        out_specs=result,
        check_vma=False,
    )(images, *others)


def _may_be_cut(images):
    """Whether a mesh is set whose automatic axis `BATCH` divides their number."""
    mesh = jax.sharding.get_abstract_mesh()
    number = len(jax.tree.leaves(images)[0])
    return BATCH in mesh.auto_axes and number % mesh.shape[BATCH] == 0


def _finished(y, bias, relu):
    """`y` with a bias, of a tuple that may be empty, and ReLU."""
    y = sum(bias, start=y)
    return jax.nn.relu(y) if relu else y


def _covered(x, kernel, padding):
    return (
        x.dtype == kernel.dtype == jnp.float32
        and x.shape[3] == kernel.shape[2]
        and all(isinstance(size, int) and size > 0 for size in x.shape + kernel.shape)
        and all(
            0 <= low < taps and 0 <= high < taps and size + low + high >= taps
            for size, taps, (low, high) in zip(
                x.shape[1:3], kernel.shape[:2], padding, strict=True
            )
        )
    )


@functools.cache
def _trusted():
    """Whether this process computes convolutions in tiles right.

    XLA for the CPU has had releases that computed wrong values without an error
    (jax#39103). Once per process, at first use, a small convolution and its weight
    gradient, in tiles, are compared with NumPy's; if they differ, the stock operation
    is used for all.
    """
    if jax.default_backend() != "cpu":
        return True
    rng = np.random.default_rng(0)
    # So many images take a loop over three blocks; the last one overlaps.
    x, g = rng.standard_normal((2, 239, 8, 8, 32), np.float32)
    kernel = rng.standard_normal((3, 3, 32, 32), np.float32)
    padding = ((1, 1), (1, 1))

    @jax.jit
    def fast(x, kernel, g):
        return (
            _tiled_convolution(x, kernel, padding),
            _tiled_weight_gradient(x, g, padding, 3),
        )

    # Concrete arrays stay concrete, also while another function is traced.
    with jax.ensure_compile_time_eval():
        results = [np.asarray(value) for value in fast(x, kernel, g)]
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


def _stock_convolution(x, kernel, strides, padding, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def _stock_input_gradient(g, kernel, strides, padding, size):
    x = jax.ShapeDtypeStruct((g.shape[0], *size, kernel.shape[2]), g.dtype)
    return jax.linear_transpose(
        lambda x: _stock_convolution(x, kernel, strides, padding), x
    )(g)[0]


def _stock_weight_gradient(x, g, strides, padding, taps):
    kernel = jax.ShapeDtypeStruct((*taps, x.shape[3], g.shape[3]), g.dtype)
    return jax.linear_transpose(
        lambda kernel: _stock_convolution(x, kernel, strides, padding), kernel
    )(g)[0]


# The same three maps on a CPU. Each is linear in both arguments, and the derivative
# of one with respect to either argument is another one of the three.


def _fast_convolution(x, kernel, strides, padding, finish=lambda y: y):
    """The convolution, then `finish` of its elements; filters are on the last axis."""
    if _is_dense(x.shape[1:3], kernel.shape[:2], padding):
        y = jnp.dot(_flat(x), kernel.reshape(-1, kernel.shape[3]))[:, None, None]
        return finish(y)
    if _tiles_pay(kernel.shape, strides):
        return _tiled_convolution(x, kernel, padding, finish=finish)
    if math.prod(kernel.shape[:3]) <= 32 and kernel.shape[3] <= 32:
        y = finish(_summed_convolution(x, kernel, strides, padding))
        return _stored_on_cpu(y, kernel)
    shape = _output_shape(x, kernel, strides, padding)
    if _bands_pay(x.shape[1:], shape, strides, kernel.shape[:2]):
        return _banded_convolution(x, kernel, strides, padding, finish)
    if strides != (1, 1):
        return _gathered_convolution(x, kernel, strides, padding, finish)
    # Stored, or the derivative might keep what is before bias and ReLU as well.
    y = finish(_stock_convolution(x, kernel, strides, padding))
    return _stored_on_cpu(y, kernel)


def _fast_input_gradient(g, kernel, strides, padding, size):
    if _is_dense(size, kernel.shape[:2], padding):
        x = jnp.dot(_flat(g), kernel.reshape(-1, kernel.shape[3]).T)
        return x.reshape(-1, *kernel.shape[:3])
    if strides != (1, 1):
        return _strided_input_gradient(g, kernel, strides, padding, size)
    if _bands_pay((*size, kernel.shape[2]), g.shape, strides, kernel.shape[:2]):
        return _banded_input_gradient(g, kernel, padding, size)
    # The convolution of `g` with the kernel turned by 180 degrees, channels swapped.
    edges = [
        (taps - 1 - low, taps - 1 - high)
        for taps, (low, high) in zip(kernel.shape[:2], padding, strict=True)
    ]
    if _tiles_pay(kernel.shape, strides):
        smaller = math.prod(g.shape[1:3]) < 0.7 * math.prod(size)
        if smaller or len(kernel) in _PIECES:
            return _tiled_input_gradient(g, kernel, padding, size)
        return _tiled_convolution(g, kernel, edges, turned=True)
    # Materialised: XLA then sees the plain forward convolution that it runs fast.
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return _stock_convolution(g, turned, strides, edges)


def _fast_weight_gradient(x, g, *source, strides, padding, taps):
    if _is_dense(x.shape[1:3], taps, padding):
        return jnp.dot(_flat(x).T, _flat(g)).reshape(*x.shape[1:], -1)
    if _tiles_pay((*taps, x.shape[3], g.shape[3]), strides):
        return _tiled_weight_gradient(x, g, padding, taps[0], source)
    if _bands_pay(x.shape[1:], g.shape, strides, taps):
        return _banded_weight_gradient(x, g, strides, padding, taps)
    return _row_weight_gradient(x, g, strides, padding, taps)


def _is_dense(size, taps, padding):
    """Whether the kernel covers the whole image, so that one product does it all."""
    return tuple(size) == tuple(taps) and not any(map(any, padding))


def _flat(x):
    return x.reshape(x.shape[0], -1)


def _shifted(x, taps, strides, padding):
    """The image under each tap of the kernel: a list of rows of arrays."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = (
        (pixels - size) // step + 1
        for pixels, size, step in zip(x.shape[1:3], taps, strides, strict=True)
    )
    rows = _every(x, 1, strides[0], height, taps[0])
    return [_every(row, 2, strides[1], width, taps[1]) for row in rows]


def _summed_convolution(x, kernel, strides, padding):
    """Shifted images times numbers, for a few channels and filters: one fused loop."""
    images = _shifted(x, kernel.shape[:2], strides, padding)
    terms = [
        images[i][j][..., c, None] * kernel[i, j, c]
        for i, j, c in np.ndindex(kernel.shape[:3])
    ]
    return functools.reduce(jnp.add, terms)


def _gathered_convolution(x, kernel, strides, padding, finish):
    """Matrix products over a few images at a time.

    All that the kernel covers stands side by side in the channels.
    """
    shape = _output_shape(x, kernel, strides, padding)
    size = _evenly(shape[0], 4096 // math.prod(shape[1:3]))
    matrix = kernel.reshape(-1, shape[3])

    def block_of(start):
        rows = _shifted(_block(x, start, size), kernel.shape[:2], strides, padding)
        seen = jnp.concatenate([image for row in rows for image in row], axis=3)
        block = jnp.dot(seen.reshape(-1, len(matrix)), matrix)
        return finish(block).reshape(size, *shape[1:])

    return _filled(shape, x, size, block_of)


def _strided_input_gradient(g, kernel, strides, padding, size):
    """One matrix product, whose results are added up where the kernel has been.

    In the padded image, a pixel in row a, a + stride, a + 2 stride, ... has met only
    the kernel's rows a, a + stride, ..., and so with columns. So the pixels fall into
    stride * stride classes: each is a sum of shifted results, and they are interleaved
    at the end. The results hold as many numbers as `g` has, times the kernel's taps,
    divided by its filters and times its channels.
    """
    images, height, width, filters = g.shape
    taps = kernel.shape[:2]
    results = jnp.dot(g.reshape(-1, filters), kernel.reshape(-1, filters).T)
    results = _stored_on_cpu(results, g).reshape(*g.shape[:3], *kernel.shape[:3])
    lines = [
        pixels + (length - 1) // step
        for pixels, length, step in zip((height, width), taps, strides, strict=True)
    ]

    def part(a, b):
        total = jnp.zeros((images, *lines, kernel.shape[2]), g.dtype)
        for i in range(a, taps[0], strides[0]):
            for j in range(b, taps[1], strides[1]):
                at = i // strides[0], j // strides[1]
                total += _framed(results[:, :, :, i, j], *at, *lines)
        return total

    rows = (
        jnp.stack([part(a, b) for b in range(strides[1])], axis=3)
        for a in range(strides[0])
    )
    x = jnp.stack(list(rows), axis=2).reshape(
        images, lines[0] * strides[0], lines[1] * strides[1], -1
    )
    return _without_padding(x, padding, size)


def _without_padding(x, padding, size):
    """The gradient of the images, of that of the padded ones up to the last window."""
    (top, _), (left, _) = padding
    below, right = (
        max(0, before + pixels - length)
        for before, pixels, length in zip((top, left), size, x.shape[1:3], strict=True)
    )
    x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))
    return x[:, top : top + size[0], left : left + size[1]]


def _row_weight_gradient(x, g, strides, padding, taps):
    """Matrix products over a few images at a time.

    The images shifted along a row of the kernel stand side by side in the channels, so
    that one product gives the gradient of the row; with few channels, of all rows.
    """
    channels, filters = x.shape[3], g.shape[3]
    height, width = g.shape[1:3]

    def add_block(start, total):
        image = jnp.pad(_block(x, start, size), ((0, 0), *padding, (0, 0)))
        columns = jnp.concatenate(_every(image, 2, strides[1], width, taps[1]), axis=3)
        rows = _every(columns, 1, strides[0], height, taps[0])
        if channels <= 4:
            rows = [jnp.concatenate(rows, axis=3)]
        cotangent = _block_once(g, start, size).reshape(-1, filters)
        products = [
            jnp.dot(row.reshape(len(cotangent), -1).T, cotangent) for row in rows
        ]
        return total + jnp.concatenate(products)

    size = _evenly(x.shape[0], 4096 // (height * width))
    total = jnp.zeros((math.prod(taps) * channels, filters), x.dtype)
    total = _for_each_block(x.shape[0], size, add_block, total)
    return total.reshape(*taps, channels, filters)


# Some pixels of a row of the output follow from the rows of the image under the kernel
# by one matrix: the kernel's rows, repeated along a diagonal band. Much of it is zeros,
# but with few channels one product of long lines is faster than many of short ones.


def _bands_pay(shape, g_shape, strides, taps):
    """Whether the lines are short enough: measured on two AVX2 cores.

    With few channels all else is slow, and they may be longer, as long as the band is
    not: a width that is prime has but one, mostly zeros. Measured on two AVX-512 cores.
    """
    width, filters = g_shape[2:]
    band = _band_width(width, filters, strides[1], taps[1])
    narrow = _pixels(band, strides, taps) <= 3 * taps[1]
    return (
        shape[1] * shape[2] <= 256
        and (width * filters <= 256 or (shape[2] <= 4 and narrow))
        and strides[1] <= taps[1] <= width * strides[1] + 1
    )


def _pixels(band, strides, taps):
    """Pixels of a row of the image that a band follows from."""
    return (band - 1) * strides[1] + taps[1]


# Numbers that the lines of a block hold, at most.
_NUMBERS_IN_LINES = 2**21


def _band_width(width, filters, stride, taps):
    """How many pixels of the output one band makes: a divisor of their number.

    Enough for a product of long lines, and no more: each further pixel adds to the
    zeros. Measured on two AVX-512 cores.
    """
    enough = (
        n
        for n in range(1, width)
        if width % n == 0 and n * filters >= 40 and n * stride >= taps - 1
    )
    return next(enough, width)


def _lines(x, strides, padding, taps, height, width, band):
    """The pixels under each band, `(images, height, bands, pixels * channels)`.

    Args:
        x: images.
        strides, padding, taps: the convolution's.
        height, width: its output's.
        band: pixels of the output that a band makes.
    """
    images, channels = x.shape[0], x.shape[3]
    step, bands = band * strides[1], width // band
    before = padding[1][0]
    after = step * (bands + 1) - x.shape[2] - before
    x = jnp.pad(x, ((0, 0), padding[0], (before, after), (0, 0)))
    x = x.reshape(images, x.shape[1], bands + 1, step * channels)
    # A band ends within the next one's first pixels.
    beyond = (taps[1] - strides[1]) * channels
    columns = jnp.concatenate([x[:, :, :-1], x[:, :, 1:, :beyond]], axis=3)
    return jnp.concatenate(_every(columns, 1, strides[0], height, taps[0]), axis=3)


def _banded(kernel, stride, band):
    """The kernel once for each pixel that a band makes, as a matrix.

    Returns:
        `(rows * pixels * channels, band * filters)`, for the pixels under a band.
    """
    last = (band - 1) * stride
    columns = [
        jnp.pad(kernel, ((0, 0), (at, last - at), (0, 0), (0, 0)))
        for at in range(0, last + 1, stride)
    ]
    return jnp.stack(columns, axis=3).reshape(-1, band * kernel.shape[3])


def _images_per_band_block(x, g_shape, strides, taps, band):
    """Images a block, so that the lines of all images are never there at once."""
    _, height, width, _ = g_shape
    line = taps[0] * _pixels(band, strides, taps) * x.shape[3]
    return _evenly(len(x), _NUMBERS_IN_LINES // (height * width // band * line))


def _banded_convolution(x, kernel, strides, padding, finish):
    shape = _output_shape(x, kernel, strides, padding)
    _, height, width, filters = shape
    taps = kernel.shape[:2]
    band = _band_width(width, filters, strides[1], taps[1])
    matrix = _banded(kernel, strides[1], band)
    size = _images_per_band_block(x, shape, strides, taps, band)

    def block_of(start):
        block = _block(x, start, size)
        lines = _lines(block, strides, padding, taps, height, width, band)
        block = jnp.dot(lines.reshape(-1, len(matrix)), matrix)
        return finish(block.reshape(size, *shape[1:]))

    y = _filled(shape, x, size, block_of)
    return _stored_on_cpu(y, kernel)  # for where one block is all


def _banded_input_gradient(g, kernel, padding, size):
    images, height, width, filters = g.shape
    taps, columns, channels, _ = kernel.shape
    band = _band_width(width, filters, 1, columns)
    matrix = _banded(kernel, 1, band)
    lines = _stored_on_cpu(jnp.dot(g.reshape(-1, band * filters), matrix.T), g)
    lines = lines.reshape(images, height, width // band, taps, -1)
    frame = height + taps - 1, width // band
    x = functools.reduce(
        jnp.add, (_framed(lines[:, :, :, i], i, 0, *frame) for i in range(taps))
    )
    x = _stored_on_cpu(x, g)
    own, beyond = jnp.split(x, [band * channels], axis=3)
    own = jnp.pad(own, ((0, 0), (0, 0), (0, 1), (0, 0)))
    rest = own.shape[3] - beyond.shape[3]
    x = own + jnp.pad(beyond, ((0, 0), (0, 0), (1, 0), (0, rest)))
    x = x.reshape(images, frame[0], width + band, channels)
    return _without_padding(x, padding, size)


def _banded_weight_gradient(x, g, strides, padding, taps):
    _, height, width, filters = g.shape
    band = _band_width(width, filters, strides[1], taps[1])
    size = _images_per_band_block(x, g.shape, strides, taps, band)

    def add_block(start, total):
        block = _block(x, start, size)
        lines = _lines(block, strides, padding, taps, height, width, band)
        g_block = _block_once(g, start, size).reshape(-1, band * filters)
        return total + jnp.dot(lines.reshape(len(g_block), -1).T, g_block)

    shape = taps[0], _pixels(band, strides, taps), x.shape[3], band, filters
    total = jnp.zeros((math.prod(shape[:3]), band * filters), x.dtype)
    matrix = _for_each_block(len(x), size, add_block, total).reshape(shape)
    return functools.reduce(
        jnp.add,
        (
            lax.slice_in_dim(matrix[:, :, :, at], start, start + taps[1], axis=1)
            for at, start in enumerate(range(0, band * strides[1], strides[1]))
        ),
    )


# Blocks of images: small enough for the processor's caches, and no copy of the whole
# batch is ever made.


def _for_each_block(images, size, body, init):
    steps = -(-images // size)
    return lax.fori_loop(0, steps, lambda i, state: body(i * size, state), init)


def _filled(shape, images, size, block_of):
    """An array of this shape, its images from `start` on being `block_of(start)`."""

    def add_block(start, y):
        # Starts where `_block` does: the last block overlaps the one before.
        return lax.dynamic_update_slice_in_dim(y, block_of(start), start, 0)

    return _for_each_block(shape[0], size, add_block, _room(shape, images))


def _room(shape, images):
    """An array for blocks to fill; what it holds comes from the images.

    A step's arrays of zeros would be one, kept until its end and copied for each loop.
    """
    return jnp.full(shape, images.ravel()[0])


def _block(x, start, size):
    """Images `start` to `start + size`; the last block ends with the batch."""
    return lax.dynamic_slice_in_dim(x, start, size)


def _block_once(x, start, size):
    """The same with zeros for the images that the block before has had."""
    block = _block(x, start, size)
    if x.shape[0] % size == 0:
        return block
    first = jnp.minimum(start, x.shape[0] - size)
    fresh = first + jnp.arange(size) >= start
    return jnp.where(fresh.reshape(-1, *[1] * (x.ndim - 1)), block, 0)


# Winograd's minimal filtering. The outputs are cut into squares of m x m pixels; each
# follows from n x n inputs, n = m + taps - 1. Polynomials of degree n - 1 are fixed by
# n values, so a product of polynomials, which a convolution is, takes one
# multiplication per point instead of one per pair of coefficients: n * n of them per
# square and channel where the definition takes m * m * taps * taps. For a 3x3 kernel
# that is 36 instead of 144, and they are matrix products over the channels.
# Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015.

# Points at which the polynomials are evaluated (infinity is one more), by n. Rounding
# errors depend on them alone: those for 6 make half the error of the usual 1 and 2.
_POINTS = {
    4: (0.0, 1.0, -1.0),
    6: (0.0, 0.625, -0.625, 1.5, -1.5),
    7: (0.0, 0.5, 1.0, -1.0, 2.0, -2.0),
    8: (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0),
}

# The sizes of n that keep a kernel's error (root mean square) below 1e-5.
_TILE_SIZES = {3: (4, 6), 5: (6, 8), 7: (7,)}

# A 7x7 kernel would need so many points that its transforms took longer than its
# products. It is cut in four pieces of 4x4 taps, one row and one column of them zeros.
# The outputs' squares are of 4x4 pixels too, so that the second piece meets where the
# first one does in the next square: the transforms serve all pieces, and their products
# are added up before they are transformed back.
_PIECES = {7: 2}

# Numbers that a block holds at each point, about. Few, so that its transforms stay in
# the cache; but as many squares as there are channels or filters, whichever are fewer,
# so that the kernel's transform is not read too often. Measured on two AVX-512 cores,
# each with images of its own.
_NUMBERS_PER_BLOCK = 10240


def _tiles_pay(kernel_shape, strides):
    """Whether tiles are faster than the direct sum: measured on two AVX2 cores."""
    rows, columns, channels, filters = kernel_shape
    return (
        strides == (1, 1)
        and rows == columns
        and rows in _TILE_SIZES
        and min(channels, filters) >= 16
    )


@dataclasses.dataclass(frozen=True)
class _Tiling:
    """How an output is cut into squares, and a kernel into pieces.

    Attributes:
        n: pixels along a side of what a square follows from.
        m: pixels along a square's side.
        counts: rows and columns of squares.
        pieces: pieces along a side of the kernel, of `n - m + 1` taps each.
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
    pieces = _PIECES.get(taps, 1)

    def of(n):
        m = n - -(-taps // pieces) + 1
        return _Tiling(n, m, (-(-height // m), -(-width // m)), pieces)

    return min(
        map(of, _TILE_SIZES[taps]),
        key=lambda tiling: tiling.n**2 * math.prod(tiling.counts),
    )


@functools.cache
def _winograd_matrices(taps, n):
    """Matrices (inputs, kernel, outputs) of the one-dimensional algorithm.

    With `d` the n inputs and `k` the kernel, the m outputs are
    `outputs @ ((kernel @ k) * (inputs @ d))`.
    """
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
    """`matrix` times the list of arrays `parts`, the products stacked at `axis`.

    One loop over the result, with the coefficients read from an array. Written as one
    expression per row, it would be as many loops to compile.
    """
    shape = [1] * (parts[0].ndim + 1)
    shape[axis] = len(matrix)
    terms = (
        jnp.asarray(column.reshape(shape), part.dtype) * jnp.expand_dims(part, axis)
        for column, part in zip(matrix.T, parts, strict=True)
    )
    return functools.reduce(jnp.add, terms)


def _never(x):
    """False, from the bits of a number of `x` so that XLA cannot know it."""
    bits = lax.bitcast_convert_type(x.ravel()[0], f"uint{8 * x.dtype.itemsize}")
    return (bits | 1) == 0


def _after(x, other):
    """`x`, as XLA sees it another array, which it cannot have before `other`."""
    return jnp.where(_never(other), -x, x)


def _stored_on_cpu(x, witness=None):
    """`stored` on a CPU, which asks a number of `witness`, or of `x` itself.

    A witness is an array that has been computed before: of `x`, XLA would compile all
    that it is computed from once more, for that one number.
    """
    never = _never(x if witness is None else witness)
    return lax.while_loop(
        lambda state: state[0], lambda state: (state[0], -state[1]), (never, x)
    )[1]


def stored(x):
    """`x`, on a CPU computed and stored before anything that uses it.

    XLA fuses chains of elementwise operations and would compute each element of an
    intermediate result again for each use, six times in the tiles. It drops
    `lax.optimization_barrier` before it fuses, but it cannot fuse across a loop. This
    one never turns, a fact that XLA cannot see.

    Args:
        x: Numbers, of any shape and any type but booleans.
    """
    return _store.bind(x)


_store = Primitive("store")
_store.def_impl(lambda x: x)
_store.def_abstract_eval(lambda x: x)
ad.deflinear2(_store, lambda ct, _: [_store.bind(ct)])
batching.defvectorized(_store)
mlir.register_lowering(_store, lambda _, x: [x])
mlir.register_lowering(
    _store, mlir.lower_fun(_stored_on_cpu, multiple_results=False), platform="cpu"
)


def _images_per_block(images, tiling, channels, filters):
    """Images a block, of so many channels; the products are of so many filters."""
    numbers = tiling.pieces**2 * channels
    tiles = max(_NUMBERS_PER_BLOCK // numbers, min(channels, filters))
    return _evenly(images, tiles // math.prod(tiling.counts))


def _evenly(images, at_most):
    """Images a block, so that the last one has about as many new ones as the others."""
    blocks = -(-images // max(1, at_most))
    return -(-images // blocks)


def _transformed_tiles(matrix, block, counts, step, witness):
    """Both one-dimensional transforms of every square of a block.

    Args:
        matrix: of shape `(n, pixels)`, for squares of `pixels` x `pixels`.
        block: of shape `(images, height, width, channels)`.
        counts: the numbers of rows and of columns of squares.
        step: pixels from one square to the next.
        witness: see `_stored_on_cpu`.

    Returns:
        The transformed squares, `(n * n, tiles, channels)`.
    """
    pixels = matrix.shape[1]
    images, height, width, channels = block.shape
    lines = block.reshape(images, height, width * channels)
    lines = _apply(matrix, _every(lines, 1, step, counts[0], pixels))
    lines = _stored_on_cpu(lines, witness)
    lines = lines.reshape(-1, images, counts[0], width, channels)
    tiles = _apply(matrix, _every(lines, 3, step, counts[1], pixels), axis=1)
    return tiles.reshape(len(matrix) ** 2, -1, channels)


def _spectrum(tiling, kernel, turned=False):
    """The kernel at each point, its pieces side by side in the channels.

    To be called before the loop over the blocks, so as not to be computed each time.

    Returns:
        An array of shape `(n * n, pieces * pieces * channels, filters)`.
    """
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


def _met(tiles, tiling, witness):
    """For each piece of the kernel, the transformed squares that it meets.

    Args:
        tiles: of shape `(n * n, images * rows * columns, channels)`, of the grid.
        tiling: the tiling.
        witness: see `_stored_on_cpu`.

    Returns:
        A list of arrays `(n * n, tiles, channels)`, in the outputs' order.
    """
    if tiling.pieces == 1:
        return [tiles]
    points, _, channels = tiles.shape
    tiles = _stored_on_cpu(tiles, witness)
    tiles = tiles.reshape(points, -1, *tiling.grid, channels)
    rows, columns = tiling.counts
    return [
        tiles[:, :, i : i + rows, j : j + columns].reshape(points, -1, channels)
        for i, j in np.ndindex(tiling.pieces, tiling.pieces)
    ]


def _added(met, tiling, witness):
    """The transpose of `_met`: for each square of the image, the sum of its parts."""
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
    total = _stored_on_cpu(total, witness)
    return total.reshape(len(total), -1, total.shape[4])


def _product(tiles, spectrum, contracted):
    """Transformed squares times the kernel's, `contracted` being its axis to sum."""
    return lax.dot_general(tiles, spectrum, (((2,), (contracted,)), ((0,), (0,))))


def _every(x, axis, step, count, offsets):
    """`count` elements of an axis, `step` apart, from each offset below `offsets`."""
    return [
        lax.slice_in_dim(x, i, i + step * (count - 1) + 1, step, axis)
        for i in range(offsets)
    ]


def _framed(block, top, left, height, width):
    """The block inside `height` x `width` zeros, at row `top` and column `left`."""
    below, right = height - top - block.shape[1], width - left - block.shape[2]
    return jnp.pad(block, ((0, 0), (top, below), (left, right), (0, 0)))


def _both_axes(matrix, x):
    """`matrix` applied to the first and to the second axis of `x`.

    As one product: for a kernel that is as fast as two loops, and compiled in far less
    time and memory.

    Args:
        matrix: of shape `(rows, columns)`.
        x: of shape `(columns * columns, channels, filters)`.

    Returns:
        An array of shape `(rows * rows, channels, filters)`.
    """
    both = jnp.asarray(np.kron(matrix, matrix), x.dtype)
    return jnp.dot(both, x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])


def _tiled_convolution(x, kernel, padding, turned=False, finish=lambda y: y):
    """The convolution with the kernel as it is, or with the turned kernel.

    Turning a kernel of one piece by 180 degrees and swapping its channels costs nothing
    here: the transform takes its taps in reverse, the matrix products the other side.
    """
    images, height, width, _ = _output_shape(x, kernel, (1, 1), padding)
    tiling = _tiling(len(kernel), height, width)
    n, m, (rows, columns) = tiling.n, tiling.m, tiling.counts
    inputs, _, outputs = tiling.matrices
    spectrum = _spectrum(tiling, kernel, turned)
    filters = kernel.shape[2 if turned else 3]
    size = _images_per_block(images, tiling, x.shape[3], filters)

    def block_of(start):
        block = _framed(
            _block(x, start, size), padding[0][0], padding[1][0], *tiling.frame
        )
        tiles = _transformed_tiles(inputs, block, tiling.grid, m, x)
        tiles = _met(tiles, tiling, x)
        # Side by side: one product adds up what the pieces contribute.
        tiles = jnp.concatenate(tiles, axis=2)
        products = _product(tiles, spectrum, 2 if turned else 1).reshape(n, -1)
        lines = _stored_on_cpu(_apply(outputs, list(products)), x)
        lines = lines.reshape(m, n, size, rows, columns, filters)
        squares = _apply(outputs, [lines[:, j] for j in range(n)], axis=4)
        # (images, rows, m, columns, m, filters)
        squares = squares.transpose(1, 2, 0, 3, 4, 5)
        squares = squares.reshape(size, *tiling.output, filters)
        return finish(squares[:, :height, :width])

    return _filled((images, height, width, filters), x, size, block_of)


def _tiled_input_gradient(g, kernel, padding, size):
    """The transpose of the same algorithm with respect to the images.

    As many products as forward, where the turned convolution would take one for each
    square of the larger image; in return, the squares of the result overlap.
    """
    images, height, width, filters = g.shape
    tiling = _tiling(len(kernel), height, width)
    n, m, (rows, columns) = tiling.n, tiling.m, tiling.grid
    inputs, _, outputs = tiling.matrices
    # One by one: the products of all pieces together would not stay in the cache.
    spectra = jnp.split(_spectrum(tiling, kernel), tiling.pieces**2, axis=1)
    channels = kernel.shape[2]
    block_size = _images_per_block(images, tiling, filters, channels)

    def block_of(start):
        g_block = _framed(_block(g, start, block_size), 0, 0, *tiling.output)
        g_tiles = _transformed_tiles(outputs.T, g_block, tiling.counts, m, g)
        products = _added([_product(g_tiles, s, 2) for s in spectra], tiling, g)
        products = products.reshape(n, n, block_size, rows, -1)
        lines = _overlapping(inputs.T, list(products), 2, m)
        # (n, images, height, columns * channels)
        # Asked itself: with `g` as witness XLA makes a slower loop of these.
        lines = stored(lines).reshape(n, block_size, -1, columns, channels)
        squares = _overlapping(inputs.T, list(lines), 2, m)
        return _without_padding(squares, padding, size)

    return _filled((images, *size, channels), g, block_size, block_of)


def _overlapping(matrix, parts, axis, step):
    """Squares' lines `matrix @ parts`, added up where they overlap.

    Args:
        matrix: of shape `(n, n)`.
        parts: n arrays with the squares along `axis`.
        axis: the axis of the squares; the result has pixels there.
        step: pixels from one square to the next.

    Returns:
        The lines; each has `step * squares + n - step` pixels.
    """
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


def _tiled_weight_gradient(x, g, padding, taps, source=()):
    """The transpose of the same algorithm with respect to the kernel."""
    images, height, width, filters = g.shape
    tiling = _tiling(taps, height, width)
    n, m, pieces = tiling.n, tiling.m, tiling.pieces
    inputs, weights, outputs = tiling.matrices
    channels = x.shape[3]
    size = _images_per_block(images, tiling, channels, filters)
    kept, *affine = source or (x,)

    def add_block(start, total):
        block = _block(kept, start, size)
        if affine:
            scale, shift = affine
            block = block * scale + shift
        block = _framed(block, padding[0][0], padding[1][0], *tiling.frame)
        tiles = _transformed_tiles(inputs, block, tiling.grid, m, kept)
        tiles = _met(tiles, tiling, kept)
        g_block = _framed(_block_once(g, start, size), 0, 0, *tiling.output)
        g_tiles = _transformed_tiles(outputs.T, g_block, tiling.counts, m, g)
        return [
            part + lax.dot_general(seen, g_tiles, (((1,), (1,)), ((0,), (0,))))
            for part, seen in zip(total, tiles, strict=True)
        ]

    total = [jnp.zeros((n * n, channels, filters), x.dtype)] * pieces**2
    total = _for_each_block(images, size, add_block, total)
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
    # `_after` asks for one number, of one piece: XLA would keep the other pieces' sums
    # until the images' gradient is done.
    return total if pieces == 1 else _stored_on_cpu(total, g)


def _bilinear_primitive(name, *, shape, fast, stock, first, second, images):
    """A JAX primitive for a map that is linear in each of its two arguments.

    Args:
        name: the name that a jaxpr shows.
        shape: function of the arguments and parameters, the shape of the result.
        fast: what a CPU runs.
        stock: what every other platform runs.
        first: the transpose with respect to the first argument: a function of
            (cotangent, the argument's shape, the second argument, parameters).
        second: the transpose with respect to the second argument: a function of
            (cotangent, the first argument, the argument's shape, parameters).
        images: whether the first argument and the result are batches of images, so
            that a vectorised call is one call with a larger batch.
    """
    primitive = _primitive(name, shape, fast, stock)

    def batch(arguments, axes, **parameters):
        (a, b), (axis, other) = arguments, axes
        if not images or axis is None or other is not None:
            return jax.vmap(functools.partial(stock, **parameters), axes)(a, b), 0
        a = jnp.moveaxis(a, axis, 0)
        result = primitive.bind(a.reshape(-1, *a.shape[2:]), b, **parameters)
        return result.reshape(*a.shape[:2], *result.shape[1:]), 0

    batching.primitive_batchers[primitive] = batch
    ad.defbilinear(primitive, first, second)
    return primitive


def _advised_primitive(name, bilinear, fast):
    """A primitive for a bilinear one's map, with advice on how a CPU computes it.

    Args:
        name: the name that a jaxpr shows.
        bilinear: the primitive, which gives all but what a CPU runs.
        fast: this, a function of the two arguments and the advice, further arrays on
            which the value does not depend.
    """

    def unadvised(a, b, *_, **parameters):
        return bilinear.bind(a, b, **parameters)

    def shape(*arguments, **parameters):
        bind = functools.partial(unadvised, **parameters)
        return jax.eval_shape(bind, *arguments).shape

    primitive = _primitive(name, shape, fast, unadvised)

    def jvp(primals, tangents, **parameters):
        (a, b, *_), (da, db, *_) = primals, tangents
        y = primitive.bind(*primals, **parameters)
        bind = functools.partial(bilinear.bind, **parameters)
        return y, _sum_where_given(bind, ((da, b), (a, db)), y)

    def transpose(ct, a, b, *advice, **parameters):
        both = ad.primitive_transposes[bilinear](ct, a, b, **parameters)
        return *both, *[None] * len(advice)

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    return primitive


def _sum_where_given(function, pairs, like):
    """The sum of a function of those pairs of arrays without a symbolic zero."""
    terms = (
        function(*pair)
        for pair in pairs
        if not any(type(array) is ad.Zero for array in pair)
    )
    return functools.reduce(jnp.add, terms, jnp.zeros_like(like))


def _primitive(name, shape, fast, stock):
    """A primitive without derivatives, vectorised as `stock` is.

    For the arguments see `_bilinear_primitive`.
    """
    primitive = Primitive(name)

    @functools.cache
    def compiled(**parameters):
        return jax.jit(functools.partial(primitive.bind, **parameters))

    @primitive.def_impl
    def evaluate(*arguments, **parameters):
        return compiled(**parameters)(*arguments)

    @primitive.def_abstract_eval
    def abstract(*arguments, **parameters):
        return jax.core.ShapedArray(shape(*arguments, **parameters), arguments[0].dtype)

    def batch(arguments, axes, **parameters):
        return jax.vmap(functools.partial(stock, **parameters), axes)(*arguments), 0

    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(stock, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(fast, multiple_results=False), platform="cpu"
    )
    return primitive


def _output_shape(x, kernel, strides, padding):
    size = (
        (pixels + low + high - taps) // step + 1
        for pixels, taps, step, (low, high) in zip(
            x.shape[1:3], kernel.shape[:2], strides, padding, strict=True
        )
    )
    return (x.shape[0], *size, kernel.shape[3])


_convolution = _bilinear_primitive(
    "fast_convolution",
    shape=_output_shape,
    fast=_fast_convolution,
    stock=_stock_convolution,
    first=lambda ct, x, kernel, **geometry: _input_gradient.bind(
        ct, kernel, size=x.aval.shape[1:3], **geometry
    ),
    second=lambda ct, x, kernel, **geometry: _weight_gradient.bind(
        x, ct, taps=kernel.aval.shape[:2], **geometry
    ),
    images=True,
)

_input_gradient = _bilinear_primitive(
    "fast_convolution_input_gradient",
    shape=lambda g, kernel, *, size, **_: (g.shape[0], *size, kernel.shape[2]),
    fast=_fast_input_gradient,
    stock=_stock_input_gradient,
    first=lambda ct, g, kernel, size, **geometry: _convolution.bind(
        ct, kernel, **geometry
    ),
    second=lambda ct, g, kernel, size, **geometry: _weight_gradient.bind(
        ct, g, taps=kernel.aval.shape[:2], **geometry
    ),
    images=True,
)

_weight_gradient = _bilinear_primitive(
    "fast_convolution_weight_gradient",
    shape=lambda x, g, *, taps, **_: (*taps, x.shape[3], g.shape[3]),
    fast=_fast_weight_gradient,
    stock=_stock_weight_gradient,
    first=lambda ct, x, g, taps, **geometry: _input_gradient.bind(
        g, ct, size=x.aval.shape[1:3], **geometry
    ),
    second=lambda ct, x, g, taps, **geometry: _convolution.bind(x, ct, **geometry),
    images=False,
)


# The same gradient of an `x` that is known to be `images * scale + shift`.
_weight_gradient_of_source = _advised_primitive(
    "fast_convolution_weight_gradient_of_source",
    _weight_gradient,
    _fast_weight_gradient,
)


def _fast_input_gradient_last(g, kernel, *others, **geometry):
    for other in others:
        kernel = _after(kernel, other)
    return _fast_input_gradient(g, kernel, **geometry)


# The images' gradient, on a CPU not before other arrays have been computed.
_input_gradient_last = _advised_primitive(
    "fast_convolution_input_gradient_last",
    _input_gradient,
    _fast_input_gradient_last,
)


# The derivative with respect to all arguments at once. It is a primitive so that
# backward the gradients of the kernel and of the bias come first: after them nothing
# needs that of the result. XLA would compute them all at the end, and keep it all.


def _tangent_of(convolution):
    def tangent(dx, dkernel, x, kernel, *others, biased, **geometry):
        terms = [convolution(dx, kernel, **geometry)]
        terms += [convolution(x, dkernel, **geometry), *others[:biased]]
        return functools.reduce(jnp.add, terms)

    return tangent


# Of the tangents of `x` and of the kernel, these two, the bias's tangent where `biased`
# says that there is one, and the source of `x` where it is known.
_tangent = _primitive(
    "fast_convolution_tangent",
    shape=lambda dx, dkernel, *_, biased, **geometry: _output_shape(
        dx, dkernel, **geometry
    ),
    fast=_tangent_of(_fast_convolution),
    stock=_tangent_of(_stock_convolution),
)


def _tangent_jvp(primals, tangents, *, biased, **geometry):
    dx, dkernel, x, kernel, *_ = primals
    ddx, ddkernel, x_tangent, kernel_tangent, *others = tangents
    pairs = (ddx, kernel), (dx, kernel_tangent), (x_tangent, dkernel), (x, ddkernel)
    y = _tangent.bind(*primals, biased=biased, **geometry)
    bind = functools.partial(_convolution.bind, **geometry)
    tangent = _sum_where_given(bind, pairs, y)
    dbias = (term for term in others[:biased] if type(term) is not ad.Zero)
    return y, functools.reduce(jnp.add, dbias, tangent)


def _tangent_transpose(ct, dx, dkernel, x, kernel, *others, biased, **geometry):
    source = others[biased:]
    weight_gradient = _weight_gradient_of_source if source else _weight_gradient
    dkernel = weight_gradient.bind(x, ct, *source, taps=kernel.shape[:2], **geometry)
    dbias = [ct.sum((0, 1, 2))] * biased
    dx = _input_gradient_last.bind(
        ct, kernel, dkernel, *dbias, size=x.shape[1:3], **geometry
    )
    return dx, dkernel, None, None, *dbias, *[None] * len(source)


def _tangent_batch(arguments, axes, **parameters):
    parts = functools.partial(_tangent_of(_convolution.bind), **parameters)
    return jax.vmap(parts, axes)(*arguments), 0


ad.primitive_jvps[_tangent] = _tangent_jvp
ad.primitive_transposes[_tangent] = _tangent_transpose
batching.primitive_batchers[_tangent] = _tangent_batch


# With bias and ReLU in the same pass: the derivative needs no more of them than where
# the result is zero, so nothing before it is kept.


def _finished_on_cpu(x, kernel, *bias, strides, padding, relu):
    finish = functools.partial(_finished, bias=bias, relu=relu)
    return _fast_convolution(x, kernel, strides, padding, finish)


def _finished_elsewhere(x, kernel, *bias, strides, padding, relu):
    return _finished(_stock_convolution(x, kernel, strides, padding), bias, relu)


_convolution_and_finish = _primitive(
    "fast_convolution_and_finish",
    shape=lambda x, kernel, *bias, relu, **geometry: _output_shape(
        x, kernel, **geometry
    ),
    fast=_finished_on_cpu,
    stock=_finished_elsewhere,
)


def _convolution_and_finish_batch(arguments, axes, *, relu, **geometry):
    def apart(x, kernel, *bias):
        return _finished(_convolution.bind(x, kernel, **geometry), bias, relu)

    return jax.vmap(apart, axes)(*arguments), 0


def _convolution_and_finish_transpose(ct, x, kernel, *bias, relu, **geometry):
    if relu:
        raise NotImplementedError("ReLU is not linear: it has no transpose")
    dx = dkernel = None
    if ad.is_undefined_primal(x):
        size = x.aval.shape[1:3]
        dx = _input_gradient.bind(ct, kernel, size=size, **geometry)
    if ad.is_undefined_primal(kernel):
        taps = kernel.aval.shape[:2]
        dkernel = _weight_gradient.bind(x, ct, taps=taps, **geometry)
    linear = (ad.is_undefined_primal(each) for each in bias)
    return dx, dkernel, *(ct.sum((0, 1, 2)) if each else None for each in linear)


ad.primitive_transposes[_convolution_and_finish] = _convolution_and_finish_transpose
batching.primitive_batchers[_convolution_and_finish] = _convolution_and_finish_batch


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
def _finished_convolution(x, kernel, bias, source, strides, padding, relu):
    """The convolution; `bias` and `source` are tuples that may be empty."""
    return _convolution_and_finish.bind(
        x, kernel, *bias, strides=strides, padding=padding, relu=relu
    )


@functools.partial(_finished_convolution.defjvp, symbolic_zeros=True)
def _finished_convolution_jvp(strides, padding, relu, primals, tangents):
    x, kernel, _, source = primals
    y = _finished_convolution(*primals, strides, padding, relu)
    # A tangent of `x` says all about its source's.
    dx, dkernel, *dbias = (
        None if isinstance(tangent, jax.custom_derivatives.SymbolicZero) else tangent
        for tangent in (*tangents[:2], *tangents[2])
    )
    dbias = [tangent for tangent in dbias if tangent is not None]
    geometry = {"strides": strides, "padding": padding}
    if dx is not None and dkernel is not None:
        arrays = dx, dkernel, x, kernel, *dbias, *source
        tangent = _tangent.bind(*arrays, biased=len(dbias), **geometry)
    else:
        tangent = jnp.zeros_like(y)
        if dx is not None:
            tangent += _convolution.bind(dx, kernel, **geometry)
        if dkernel is not None:
            tangent += _convolution.bind(x, dkernel, **geometry)
        tangent = functools.reduce(jnp.add, dbias, tangent)
    return y, jnp.where(y > 0, tangent, 0) if relu else tangent


# SiLU, for which a CPU keeps its argument. XLA would keep the sigmoid as well: a third
# of what a net of convolutions with SiLU keeps.


def _silu_tangent_of(dx, x):
    sigmoid = jax.nn.sigmoid(x)
    return dx * (sigmoid * (1 + x * (1 - sigmoid)))


def _silu_tangent_anew(dx, x):
    # Of another array, as far as XLA can see: it cannot be the sigmoid of before.
    return _silu_tangent_of(dx, _after(x, dx))


_silu_tangent = _primitive(
    "fast_silu_tangent",
    shape=lambda dx, x: dx.shape,
    fast=_silu_tangent_anew,
    stock=_silu_tangent_of,
)


def _silu_tangent_jvp(primals, tangents):
    tangents = map(ad.instantiate_zeros, tangents)
    return jax.jvp(_silu_tangent_of, primals, tuple(tangents))


def _silu_tangent_transpose(ct, dx, x):
    return _silu_tangent.bind(ct, x), None


ad.primitive_jvps[_silu_tangent] = _silu_tangent_jvp
ad.primitive_transposes[_silu_tangent] = _silu_tangent_transpose


@jax.custom_jvp
def _silu(x):
    return jax.nn.silu(x)


@_silu.defjvp
def _silu_jvp(primals, tangents):
    return _silu(*primals), _silu_tangent.bind(*tangents, *primals)


def fast_silu(x):
    """SiLU, `x * sigmoid(x)`, whose derivative keeps `x` alone on a CPU.

    All derivatives, of any order, forward and reverse, are exact.

    Args:
        x: floating-point numbers of shape `(batch, ...)`.

    Returns:
        An array of the same shape and type.
    """
    return _on_each_device(_silu, jnp.asarray(x))


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
    return _on_each_device(lambda x: _max_pool(x, *pool_size), jnp.asarray(x))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _max_pool(x, rows, columns):
    return _largest(_windows(x, rows, columns))[0]


@_max_pool.defjvp
def _max_pool_jvp(rows, columns, primals, tangents):
    windows = _windows(primals[0], rows, columns)
    batch, height, _, width, _, channels = windows.shape
    largest, index = _largest(windows)
    index = stored(index)
    # Lines of pixels and channels: the loops are then long enough to be vectorised.
    line = width * columns * channels
    index = jnp.repeat(index[:, :, :, None], columns, axis=3)
    column = np.tile(np.repeat(np.arange(columns), channels), width)
    position = np.arange(rows)[:, None] * columns + column
    chosen = index.reshape(batch, height, 1, line) == position.astype(index.dtype)
    tangent = _windows(tangents[0], rows, columns).reshape(batch, height, rows, line)
    tangent = jnp.where(chosen, tangent, 0).reshape(windows.shape)
    return largest, tangent.sum((2, 4))


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


def fast_batch_normalization(x, gamma, beta, epsilon):
    """Batch normalisation in training, over all axes but the last.

    The value is Keras's: the mean, then the variance about it, and the numbers
    `x * scale + (beta - mean * scale)`, where scale is `gamma / sqrt(variance +
    epsilon)`. The gradient takes two sums over the batch, where that of the single
    operations takes more; under one `jax.jit` with it, nothing but `x` is kept for it.
    All derivatives, of any order, forward and reverse, are exact.

    Where devices share a batch, they exchange numbers once forward and once backward.

    Args:
        x: float32 of shape `(batch, ..., channels)`.
        gamma: float32 of shape `(channels,)`.
        beta: float32 of shape `(channels,)`.
        epsilon: what is added to the variance, a float.

    Returns:
        The normalised `x`; the batch's mean and its variance (the mean squared
        deviation), each of shape `(channels,)`.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0], [3.0]])
        >>> gamma, beta = jnp.array([10.0]), jnp.array([0.0])
        >>> y, mean, variance = fast_batch_normalization(x, gamma, beta, 0.0)
        >>> y[:, 0]
        Array([-10.,  10.], dtype=float32)
        >>> mean[0], variance[0]
        (Array(2., dtype=float32), Array(1., dtype=float32))
    """
    return _normalised(x, gamma, beta, epsilon)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _normalised(x, gamma, beta, epsilon):
    mean, variance = _moments(x)
    scale, shift = _scale_and_shift(gamma, beta, mean, variance, epsilon)
    return x * scale + shift, mean, variance


def _scale_and_shift(gamma, beta, mean, variance, epsilon):
    scale = gamma * lax.rsqrt(variance + epsilon)
    return scale, beta - mean * scale


@_normalised.defjvp
def _normalised_jvp(epsilon, primals, tangents):
    x, gamma, beta = primals
    dx, dgamma, dbeta = tangents
    y, mean, variance = _normalised(x, gamma, beta, epsilon)
    inverse = lax.rsqrt(variance + epsilon)
    scale = gamma * inverse
    centred = x - mean
    dmean = _over_images(dx)
    # The variance's tangent is twice the mean of centred * (dx - dmean), and that of
    # centred * dmean is zero.
    half = _over_images(centred * dx)
    slope = dgamma * inverse - scale * inverse * inverse * half
    # Stored, so that backward `centred * gradient` is an array to be summed. Without
    # this, XLA keeps `centred` from the forward pass on.
    slope = _on_each_device(stored, jnp.broadcast_to(slope, x.shape))
    dy = scale * dx + (dbeta - scale * dmean) + centred * slope
    return (y, mean, variance), (dy, dmean, 2 * half)


def _over_images(x):
    return jnp.mean(x, tuple(range(x.ndim - 1)))


def _mean_and_variance(x):
    mean = _over_images(x)
    return mean, _over_images(jnp.square(x - mean))


def _moments(x):
    """The mean and the variance of the batch, also of one that devices share."""
    if not _may_be_cut(x):
        return _mean_and_variance(x)

    def of_all(part):
        # Parts of equal size: the mean of their variances and the variance of their
        # means add up to that of all. Chan, Golub and LeVeque, "Updating formulae and
        # a pairwise algorithm for computing sample variances", 1979.
        own = jnp.stack(_mean_and_variance(part))
        means, variances = lax.all_gather(own, BATCH, axis=1)
        mean, between = _mean_and_variance(means)
        return mean, jnp.mean(variances, 0) + between

    return _on_each_device(of_all, x, result=_WHOLE)


# What BatchNorm has made of what, for the convolution that comes next: by the identity
# of the result, `fast_convolution`'s argument `source`. JAX's tracers take no attribute
# and have no hash; an operation in between makes another one, which is not found.
_SOURCES = {}


def _remember(y, source):
    """Keep what `y` comes from, for as long as `y` is being traced."""
    if isinstance(y, jax.core.Tracer):
        _SOURCES[id(y)] = source
        weakref.finalize(y, _SOURCES.pop, id(y))


def _on_cpu():
    return keras.backend.backend() == "jax" and jax.default_backend() == "cpu"


class _Sharing:
    """For a fast layer, which may share what another layer knows."""

    _original = None

    @classmethod
    def sharing(cls, layer, **changes):
        """The fast twin of a built layer, with its variables and its `trainable`.

        Args:
            layer: the layer.
            changes: what is to differ in the configuration.
        """
        config = layer.get_config()
        # Of a function of the user's, it holds a name alone.
        objects = {
            name: getattr(layer, name)
            for name in config
            if callable(getattr(layer, name, None))
        }
        twin = cls.from_config(config | objects | changes)
        twin.autocast = layer.autocast  # not in the configuration
        # A function, for Keras would count the layer itself among the twin's own.
        twin._original = lambda: layer
        return twin

    @property
    def trainable(self):
        """Whether the layer trains: one switch for the twin and the original."""
        return self._original().trainable if self._original else super().trainable

    @trainable.setter
    def trainable(self, value):
        if self._original:
            self._original().trainable = value
        else:
            keras.layers.Layer.trainable.fset(self, value)

    def add_weight(self, *args, name=None, **kwargs):
        """The shared variable of this name, or a new one as the parent makes it."""
        if not self._original:
            return super().add_weight(*args, name=name, **kwargs)
        return next(v for v in self._original().variables if v.name == name)


@keras.saving.register_keras_serializable(package="kerascnn")
class Conv2D(_Sharing, keras.layers.Conv2D):
    """`keras.layers.Conv2D` computed by `fast_convolution`.

    Takes the arguments of its parent. Channels first, groups and dilation run as the
    parent runs them.
    """

    def call(self, inputs):
        """Convolve; add the bias, and a ReLU that follows it, in the same pass."""
        if not self._is_covered:
            return super().call(inputs)
        relu = self.activation is keras.activations.relu
        bias = self.bias if self.use_bias else None
        y = self._convolve(inputs, self.kernel, bias, relu)
        if relu or self.activation is None:
            return y
        if self.activation is keras.activations.silu:
            return fast_silu(y)
        return self.activation(y)

    def convolution_op(self, inputs, kernel):
        """The public override point of Keras's convolutions."""
        if not self._is_covered:
            return super().convolution_op(inputs, kernel)
        return self._convolve(inputs, kernel)

    @property
    def _is_covered(self):
        return (
            keras.backend.backend() == "jax"
            and self.data_format == "channels_last"
            and self.groups == 1
            and self.dilation_rate == (1, 1)
        )

    def _convolve(self, inputs, kernel, bias=None, relu=False):
        source = _SOURCES.get(id(inputs), ())
        kernel = keras.ops.convert_to_tensor(kernel)
        inputs = keras.ops.convert_to_tensor(inputs, dtype=kernel.dtype)
        if bias is not None:
            bias = keras.ops.convert_to_tensor(bias, dtype=kernel.dtype)
        return fast_convolution(
            inputs, kernel, self.strides, self.padding, bias, relu, source
        )


@keras.saving.register_keras_serializable(package="kerascnn")
class MaxPooling2D(_Sharing, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` computed by `fast_max_pool` where that covers it."""

    def call(self, inputs):
        """Pool; overlapping or padded windows and channels first as the parent does."""
        if (
            keras.backend.backend() != "jax"
            or not _fast.get()
            or self.data_format != "channels_last"
            or self.padding != "valid"
            or self.strides != self.pool_size
        ):
            return super().call(inputs)
        return fast_max_pool(inputs, self.pool_size)


@keras.saving.register_keras_serializable(package="kerascnn")
class BatchNormalization(_Sharing, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` computed by `fast_batch_normalization`.

    Takes the arguments of its parent, and runs as the parent does outside of training,
    where it is frozen, on a GPU or a TPU, with a mask, with renormalisation, over
    another axis than the last and for another type than float32.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalise; in training by the batch, and move the statistics towards it."""
        if not (training and self.trainable and mask is None and self._covers(inputs)):
            return super().call(inputs, training=training, mask=mask)
        like = self.moving_mean.value
        gamma = self.gamma.value if self.scale else jnp.ones_like(like)
        beta = self.beta.value if self.center else jnp.zeros_like(like)
        y, mean, variance = fast_batch_normalization(inputs, gamma, beta, self.epsilon)
        affine = _scale_and_shift(gamma, beta, mean, variance, self.epsilon)
        _remember(y, (inputs, *affine))
        old, new = self.momentum, 1 - self.momentum
        self.moving_mean.assign(self.moving_mean * old + mean * new)
        self.moving_variance.assign(self.moving_variance * old + variance * new)
        return y

    def _covers(self, inputs):
        return (
            _on_cpu()
            and _fast.get()
            and not self.renorm
            and self.axis in (-1, inputs.ndim - 1)
            and inputs.dtype.name == self.compute_dtype == "float32"
        )


@keras.saving.register_keras_serializable(package="kerascnn")
class Dropout(_Sharing, keras.layers.Dropout):
    """`keras.layers.Dropout` with the same draws, for one line of numbers.

    For an array of four axes, XLA on a CPU compiles them in five times the time and
    twice the memory. Takes the arguments of its parent, and runs as the parent does on
    a GPU or a TPU and with a `noise_shape`.
    """

    @classmethod
    def sharing(cls, layer):
        """The twin of a layer, which draws from the layer's own generator."""
        twin = super().sharing(layer, rate=0)  # makes no generator
        if layer.rate:
            twin.rate, twin.seed_generator = layer.rate, layer.seed_generator
        return twin

    def build(self, input_shape):
        """Nothing; without it, Keras would let no generator in after `__init__`."""

    def call(self, inputs, training=False):
        """Drop some of the numbers and scale the others, in training."""
        some = 0 < self.rate < 1
        if not (training and some and self.noise_shape is None and _on_cpu()):
            return super().call(inputs, training=training)
        drawn = super().call(jnp.ones(inputs.size, inputs.dtype), training=training)
        # A byte for each number: XLA would keep eight, what the draw is made of.
        seed = self.seed_generator.state.value
        kept = _stored_on_cpu((drawn > 0).astype("uint8"), seed)
        return jnp.where(kept.reshape(inputs.shape), inputs / (1 - self.rate), 0)


_TWINS = {
    keras.layers.Conv2D: Conv2D,
    keras.layers.MaxPooling2D: MaxPooling2D,
    keras.layers.BatchNormalization: BatchNormalization,
    keras.layers.Dropout: Dropout,
}


def accelerate(model):
    """A model that computes the same from the same weights, with faster gradients.

    Every `Conv2D`, `MaxPooling2D`, `BatchNormalization` and `Dropout` (at its present
    rate) is replaced by a fast twin, in nested models too; every other layer is shared
    with the model that was passed.
    All variables are the original's own, so training either model trains both, and a
    layer frozen in one is frozen in the other (set `trainable` of a whole model on the
    one that you train). Train the fast one, save the original: the file is plain Keras
    and needs nothing of this package. A file of the fast one needs
    `import kerascnn.acceleration` before it is opened.

    A compiled model comes back compiled from the same configuration, with a new
    optimiser.

    Args:
        model: a built Functional or Sequential model.

    Returns:
        The fast model, or `model` itself if Keras does not run on JAX.

    Raises:
        UsageError: if the model is subclassed, or has no weights yet.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((28, 28, 1)), keras.layers.Conv2D(6, 5)]
        ... )
        >>> accelerate(model).layers[0].kernel is model.layers[0].kernel
        True
    """
    if keras.backend.backend() != "jax":
        return model
    if not is_graph(model):
        raise UsageError(
            f"accelerate() got a {type(model).__name__}; it takes a Functional or "
            "Sequential model: pass its inputs and outputs to keras.Model first."
        )
    if not model.built:
        raise UsageError(
            f"accelerate() got the unbuilt model {model.name!r}; it takes a built one: "
            "start the model with keras.Input(shape)."
        )
    return _fast_model(model, twins={})


def is_graph(layer):
    """Whether a layer is a model that is its layers, Functional or Sequential."""
    # Keras exports no class for Functional models; their list of operations is public.
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and hasattr(layer, "operations")
    )


def _fast_model(model, twins):
    """The fast twin of a model; `twins` are those of layers met before, by identity."""

    def twin(layer):
        if id(layer) not in twins:
            twins[id(layer)] = make(layer)
        return twins[id(layer)]

    def make(layer):
        if is_graph(layer):
            return _fast_model(layer, twins)
        # A subclass may compute something else, and LoRA changes the kernel.
        fast = _TWINS.get(type(layer))
        if fast is None or getattr(layer, "lora_enabled", False):
            return layer
        return fast.sharing(layer)

    inputs = None
    if not isinstance(model, keras.Sequential):
        # Left alone, clone_model gives the inputs new names.
        names = {
            id(layer.output): layer.name
            for layer in model.layers
            if isinstance(layer, keras.layers.InputLayer)
        }
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(
                batch_shape=x.shape, dtype=x.dtype, name=names.get(id(x))
            ),
            model.input,
        )
    fast = keras.models.clone_model(model, input_tensors=inputs, clone_function=twin)
    # A clone takes the global policy; by the model's own, `compile` scales its loss.
    fast.dtype_policy = model.dtype_policy
    return fast
