"""The convolution, its derivatives, and who computes them: a CPU or the others.

Where `algorithm` says "winograd", an output is computed from pixels of the same
image up to 7 rows or columns away. A pixel that the kernel does not reach moves the
output by a millionth of its magnitude, times the sum of its channel's weights in
the filter, at most. Where a pixel of the batch is not finite, or is larger than 100,000
among smaller ones, the stock operation computes the output of the batch. Where all are
up to 255 the tiles always do; where many are above, as some networks' features of
unscaled images, the slower stock operation may. Gradients are not checked. Where the
kernel reaches zeros alone, ReLU finds the bias as it is.

Where it says "bands", a pixel that is not finite makes NaN of outputs beside those that
see it, in the same rows; one that is huge changes no others.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from kerascnn.acceleration import bands, direct, dispatch, winograd
from kerascnn.acceleration.blocks import along_channels, output_shape
from kerascnn.acceleration.canary import trusted
from kerascnn.acceleration.materialize import after, stored_on_cpu
from kerascnn.acceleration.mesh import is_cut_explicitly, on_each_device
from kerascnn.acceleration.platforms import by_platform
from kerascnn.acceleration.pooling import (
    Unpooled,
    fast_max_pool,
    known_by,
    largest,
    whole,
    windows,
)

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def fast_convolution(
    x,
    kernel,
    strides=(1, 1),
    padding="valid",
    bias=None,
    relu=False,
    affine_input=(),
    pool=False,
):
    """Two-dimensional convolution with fast gradients on a CPU.

    The value is that of `keras.ops.conv` with `data_format="channels_last"`, to which a
    bias and ReLU may be added while it is in the processor's caches. Reverse
    derivatives, of any order, are exact; `jax.jvp` and `jax.jacfwd` raise JAX's
    TypeError. What the fast code does not cover (another type than float32, grouped
    channels, a symbolic batch size) runs as the stock operation, as does everything on
    a GPU or a TPU, on a mesh whose explicit axes cut an argument, and under
    `stock_operations`.

    The module's text says what rounding does, and pixels that are huge or not finite.

    Args:
        x: images, float32 of shape `(batch, height, width, channels)`.
        kernel: float32 of shape `(kernel_height, kernel_width, channels, filters)`.
        strides: one integer or a pair, in pixels.
        padding: `"valid"`, `"same"`, or the pixels added on each side,
            `((top, bottom), (left, right))`.
        bias: float32 of shape `(filters,)`.
        relu: whether to return zero for what is negative; the derivative at zero is
            zero, as that of `jax.nn.relu`.
        affine_input: `(images, scale, shift)` where `x` is `images * scale + shift`,
            float32, the last two of shape `(channels,)`. From them the kernel's
            gradient may compute `x` again in pieces, so that a training step need not
            keep `x`. Nothing checks them: others would give another gradient.
        pool: whether to return the largest of each 2 x 2 pixels alone. Where
            `algorithm` says "winograd", all the others are never stored.

    Returns:
        float32 of shape `(batch, new_height, new_width, filters)`.

    Raises:
        ValueError: where `keras.ops.conv` raises it: images smaller than the kernel,
            channels that are no multiple of the kernel's, arrays of other axes.

    Example:
        >>> import jax.numpy as jnp
        >>> fast_convolution(jnp.ones((1, 3, 3, 1)), jnp.ones((2, 2, 1, 1)))[0, ..., 0]
        Array([[4., 4.],
               [4., 4.]], dtype=float32)
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            "fast_convolution takes images (batch, height, width, channels) and a "
            "kernel (height, width, channels, filters). Received: shapes "
            f"{x.shape} and {kernel.shape}"
        )
    strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
    padding = dispatch.explicit_padding(
        x.shape[1:3], kernel.shape[:2], strides, padding
    )
    bias = () if bias is None else (bias,)
    dtypes = x.dtype, kernel.dtype
    covered = not (
        dispatch.uncovered(x.shape, kernel.shape, padding, dtypes)
        or is_cut_explicitly(x, kernel, bias, affine_input)
    )
    if not (dispatch.uses_fast() and covered and trusted()):
        y = _uncovered_convolution(x, kernel, strides, padding)
        y = _finished(y, bias, relu)
        return fast_max_pool(y, (2, 2)) if pool else y
    at_once = pool and dispatch.pools(x.shape[1:], kernel.shape, strides, padding)
    constants = strides, padding, relu, at_once
    y = _covered_convolution(x, kernel, bias, affine_input, constants)
    return fast_max_pool(y, (2, 2)) if pool and not at_once else y


