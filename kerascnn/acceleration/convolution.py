"""The convolution, its derivatives, and who computes them: a CPU or the others."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching

from kerascnn.acceleration import bands, direct, dispatch, winograd
from kerascnn.acceleration.blocks import along_channels, output_shape
from kerascnn.acceleration.canary import trusted
from kerascnn.acceleration.materialize import after, new_primitive, stored_on_cpu
from kerascnn.acceleration.mesh import on_each_device

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def fast_convolution(
    x, kernel, strides=(1, 1), padding="valid", bias=None, relu=False, affine_input=()
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
        affine_input: `(images, scale, shift)` where `x` is `images * scale + shift`,
            float32, the last two of shape `(channels,)`. From them the kernel's
            gradient may compute `x` again in pieces, so that a training step need not
            keep `x`. Nothing checks them: others would give another gradient.

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
    covered = not dispatch.uncovered(x.shape, kernel.shape, padding, dtypes)
    if not (dispatch.uses_fast() and covered and trusted()):
        groups = x.shape[3] // kernel.shape[2]
        y = _stock_convolution(x, kernel, strides, padding, groups)
        if 0 in y.shape and 0 not in x.shape:  # as `keras.ops.conv` has it
            raise ValueError(
                f"images of shape {x.shape} are too small for a kernel of shape "
                f"{kernel.shape} with padding {padding}"
            )
        return _finished(y, bias, relu)
    # Images are cut among devices, the other arrays whole on each.
    images = affine_input[:1]
    bias, affine = jax.tree.map(
        lambda a: jnp.asarray(a, x.dtype), (bias, affine_input[1:])
    )
    return on_each_device(
        lambda batches, kernel, bias, affine: _finished_convolution(
            batches[0], kernel, bias, (*batches[1:], *affine), strides, padding, relu
        ),
        *((x, *images), kernel, bias, affine),
    )


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
    geometry = x.shape[1:], kernel.shape, strides, padding
    match dispatch.algorithm(*geometry, of="output").name:
        case "dense":
            return direct.dense_convolution(x, kernel, finish)
        case "winograd":
            return winograd.convolution(x, kernel, padding, finish=finish)
        case "sums":
            y = finish(direct.summed_convolution(x, kernel, strides, padding))
            return stored_on_cpu(y, kernel)
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
    match dispatch.algorithm(*geometry, of="image gradient").name:
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


def _fast_weight_gradient(x, g, *affine_input, strides, padding, taps):
    geometry = x.shape[1:], (*taps, x.shape[3], g.shape[3]), strides, padding
    match dispatch.algorithm(*geometry, of="kernel gradient").name:
        case "dense":
            return direct.dense_weight_gradient(x, g)
        case "winograd":
            return winograd.weight_gradient(x, g, padding, taps[0], affine_input)
        case "bands":
            return bands.weight_gradient(x, g, strides, padding, taps)
    return direct.weight_gradient(x, g, strides, padding, taps)


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
    primitive = new_primitive(name, shape, fast, stock)

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

    primitive = new_primitive(name, shape, fast, unadvised)

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


_convolution = _bilinear_primitive(
    "fast_convolution",
    shape=output_shape,
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
_weight_gradient_of_affine = _advised_primitive(
    "fast_convolution_weight_gradient_of_affine",
    _weight_gradient,
    _fast_weight_gradient,
)


def _fast_input_gradient_last(g, kernel, *others, **geometry):
    for other in others:
        kernel = after(kernel, other)
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
        terms += [convolution(x, dkernel, **geometry)]
        terms += [along_channels(dbias, 4) for dbias in others[:biased]]
        return functools.reduce(jnp.add, terms)

    return tangent


# Of the tangents of `x` and of the kernel, these two, the bias's tangent where `biased`
# says that there is one, and the affine input of `x` where it is known.
_tangent = new_primitive(
    "fast_convolution_tangent",
    shape=lambda dx, dkernel, *_, biased, **geometry: output_shape(
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
    dbias = (
        along_channels(term, 4) for term in others[:biased] if type(term) is not ad.Zero
    )
    return y, functools.reduce(jnp.add, dbias, tangent)


def _tangent_transpose(ct, dx, dkernel, x, kernel, *others, biased, **geometry):
    affine_input = others[biased:]
    weight_gradient = _weight_gradient_of_affine if affine_input else _weight_gradient
    dkernel = weight_gradient.bind(
        x, ct, *affine_input, taps=kernel.shape[:2], **geometry
    )
    dbias = [ct.sum((0, 1, 2))] * biased
    dx = _input_gradient_last.bind(
        ct, kernel, dkernel, *dbias, size=x.shape[1:3], **geometry
    )
    return dx, dkernel, None, None, *dbias, *[None] * len(affine_input)


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


_convolution_and_finish = new_primitive(
    "fast_convolution_and_finish",
    shape=lambda x, kernel, *bias, relu, **geometry: output_shape(
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
def _finished_convolution(x, kernel, bias, affine_input, strides, padding, relu):
    """The convolution; `bias` and `affine_input` are tuples that may be empty."""
    return _convolution_and_finish.bind(
        x, kernel, *bias, strides=strides, padding=padding, relu=relu
    )


@functools.partial(_finished_convolution.defjvp, symbolic_zeros=True)
def _finished_convolution_jvp(strides, padding, relu, primals, tangents):
    x, kernel, _, affine_input = primals
    y = _finished_convolution(*primals, strides, padding, relu)
    # A tangent of `x` says all about its affine input's.
    dx, dkernel, *dbias = (
        None if isinstance(tangent, jax.custom_derivatives.SymbolicZero) else tangent
        for tangent in (*tangents[:2], *tangents[2])
    )
    dbias = [tangent for tangent in dbias if tangent is not None]
    geometry = {"strides": strides, "padding": padding}
    if dx is not None and dkernel is not None:
        arrays = dx, dkernel, x, kernel, *dbias, *affine_input
        tangent = _tangent.bind(*arrays, biased=len(dbias), **geometry)
    else:
        tangent = jnp.zeros_like(y)
        if dx is not None:
            tangent += _convolution.bind(dx, kernel, **geometry)
        if dkernel is not None:
            tangent += _convolution.bind(x, dkernel, **geometry)
        for each in dbias:
            tangent += along_channels(each, 4)
    return y, jnp.where(y > 0, tangent, 0) if relu else tangent
