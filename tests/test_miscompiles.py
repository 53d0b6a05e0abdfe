"""No path of ours meets the silent miscompile of jaxlib 0.10.2 on a CPU (jax#39103).

XLA hands a product of matrices and the reduction after it to YNNPACK as one fusion.
Where the product's rows are few and its columns, the examples, are a little more than
32,768, jaxlib 0.10.2 computes the columns after those wrong.
"""

import re

import jax
import jax.numpy as jnp
import jaxlib
import keras
import numpy as np
import pytest
from keras import layers

from kerascnn.acceleration import accelerate, fast_convolution
from kerascnn.engine import epoch, finite

pytestmark = [
    pytest.mark.optimised,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX"),
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA for the CPU"),
]

IMAGES, SIDE = 33, 32
EXAMPLES = IMAGES * SIDE * SIDE  # 33,792


def convolved(x, kernel):
    return fast_convolution(x, kernel[None, None], 1, "valid")


def vectorised_convolution(x, kernel):
    def one(row):
        return jnp.sum(convolved(row[None, None, None], kernel) ** 2)

    return jax.vmap(one)(x)


def vectorised_convolution_of_kernels(x, kernel):
    """The vectorised call runs the stock operation: each kernel has its own images."""

    def one(images, kernel):
        return jnp.sum(convolved(images, kernel) ** 2, 3)

    halves = x.reshape(2, -1, SIDE, 1, x.shape[1])
    return jax.vmap(one)(halves, jnp.stack([kernel, kernel])).ravel()


def convolution_of_pixels(x, kernel):
    images = x.reshape(IMAGES, SIDE, SIDE, -1)
    return jnp.sum(convolved(images, kernel) ** 2, 3).ravel()


def convolution_of_whole_images(x, kernel):
    return jnp.sum(convolved(x[:, None, None], kernel) ** 2, (1, 2, 3))


def dense(x, kernel):
    layer = layers.Dense(kernel.shape[1], use_bias=False)
    layer.build((None, kernel.shape[0]))
    y, _ = layer.stateless_call([kernel], [], x)
    return jnp.sum(y**2, 1)


def input_gradient(x, kernel):
    """Of a convolution with the transposed kernel: its product is `x @ kernel`."""
    images = x.reshape(IMAGES, SIDE, SIDE, -1)
    shape = (*images.shape[:3], kernel.shape[1])
    _, back = jax.vjp(lambda z: convolved(z, kernel.T), jnp.zeros(shape))
    return jnp.sum(back(images)[0] ** 2, 3).ravel()


def sides(channels):
    """Examples, a kernel, and NumPy's sums of squares of their product."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((EXAMPLES, channels), np.float32)
    kernel = rng.standard_normal((channels, channels), np.float32)
    return x, kernel, np.sum((x.astype(np.float64) @ kernel) ** 2, 1)


def matrix_times_vector(matrix):
    return jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))


@pytest.mark.xfail(jaxlib.__version__ == "0.10.2", reason="the miscompile itself")
def test_the_miscompile_is_past():
    x, kernel, expected = sides(3)
    found = matrix_times_vector(kernel.T)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "argument"])
@pytest.mark.parametrize(
    "function",
    [
        vectorised_convolution,
        vectorised_convolution_of_kernels,
        convolution_of_pixels,
        convolution_of_whole_images,
        dense,
        input_gradient,
    ],
)
def test_products_and_their_reductions_are_numpy_s(function, constant):
    x, kernel, expected = sides(3)
    if constant:
        found = jax.jit(lambda x: function(x, kernel))(x)
    else:
        found = jax.jit(function)(x, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def joined(program: str) -> list[str]:
    """The computations of a program that hold a product and a reduction for YNNPACK."""
    called = re.findall(r"calls=%([\w.-]+).*__ynn_fusion", program)
    computations = {
        match[1]: block
        for block in re.split(r"\n(?=%|ENTRY)", program)
        if (match := re.match(r"%([\w.-]+)", block))
    }
    return [
        name
        for name in called
        if " dot(" in computations[name] and " reduce(" in computations[name]
    ]


def network() -> keras.Model:
    """The forms of product that recipes have, with the miscompile's few channels."""
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(3, 1)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("relu")(x)
    x = layers.Conv2D(3, 1, activation="relu", kernel_regularizer="l2")(x)
    x = layers.Conv2D(3, 1)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(3, activation="relu")(x)
    return keras.Model(image, layers.Dense(3)(x))


def test_a_training_step_holds_no_such_fusion():
    x, kernel, _ = sides(3)
    miscompiled = matrix_times_vector(kernel.T).lower(x).compile().as_text()
    if not joined(miscompiled):
        pytest.skip("this jaxlib makes no such fusion here")
    if jaxlib.__version__ != "0.10.2":
        pytest.skip("this jaxlib computes such fusions right, as another test shows")
    model = accelerate(network())
    model.compile(keras.optimizers.SGD(0.05))
    model.optimizer.build(model.trainable_variables)
    finite.index(model.optimizer)
    arguments = (
        epoch.read_state(model),
        np.zeros((IMAGES, SIDE, SIDE, 3), np.uint8),
        np.zeros(IMAGES, np.int32),
        np.arange(IMAGES, dtype=np.int32)[None],
    )
    step = epoch.training_function(model).function.lower(*arguments).compile()
    assert not joined(step.as_text())