def _covered_convolution(x, kernel, bias, affine_input, constants):
    """`_convolution` on each device, the first of its results."""
    # Images are cut among devices, the other arrays whole on each.
    images = affine_input[:1]
    bias, affine = jax.tree.map(
        lambda a: jnp.asarray(a, x.dtype), (bias, affine_input[1:])
    )
    convolution: Any = _convolution
    if jax.sharding.get_abstract_mesh().manual_axes:
        # An eager `shard_map` refuses rules that ask what a gradient is wanted of.
        convolution = jax.jit(_convolution, static_argnums=(4, 5, 6, 7))

    def on_one(batches, kernel, bias, affine):
        affine = *batches[1:], *affine
        return convolution(batches[0], kernel, bias, affine, *constants)[0]

    return on_each_device(on_one, (x, *images), kernel, bias, affine)


def _uncovered_convolution(x, kernel, strides, padding):
    """The stock operation, with the errors of `keras.ops.conv`."""
    groups = x.shape[3] // kernel.shape[2]
    y = _stock_convolution(x, kernel, strides, padding, groups)
    if 0 in y.shape and 0 not in x.shape:
        raise ValueError(
            f"images of shape {x.shape} are too small for a kernel of shape "
            f"{kernel.shape} with padding {padding}"
        )
    return y


def _finished(y, bias, relu):
    """`y` with a bias, of a tuple that may be empty, and ReLU."""
    y = sum((along_channels(each, 4) for each in bias), start=y)
    return jax.nn.relu(y) if relu else y


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
    x = jnp.zeros_like(kernel, shape=(g.shape[0], *size, kernel.shape[2]))
    return jax.linear_transpose(
        lambda x: _stock_convolution(x, kernel, strides, padding), x
    )(whole(g))[0]


def _stock_weight_gradient(x, g, _, strides, padding, taps):
    kernel = jnp.zeros_like(x, shape=(*taps, x.shape[3], g.shape[3]))
    return jax.linear_transpose(
        lambda kernel: _stock_convolution(x, kernel, strides, padding), kernel
    )(whole(g))[0]


# The same three maps on a CPU.


def _fast_convolution(x, kernel, strides, padding, finish, pool, zeros):
    """The convolution, then `finish` of its elements; filters are on the last axis."""
    geometry = x.shape[1:], kernel.shape, strides, padding
    stock = functools.partial(
        _stock_convolution, kernel=kernel, strides=strides, padding=padding
    )
    words = {"finish": finish, "pool": pool, "zeros": zeros, "stock": stock}
    match dispatch.algorithm(*geometry, of="output").name:
        case "dense":
            return direct.dense_convolution(x, kernel, finish)
        case "winograd":
            return winograd.convolution(x, kernel, padding, **words)
        case "bands":
            return bands.convolution(x, kernel, strides, padding, finish)
        case "gathered":
            return direct.gathered_convolution(x, kernel, strides, padding, finish)
    # Stored, or the derivative might keep what is before bias and ReLU as well.
    y = finish(_stock_convolution(x, kernel, strides, padding))
    return stored_on_cpu(y, kernel)


def _fast_input_gradient(g, kernel, strides, padding, size):
    geometry = (*size, kernel.shape[2]), kernel.shape, strides, padding
    # The convolution of `g` with the kernel turned by 180 degrees, channels swapped.
    edges = [
        (taps - 1 - low, taps - 1 - high)
        for taps, (low, high) in zip(kernel.shape[:2], padding, strict=True)
    ]
    name = dispatch.algorithm(*geometry, of="image gradient").name
    g = g if name.startswith("winograd") else whole(g)
    match name:
        case "dense":
            return direct.dense_input_gradient(g, kernel)
        case "strided":
            return direct.strided_input_gradient(g, kernel, strides, padding, size)
        case "bands":
            return bands.input_gradient(g, kernel, padding, size)
        case "winograd transposed":
            return winograd.input_gradient(g, kernel, padding, size)
        case "winograd turned":
            return winograd.convolution(g, kernel, edges, turned=True)
    # Materialised: XLA then sees the plain forward convolution that it runs fast.
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return _stock_convolution(g, turned, strides, edges)


def _fast_weight_gradient(x, g, affine_input, strides, padding, taps):
    geometry = x.shape[1:], (*taps, x.shape[3], g.shape[3]), strides, padding
    match dispatch.algorithm(*geometry, of="kernel gradient").name:
        case "dense":
            return direct.dense_weight_gradient(x, g)
        case "winograd":
            return winograd.weight_gradient(x, g, padding, taps[0], affine_input)
        case "bands":
            return bands.weight_gradient(x, g, strides, padding, taps)
    return direct.weight_gradient(x, g, strides, padding, taps)


