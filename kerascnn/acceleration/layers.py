"""Keras layers that run the fast operations."""

import functools
import weakref

import jax
import jax.numpy as jnp
import keras

from kerascnn.acceleration import counted, dispatch
from kerascnn.acceleration.activations import fast_silu
from kerascnn.acceleration.canary import trusted
from kerascnn.acceleration.convolution import fast_convolution
from kerascnn.acceleration.materialize import stored_on_cpu
from kerascnn.acceleration.normalization import (
    fast_batch_normalization,
    scale_and_shift,
)
from kerascnn.acceleration.pooling import fast_max_pool


def _on_cpu():
    return keras.backend.backend() == "jax" and jax.default_backend() == "cpu"


class _Sharing:
    """For a fast layer, which may have all it knows in common with a stock layer.

    Then what is set in one of the two counts in the other. Only their places in a graph
    are each one's own, and what links fast layers to each other.
    """

    # Python looks for an attribute in the slots first, then in the shared `__dict__`.
    __slots__ = ("_inbound_nodes", "_last", "_outbound_nodes", "asks", "feeds_pooling")

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls, *args, **kwargs)._unlinked()

    @classmethod
    def sharing(cls, layer):
        """The fast layer of a stock one."""
        fast = object.__new__(cls)
        object.__setattr__(fast, "__dict__", vars(layer))
        fast._inbound_nodes, fast._outbound_nodes = [], []
        return fast._unlinked()

    def _unlinked(self):
        # Past Keras, which would look for weights in the values. `accelerate` sets the
        # links: the method that tells more of the layer's input, and whether nothing
        # but a pooling of 2 x 2 pixels reads the layer's result.
        for name, value in (("_last", None), ("asks", None), ("feeds_pooling", False)):
            object.__setattr__(self, name, value)
        return self

    @property
    def _is_patched(self):
        """Whether a method that is the class's has been replaced in this layer."""
        return any(
            callable(value) and callable(getattr(type(self), name, None))
            for name, value in vars(self).items()
            if name not in ("build", "quantize")  # which Keras wraps in every layer
        )


class _Knowing:
    """For a layer that is asked for what its last result was made of."""

    __slots__ = ()

    def _keep(self, y, origin):
        """Know the origin of `y` for as long as JAX traces `y`."""
        # Past Keras, which would look for weights in the origin.
        keep = functools.partial(object.__setattr__, self, "_last")
        if isinstance(y, jax.core.Tracer):
            keep((weakref.ref(y, lambda _: keep(None)), origin))

    def _origin(self, y):
        """The origin of `y`, if `y` is the last result; else None."""
        return self._last[1] if self._last and self._last[0]() is y else None


def _activated(layer, y):
    """`y` after the activation of a layer on JAX."""
    if layer.activation is keras.activations.silu:
        return fast_silu(y)
    return layer.activation(y)


@keras.saving.register_keras_serializable(package="kerascnn")
class Activation(_Sharing, keras.layers.Activation):
    """`keras.layers.Activation`, whose SiLU is `fast_silu`."""

    def call(self, inputs):
        """Apply the activation."""
        if keras.backend.backend() != "jax" or self._is_patched:
            return super().call(inputs)
        return _activated(self, inputs)


@keras.saving.register_keras_serializable(package="kerascnn")
class Conv2D(_Sharing, _Knowing, keras.layers.Conv2D):
    """`keras.layers.Conv2D` computed by `fast_convolution`.

    Takes the arguments of its parent. Channels first, groups and dilation run as the
    parent runs them.
    """

    def call(self, inputs):
        """Convolve; add the bias, and a ReLU that follows it, in the same pass."""
        if not self._covers(inputs):
            return super().call(inputs)
        relu = self.activation is keras.activations.relu
        bias = self.bias if self.use_bias else None
        y = self._convolve(inputs, self.kernel, bias, relu)
        return y if relu or self.activation is None else _activated(self, y)

    def convolution_op(self, inputs, kernel):
        """The public override point of Keras's convolutions."""
        if not self._covers(inputs, kernel):
            return super().convolution_op(inputs, kernel)
        return self._convolve(inputs, kernel)

    @property
    def _is_covered(self):
        return (
            keras.backend.backend() == "jax"
            and self.data_format == "channels_last"
            and self.groups == 1
            and self.dilation_rate == (1, 1)
            and not self._is_patched
        )

    def _covers(self, inputs, kernel=None):
        """Whether Keras's own operation, which checks them, need not see the shapes."""
        if not self._is_covered:
            return False
        kernel = self.kernel.shape if kernel is None else kernel.shape
        padding = dispatch.explicit_padding(
            tuple(inputs.shape)[1:3], tuple(kernel)[:2], self.strides, self.padding
        )
        return not dispatch.uncovered(inputs.shape, kernel, padding)

    def _convolve(self, inputs, kernel, bias=None, relu=False):
        affine_input = self.asks(inputs) if self.asks else ()
        kernel = keras.ops.convert_to_tensor(kernel)
        inputs = keras.ops.convert_to_tensor(inputs, dtype=kernel.dtype)
        if bias is not None:
            bias = keras.ops.convert_to_tensor(bias, dtype=kernel.dtype)
        convolve = functools.partial(
            fast_convolution,
            *(inputs, kernel, self.strides, self.padding, bias, relu, affine_input),
        )
        y = convolve()
        geometry = tuple(inputs.shape)[1:], kernel.shape, self.strides, self.padding
        if self.feeds_pooling and _on_cpu() and dispatch.pools(*geometry):
            self._keep(y, convolve)
        return y

    def pooled(self, y):
        """Of each 2 x 2 pixels of `y` the largest, if `y` is the last result.

        For `MaxPooling2D.pooled`. Where nothing else reads `y`, XLA drops it.

        Returns:
            The images, or None where `y` itself must be pooled.
        """
        convolve = self._origin(y)
        return None if convolve is None else convolve(pool=True)


