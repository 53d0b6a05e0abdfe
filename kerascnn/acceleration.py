"""Convolutions whose gradients are fast on a CPU, for any functional Keras model.

XLA on a CPU computes the weight gradient of a convolution, and the gradient of a max
pooling, several times slower than the forward pass: most of a training step is spent
there. `accelerate(model)` returns a model that computes the same from the same weights
with faster gradients. On a GPU or a TPU it runs the stock operations, and on another
Keras backend than JAX it returns the model it was given.

    fast = kerascnn.accelerate(model)
    fast.compile(...)
    fast.fit(...)
    model.save("trained.keras")  # plain Keras: the weights are the same variables
"""

import functools
import math

import jax
import jax.numpy as jnp
import keras
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from kerascnn import UsageError

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def fast_convolution(x, kernel, strides=(1, 1), padding="valid"):
    """Two-dimensional convolution with fast gradients on a CPU.

    The value is that of `keras.ops.conv` with `data_format="channels_last"`. All
    derivatives, of any order, forward and reverse, are exact. What the fast code does
    not cover (another type than float32, grouped channels, a symbolic batch size) runs
    as the stock operation, as does everything on a GPU or a TPU.

    Args:
        x: images, float32 of shape `(batch, height, width, channels)`.
        kernel: float32 of shape `(kernel_height, kernel_width, channels, filters)`.
        strides: one integer or a pair, in pixels.
        padding: `"valid"`, `"same"`, or the pixels added on each side,
            `((top, bottom), (left, right))`.

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
    if not _covered(x, kernel, padding):
        groups = x.shape[3] // kernel.shape[2]
        return _stock_convolution(x, kernel, strides, padding, groups)
    return _convolution.bind(x, kernel, strides=strides, padding=padding)


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


def _fast_convolution(x, kernel, strides, padding):
    return _stock_convolution(x, kernel, strides, padding)


def _fast_input_gradient(g, kernel, strides, padding, size):
    """The convolution of `g` with the kernel turned by 180 degrees, channels swapped.

    The turned kernel is materialised: XLA then sees the plain forward convolution that
    it runs fast. With a stride, zeros are written between the elements of `g`.
    """
    if strides != (1, 1):
        inner = [(0, 0, step - 1) for step in strides]
        g = lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *inner, (0, 0, 0)])
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    edges = []
    for taps, (low, _), pixels, steps in zip(
        kernel.shape[:2], padding, size, g.shape[1:3], strict=True
    ):
        before = taps - 1 - low
        edges.append((before, pixels + taps - 1 - before - steps))
    return _fast_convolution(g, turned, (1, 1), tuple(edges))


def _fast_weight_gradient(x, g, strides, padding, taps):
    """Matrix products over a few images at a time.

    For each row of the kernel the shifted images stand side by side in the channels,
    so that one product gives the gradient of the whole row.
    """
    channels, filters = x.shape[3], g.shape[3]
    height, width = g.shape[1:3]

    def chunk_gradient(x, g):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        columns = jnp.concatenate(
            [
                x[:, :, j : j + (width - 1) * strides[1] + 1 : strides[1]]
                for j in range(taps[1])
            ],
            axis=3,
        )
        g = g.reshape(-1, filters)
        rows = [
            lax.dot_general(
                columns[:, i : i + (height - 1) * strides[0] + 1 : strides[0]].reshape(
                    -1, taps[1] * channels
                ),
                g,
                (((0,), (0,)), ((), ())),
            )
            for i in range(taps[0])
        ]
        return jnp.stack(rows).reshape(*taps, channels, filters)

    return _sum_over_chunks(chunk_gradient, x, g, _chunk_size(x, g))


def _chunk_size(x, g):
    return max(1, 4096 // math.prod(g.shape[1:3]))


def _sum_over_chunks(function, x, g, size):
    """Sum of `function(x[i], g[i])` over chunks `i` of `size` images and the rest."""
    chunks, rest = divmod(x.shape[0], size)
    total = function(x[:rest], g[:rest]) if rest else None
    if chunks == 0:
        return total

    def at(i):
        return function(
            lax.dynamic_slice_in_dim(x, rest + i * size, size),
            lax.dynamic_slice_in_dim(g, rest + i * size, size),
        )

    total = at(0) if total is None else total + at(0)
    return lax.fori_loop(1, chunks, lambda i, total: total + at(i), total)


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
    primitive = Primitive(name)

    @functools.cache
    def compiled(**parameters):
        return jax.jit(functools.partial(primitive.bind, **parameters))

    @primitive.def_impl
    def evaluate(*arguments, **parameters):
        return compiled(**parameters)(*arguments)

    @primitive.def_abstract_eval
    def abstract(a, b, **parameters):
        return jax.core.ShapedArray(shape(a, b, **parameters), a.dtype)

    def batch(arguments, axes, **parameters):
        (a, b), (axis, other) = arguments, axes
        if not images or axis is None or other is not None:
            return jax.vmap(functools.partial(stock, **parameters), axes)(a, b), 0
        a = jnp.moveaxis(a, axis, 0)
        result = primitive.bind(a.reshape(-1, *a.shape[2:]), b, **parameters)
        return result.reshape(*a.shape[:2], *result.shape[1:]), 0

    batching.primitive_batchers[primitive] = batch
    ad.defbilinear(primitive, first, second)
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
    rows, columns = pool_size
    batch, height, width, channels = x.shape
    height, width = height // rows, width // columns
    x = x[:, : height * rows, : width * columns]
    x = x.reshape(batch, height, rows, width, columns, channels)
    largest = x[:, :, 0, :, 0]
    for index in range(1, rows * columns):
        candidate = x[:, :, index // columns, :, index % columns]
        # The second test keeps a NaN, as the stock pooling does.
        keep = (largest >= candidate) | (largest != largest)
        largest = jnp.where(keep, largest, candidate)
    return largest


@keras.saving.register_keras_serializable(package="kerascnn")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` computed by `fast_convolution`.

    Takes the arguments of its parent. Channels first, groups and dilation run as the
    parent runs them.
    """

    @classmethod
    def sharing(cls, layer):
        """The fast twin of a built `Conv2D`, with that layer's own variables."""
        twin = cls.from_config(layer.get_config())
        twin._shared = {"kernel": layer.kernel, "bias": layer.bias}
        return twin

    def add_weight(self, *args, name=None, **kwargs):
        """The shared variable of this name, or a new one as the parent makes it."""
        if getattr(self, "_shared", None) is not None:
            return self._shared[name]
        return super().add_weight(*args, name=name, **kwargs)

    def convolution_op(self, inputs, kernel):
        """The public override point of Keras's convolutions."""
        if (
            keras.backend.backend() != "jax"
            or self.data_format != "channels_last"
            or self.groups != 1
            or self.dilation_rate != (1, 1)
        ):
            return super().convolution_op(inputs, kernel)
        kernel = keras.ops.convert_to_tensor(kernel)
        inputs = keras.ops.convert_to_tensor(inputs, dtype=kernel.dtype)
        return fast_convolution(inputs, kernel, self.strides, self.padding)