# The maps by platform, and the derivatives of each in terms of the others.


# Rounding errors of sums of numbers about 1.
_ROUNDING = 1e-5


def _on_cpu(x, kernel, bias, relu, **options):
    # The derivative of ReLU at zero is zero: rounding must not move zeros from there,
    # of black images, say. With larger biases there are none.
    near_zero = [jnp.any(jnp.abs(each) < _ROUNDING) for each in bias] or [True]
    return _fast_convolution(
        *(x, kernel),
        **options,
        finish=lambda y: _finished(y, bias, relu),
        zeros=near_zero[0] if relu else None,
    )


def _elsewhere(x, kernel, bias, relu, pool, **geometry):
    y = _finished(_stock_convolution(x, kernel, **geometry), bias, relu)
    return largest(windows(y, 2, 2)) if pool else y


_convolution_by_platform = by_platform(_on_cpu, _elsewhere, of_images=True)
_input_gradient_by_platform = by_platform(
    _fast_input_gradient, _stock_input_gradient, of_images=True
)
_weight_gradient_by_platform = by_platform(
    _fast_weight_gradient, _stock_weight_gradient
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _convolution(
    x, kernel, bias, affine_input, strides, padding, relu=False, pool=False
):
    """The convolution, a tuple of one; with `pool`, what `largest` says of it.

    `bias` and `affine_input` are tuples that may be empty.
    """
    y = _convolution_by_platform(
        *(x, kernel, bias), strides=strides, padding=padding, relu=relu, pool=pool
    )
    return y if pool else (y,)


def _convolution_forward(x, kernel, bias, affine_input, *constants):
    arrays = jax.tree.map(lambda each: each.value, (x, kernel, bias, affine_input))
    y, *index = _convolution(*arrays, *constants)
    # None where nothing asks for a gradient: `after` would have XLA compute it.
    asked = [(() if each.perturbed else None) for each in (x, kernel, *bias)]
    # A result that is zero or not says all that ReLU's derivative needs.
    y_of_relu = y if constants[2] else None
    return (y, *index), (asked, arrays[0], arrays[1], arrays[3], y_of_relu, index)


def _convolution_backward(strides, padding, relu, pool, residuals, cotangents):
    (of_x, of_kernel, *of_bias), x, kernel, affine_input, y, index = residuals
    g = cotangents[0]  # indices have none
    if relu:
        g = jnp.where(y > 0, g, 0)
    dx = dkernel = None
    dbias = [None if asked is None else g.sum((0, 1, 2)) for asked in of_bias]
    if pool:
        _, *size, _ = output_shape(x, kernel, strides, padding)
        g = Unpooled(g, *index, tuple(size))
    if of_kernel is not None:
        taps = kernel.shape[:2]
        dkernel = _weight_gradient(x, g, affine_input, strides, padding, taps)
    if of_x is not None:
        # Last: after the gradients of kernel and bias nothing needs `g`. XLA would
        # compute those at the end of the step, and keep all layers' `g`.
        for other in (dkernel, *dbias):
            kernel = kernel if other is None else after(kernel, other)
        dx = _input_gradient(g, kernel, strides, padding, x.shape[1:3])
    return dx, dkernel, tuple(dbias), None


_convolution.defvjp(_convolution_forward, _convolution_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _input_gradient(g, kernel, strides, padding, size):
    return _input_gradient_by_platform(
        *(g, kernel), strides=strides, padding=padding, size=size
    )


def _input_gradient_backward(strides, padding, _, residuals, ct):
    g, kernel = residuals
    (dg,) = _convolution(ct, kernel, (), (), strides, padding)
    return known_by(g, dg), _weight_gradient(
        ct, g, (), strides, padding, kernel.shape[:2]
    )


_input_gradient.defvjp(
    lambda g, kernel, *constants: (
        _input_gradient(g, kernel, *constants),
        (g, kernel),
    ),
    _input_gradient_backward,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _weight_gradient(x, g, affine_input, strides, padding, taps):
    return _weight_gradient_by_platform(
        *(x, g, affine_input), strides=strides, padding=padding, taps=taps
    )


def _weight_gradient_backward(strides, padding, _, residuals, ct):
    x, g = residuals
    dx = _input_gradient(g, ct, strides, padding, x.shape[1:3])
    (dg,) = _convolution(x, ct, (), (), strides, padding)
    # The derivative by `x` says all about its affine input's.
    return dx, known_by(g, dg), None


_weight_gradient.defvjp(
    lambda x, g, *others: (_weight_gradient(x, g, *others), (x, g)),
    _weight_gradient_backward,
)