@keras.saving.register_keras_serializable(package="kerascnn")
class MaxPooling2D(_Sharing, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` computed by `fast_max_pool` where that covers it."""

    def call(self, inputs):
        """Pool; overlapping or padded windows and channels first as the parent does."""
        if (
            keras.backend.backend() != "jax"
            or not dispatch.uses_fast()
            or self.data_format != "channels_last"
            or self.padding != "valid"
            or self.strides != self.pool_size
            or self._is_patched
            or not jnp.issubdtype(inputs.dtype, jnp.floating)
            or any(
                size < window
                for size, window in zip(inputs.shape[1:3], self.pool_size, strict=True)
            )
        ):
            return super().call(inputs)
        y = None
        if self.asks and self.pool_size == (2, 2):
            y = self.asks(inputs)
        return fast_max_pool(inputs, self.pool_size) if y is None else y


@keras.saving.register_keras_serializable(package="kerascnn")
class BatchNormalization(_Sharing, _Knowing, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` computed by `fast_batch_normalization`.

    Takes the arguments of its parent, and runs as the parent does outside of training,
    where it is frozen, on a GPU or a TPU, with a mask, with renormalisation, over
    another axis than the last and for another type than float32.
    """

    def affine_input(self, y):
        """The affine input of `y`, if `y` is the layer's last result; else `()`."""
        return self._origin(y) or ()

    def call(self, inputs, training=None, mask=None):
        """Normalise; in training by the batch, and move the statistics towards it."""
        some = counted.images() if mask is None else None
        if not (training and self.trainable and mask is None and self._covers(inputs)):
            if some is not None:
                mask = some.reshape(-1, *[1] * (inputs.ndim - 2))
            return super().call(inputs, training=training, mask=mask)
        like = self.moving_mean.value
        gamma = self.gamma.value if self.scale else jnp.ones_like(like)
        beta = self.beta.value if self.center else jnp.zeros_like(like)
        y, mean, variance = fast_batch_normalization(
            inputs, gamma, beta, self.epsilon, some
        )
        affine = scale_and_shift(gamma, beta, mean, variance, self.epsilon)
        self._keep(y, (inputs, *affine))
        old, new = self.momentum, 1 - self.momentum
        self.moving_mean.assign(self.moving_mean * old + mean * new)
        self.moving_variance.assign(self.moving_variance * old + variance * new)
        return y

    def _covers(self, inputs):
        return (
            _on_cpu()
            and dispatch.uses_fast()
            and not self.renorm
            and not self._is_patched
            and self.axis in (-1, inputs.ndim - 1)
            and inputs.dtype.name == self.compute_dtype == "float32"
        )


@keras.saving.register_keras_serializable(package="kerascnn")
class Dropout(_Sharing, keras.layers.Dropout):
    """`keras.layers.Dropout` with the same draws, for one line of numbers.

    For an array of four axes, XLA on a CPU takes more time and memory to compile them.
    Takes the arguments of its parent, and runs as the parent does on a GPU or a TPU and
    with a `noise_shape`.
    """

    def call(self, inputs, training=False):
        """Drop some of the numbers and scale the others, in training."""
        some = 0 < self.rate < 1 and jnp.issubdtype(inputs.dtype, jnp.floating)
        covered = self.noise_shape is None and not self._is_patched and _on_cpu()
        if not (training and some and covered):
            return super().call(inputs, training=training)
        drawn = super().call(jnp.ones(inputs.size, inputs.dtype), training=training)
        # A byte for each number: XLA would keep eight, what the draw is made of.
        seed = self.seed_generator.state.value
        kept = stored_on_cpu((drawn > 0).astype("uint8"), seed)
        return jnp.where(kept.reshape(inputs.shape), inputs / (1 - self.rate), 0)


FAST_LAYERS = {
    keras.layers.Activation: Activation,
    keras.layers.Conv2D: Conv2D,
    keras.layers.MaxPooling2D: MaxPooling2D,
    keras.layers.BatchNormalization: BatchNormalization,
    keras.layers.Dropout: Dropout,
}


def is_fast_in_a_loop(layer):
    """Whether a CPU computes a built layer as fast inside `jax.lax.scan` as outside."""
    # The gradients of XLA's own convolutions take many times as long there (`kerascnn
    # bench operations`).
    if not isinstance(layer, keras.layers.Conv2D):
        return True
    covered = type(layer) is Conv2D and layer._is_covered
    if not (covered and layer.compute_dtype == "float32" and dispatch.uses_fast()):
        return False
    shape = *layer.kernel_size, layer.input.shape[3], layer.filters
    if dispatch.winograd_pays(shape, layer.strides):
        return trusted()  # whatever the images' size is
    geometry = layer.input.shape[1:], shape, layer.strides, layer.padding
    maps = "output", "image gradient", "kernel gradient"
    names = {dispatch.algorithm(*geometry, of=each).name for each in maps}
    return trusted() and not names & {"stock", "turned"}