@keras.saving.register_keras_serializable(package="kerascnn")
class MaxPooling2D(keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` computed by `fast_max_pool` where that covers it."""

    def call(self, inputs):
        """Pool; overlapping or padded windows and channels first as the parent does."""
        if (
            keras.backend.backend() != "jax"
            or self.data_format != "channels_last"
            or self.padding != "valid"
            or self.strides != self.pool_size
        ):
            return super().call(inputs)
        return fast_max_pool(inputs, self.pool_size)


def accelerate(model):
    """A model that computes the same from the same weights, with faster gradients.

    Every `Conv2D` and `MaxPooling2D` is replaced by a fast twin, in nested models too;
    every other layer is shared with the model that was passed. All variables are the
    original's own, so training either model trains both. Train the fast one, save the
    original: the file is plain Keras and needs nothing of this package.

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
    # Functional models are known by their list of operations: Keras exports no class.
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise UsageError(
            f"accelerate() got a {type(model).__name__}; it takes a Functional or "
            "Sequential model: pass its inputs and outputs to keras.Model first."
        )
    if not model.built:
        raise UsageError(
            f"accelerate() got the unbuilt model {model.name!r}; it takes a built one: "
            "start the model with keras.Input(shape)."
        )

    def twin(layer):
        # A subclass may compute something else, and LoRA changes the kernel.
        if type(layer) is keras.layers.Conv2D and not layer.lora_enabled:
            return Conv2D.sharing(layer)
        if type(layer) is keras.layers.MaxPooling2D:
            return MaxPooling2D.from_config(layer.get_config())
        return layer

    return keras.models.clone_model(model, clone_function=twin, recursive=True)
