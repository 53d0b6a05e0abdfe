"""Fast convolutions and pooling against float64 NumPy and XLA's own operations."""

import functools
import json
import re
import warnings
import zipfile

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from kerascnn import UsageError, acceleration
from kerascnn.acceleration import (
    accelerate,
    bands,
    blocks,
    canary,
    fast_batch_normalization,
    fast_convolution,
    fast_max_pool,
    fast_silu,
    winograd,
)

layers = keras.layers

# Largest error against the largest element of the exact result. float32 rounds to
# 6e-8, and sums of a few thousand products lose a factor of ten; Winograd's points lose
# another five for 3x3 kernels (measured 1e-6) and fifty for 5x5 and 7x7 (1e-5).
TOLERANCE = {1: 2e-6, 2: 2e-6, 3: 5e-6, 5: 3e-5, 7: 3e-5}


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def relative_error(value, exact):
    exact = np.asarray(exact, np.float64)
    assert value.shape == exact.shape
    return np.max(np.abs(np.asarray(value, np.float64) - exact)) / np.max(np.abs(exact))


def along(gradient, tangents):
    """The derivative in a direction, a function of what `gradient` is a function of."""
    return lambda *arguments: sum(map(jnp.vdot, gradient(*arguments), tangents))


def stock_convolution(x, kernel, strides=(1, 1), padding="SAME", **kwargs):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **kwargs,
    )


def same_padding(size, taps, strides):
    total = [
        max((-(-n // s) - 1) * s + k - n, 0)
        for n, k, s in zip(size, taps, strides, strict=True)
    ]
    return [(t // 2, t - t // 2) for t in total]


def exact_convolution(x, kernel, strides, padding):
    """The value, and a function from a cotangent to both gradients, in float64."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    taps = kernel.shape[:2]
    if padding == "valid":
        padding = [(0, 0), (0, 0)]
    elif padding == "same":
        padding = same_padding(x.shape[1:3], taps, strides)
    padded = np.pad(x, [(0, 0), *padding, (0, 0)])
    height, width = (
        (n - k) // s + 1
        for n, k, s in zip(padded.shape[1:3], taps, strides, strict=True)
    )

    def window(i, j):
        return (
            slice(None),
            slice(i, i + (height - 1) * strides[0] + 1, strides[0]),
            slice(j, j + (width - 1) * strides[1] + 1, strides[1]),
        )

    value = sum(padded[window(*tap)] @ kernel[tap] for tap in np.ndindex(*taps))

    def gradients(g):
        g = g.astype(np.float64)
        to_kernel, to_x = np.zeros_like(kernel), np.zeros_like(padded)
        for tap in np.ndindex(*taps):
            to_kernel[tap] = np.tensordot(padded[window(*tap)], g, [(0, 1, 2)] * 2)
            to_x[window(*tap)] += g @ kernel[tap].T
        (top, _), (left, _) = padding
        return to_x[:, top : top + x.shape[1], left : left + x.shape[2]], to_kernel

    return value, gradients


def check_against_numpy(x_shape, kernel_shape, strides=(1, 1), padding="same"):
    x, kernel = arrays(0, x_shape, kernel_shape)
    exact, gradients = exact_convolution(x, kernel, strides, padding)
    (g,) = arrays(1, exact.shape)

    @jax.jit
    def value_and_gradients(x, kernel, g):
        value, pull = jax.vjp(
            lambda x, k: fast_convolution(x, k, strides, padding), x, kernel
        )
        return value, *pull(g)

    results = value_and_gradients(x, kernel, g)
    for result, expected in zip(results, (exact, *gradients(g)), strict=True):
        assert relative_error(result, expected) < TOLERANCE[max(kernel_shape[:2])]


@st.composite
def geometries(draw):
    taps = draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (7, 7), (2, 2), (3, 1)]))
    padding = draw(st.sampled_from(["valid", "same"]))
    size = [draw(st.integers(k if padding == "valid" else 1, 13)) for k in taps]
    channels, filters = draw(
        st.sampled_from([(1, 4), (3, 8), (5, 6), (16, 16), (18, 33)])
    )
    strides = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 1)]))
    batch = draw(st.integers(1, 9))
    return (batch, *size, channels), (*taps, channels, filters), strides, padding


@pytest.mark.parametrize("examples", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_value_and_gradients_equal_numpy(examples):
    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(geometries())
    def check(geometry):
        check_against_numpy(*geometry)

    check()


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "strides", "padding"),
    [
        ((5, 10, 9, 17), (3, 3, 17, 20), (1, 1), "same"),
        ((3, 11, 10, 16), (5, 5, 16, 20), (1, 1), "valid"),
        ((3, 12, 9, 16), (7, 7, 16, 20), (1, 1), "valid"),
        ((3, 2, 2, 16), (3, 3, 16, 20), (1, 1), "same"),
        ((3, 6, 6, 16), (5, 5, 16, 20), (1, 1), "valid"),
        ((3, 7, 7, 5), (7, 7, 5, 6), (1, 1), "valid"),
        ((3, 4, 4, 16), (3, 3, 16, 24), (2, 2), ((1, 1), (1, 1))),
        ((3, 9, 8, 16), (3, 3, 16, 16), (1, 1), ((2, 0), (1, 2))),
        ((3, 9, 8, 1), (5, 5, 1, 6), (1, 1), "same"),
        ((3, 9, 8, 3), (3, 3, 3, 40), (2, 2), "same"),
        ((3, 9, 8, 3), (5, 3, 3, 6), (1, 1), ((2, 0), (1, 1))),
        ((3, 9, 8, 3), (5, 3, 3, 6), (2, 1), ((0, 3), (1, 2))),
        ((3, 6, 28, 1), (5, 5, 1, 6), (1, 1), "same"),
        ((3, 8, 14, 6), (5, 5, 6, 16), (1, 1), "valid"),
        ((3, 9, 28, 3), (3, 5, 3, 8), (2, 2), ((1, 1), (0, 2))),
        ((3, 9, 32, 3), (7, 7, 3, 32), (1, 1), "valid"),
        ((3, 9, 32, 3), (3, 3, 3, 64), (2, 2), "same"),
        ((3, 9, 90, 3), (3, 3, 3, 8), (1, 1), "same"),
        ((3, 9, 40, 8), (3, 5, 8, 8), (1, 1), "same"),
        ((3, 9, 7, 40), (3, 3, 40, 56), (1, 1), ((1, 0), (0, 0))),
        ((5, 10, 9, 17), (3, 3, 17, 33), (1, 1), "same"),
        ((3, 9, 8, 16), (1, 1, 16, 24), (2, 2), "valid"),
        ((3, 10, 9, 4), (2, 3, 4, 6), (3, 2), "valid"),
    ],
    ids=[
        "tiles of 6",
        "tiles of 8",
        "7x7",
        "tiles of 4",
        "5x5 in tiles of 6",
        "the kernel covers the image",
        "stride, kernel larger than the output",
        "uneven padding",
        "one channel",
        "first layer with stride",
        "bands",
        "bands with stride",
        "four bands in a row",
        "two bands in a row, images smaller",
        "two bands in a row, with stride",
        "bands of many filters",
        "bands of many filters, with stride",
        "all rows at once",
        "rows",
        "tiles that overlap, uneven padding",
        "turned tiles",
        "stride larger than the kernel",
        "rows that no window reaches",
    ],
)
def test_every_algorithm_equals_numpy(x_shape, kernel_shape, strides, padding):
    check_against_numpy(x_shape, kernel_shape, strides, padding)


# Tiles compute an output from more pixels than the kernel covers; the others don't.
GEOMETRIES = {
    "tiles": ((130, 8, 9, 16), (3, 3, 16, 20), (1, 1), "same"),
    "larger tiles": ((33, 11, 10, 16), (5, 5, 16, 20), (1, 1), "valid"),
    "pieces": ((33, 12, 9, 16), (7, 7, 16, 20), (1, 1), "same"),
    "bands": ((9, 9, 28, 3), (3, 5, 3, 8), (1, 1), "same"),
    "bands with stride": ((9, 9, 32, 3), (7, 7, 3, 32), (2, 2), "same"),
    "bands of one channel": ((9, 9, 8, 1), (5, 5, 1, 6), (1, 1), "same"),
    "gathered": ((9, 16, 16, 64), (3, 3, 64, 64), (2, 2), "same"),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_pixel_that_is_huge_or_not_finite_reaches_no_other_outputs(name):
    """Not finite where the stock operation's are not; the others as exact as ever."""
    x_shape, kernel_shape, strides, padding = GEOMETRIES[name]
    clean, kernel = arrays(0, x_shape, kernel_shape)
    fast = jax.jit(lambda x: fast_convolution(x, kernel, strides, padding))
    stock = functools.partial(
        stock_convolution, kernel=kernel, strides=strides, padding=padding.upper()
    )
    tolerance = TOLERANCE[max(kernel_shape[:2])]
    # The first block, one after it, and an edge; float32's largest number is 3.4e38.
    places = [(0, 4, 4, 0), (-1, 4, 4, -1), (-1, 0, 0, 0)]
    for value in (np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e30, 1e6, -1e5):
        for place in places:
            x = clean.copy()
            x[place] = value
            y, expected = np.asarray(fast(x)), np.asarray(stock(x))
            # Outputs that do not see the pixel are what they are without it.
            unseen = expected == stock(clean)
            assert 0.5 < unseen.mean() < 1
            if "bands" in name and not np.isfinite(value):
                # Those in rows that see it may be NaN: zero times infinity.
                unseen &= unseen.all((2, 3), keepdims=True)
            else:
                finite = np.isfinite(expected)
                np.testing.assert_array_equal(np.isfinite(y), finite)
            error = np.max(np.abs(y[unseen] - expected[unseen]))
            assert error < tolerance * np.max(np.abs(expected[unseen]))


def test_pooled_tiles_know_a_huge_pixel_too():
    """The value and where it was found, as the gradient of the largest says it."""
    x, kernel = arrays(0, (70, 8, 8, 16), (3, 3, 16, 16))
    x[69, 3, 3, 2] = 1e9

    def pooled(convolution, x):
        y = convolution(x, kernel)
        return lax.reduce_window(
            y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        )

    def fast(x):
        return fast_convolution(x, kernel, padding="same", pool=True)

    stock = functools.partial(pooled, stock_convolution)
    np.testing.assert_allclose(jax.jit(fast)(x), stock(x), rtol=1e-5, atol=1e-5)
    # The gradient goes where the stock operation finds the largest.
    of_fast, of_stock = (
        jax.grad(lambda x, f=f: f(x).sum())(x)[69] for f in (fast, stock)
    )
    assert relative_error(of_fast, of_stock) < 5e-6


@pytest.mark.parametrize("taps", [3, 5, 7])
def test_a_large_pixel_moves_others_within_the_stated_bound(taps):
    """Tiles are computed from pixels up to 100,000."""
    x, kernel = arrays(0, (4, 12, 12, 16), (taps, taps, 16, 16))
    x[2, 6, 6, 3] = pixel = 99_999.0
    y = fast_convolution(x, kernel, padding="same")
    exact, _ = exact_convolution(x, kernel, (1, 1), "same")
    # The sum of the channel's weights in each filter, of which the text speaks.
    weights = np.abs(kernel[:, :, 3]).sum((0, 1))
    error = np.abs(np.asarray(y) - exact)
    far = np.ones((4, 12, 12), bool)
    far[2, 6 - taps // 2 : 7 + taps // 2, 6 - taps // 2 : 7 + taps // 2] = False
    assert np.all(error[far] < 1e-6 * pixel * weights + 1e-4)


# A block of tiles holds at most 40 images of 8 x 8 pixels with "same" padding, and 17
# with "valid"; 20 and 40 where the kernel is cut in pieces.
@pytest.mark.parametrize("batch", [1, 33, 130])
@pytest.mark.parametrize(
    ("width", "taps", "channels", "padding"),
    [
        (40, 3, 8, "same"),
        (8, 3, 64, "same"),
        (8, 3, 64, "valid"),
        (8, 7, 32, "same"),
        (12, 7, 32, "valid"),
    ],
    ids=["rows", "tiles", "tiles that overlap", "pieces", "pieces that overlap"],
)
@pytest.mark.few(
    "rows-130",
    "tiles-33",
    "tiles that overlap-130",
    "pieces-1",
    "pieces that overlap-33",
)
def test_the_last_block_may_be_smaller(batch, width, taps, channels, padding):
    kernel = taps, taps, channels, channels
    check_against_numpy((batch, 8, width, channels), kernel, padding=padding)


@pytest.mark.parametrize("batch", [1, 33, 130])
def test_the_last_block_of_a_strided_convolution_may_be_smaller(batch):
    """Of 8 x 8 pixels each, 64 images go into a product: 130 are three blocks."""
    check_against_numpy((batch, 16, 16, 16), (3, 3, 16, 20), (2, 2))


@pytest.mark.parametrize("batch", [1, 5, 8])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_the_last_block_of_bands_may_be_smaller(monkeypatch, batch, strides):
    # With strides three images a block, whose lines hold 270 numbers each; else one.
    monkeypatch.setattr(bands, "_NUMBERS_IN_LINES", 1000)
    check_against_numpy((batch, 6, 14, 2), (3, 3, 2, 24), strides)


@pytest.mark.parametrize("batch", [0, 1])
def test_the_last_block_of_a_slice_ends_with_the_slice(batch):
    """XLA merges the two slices, and forgets to clamp the start of the inner one."""
    images = np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1)

    @jax.jit
    def last_block(images, batch, start):
        x = lax.dynamic_slice_in_dim(images, 10 * batch, 10)
        return blocks.block_at(x, start, 4), blocks.new_images_at(x, start, 4)

    block, new = last_block(images, batch, 8)
    np.testing.assert_array_equal(block.ravel(), 10 * batch + np.arange(6, 10))
    np.testing.assert_array_equal(new.ravel()[2:], 10 * batch + np.arange(8, 10))
    assert not np.any(new.ravel()[:2])


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "strides"),
    [
        ((129, 8, 8, 32), (3, 3, 32, 32), 1),
        ((129, 8, 8, 16), (7, 7, 16, 16), 1),
        ((130, 16, 16, 16), (3, 3, 16, 20), 2),
        ((34, 8, 40, 8), (3, 3, 8, 8), 1),
    ],
    ids=["tiles", "pieces", "strided", "rows"],
)
@pytest.mark.few("rows")
def test_batches_may_be_slices_of_a_set_inside_one_program(
    x_shape, kernel_shape, strides
):
    """The last block must not read the next batch, though XLA merges the slices."""
    batch = x_shape[0]
    images, kernel = arrays(17, (2 * batch, *x_shape[1:]), kernel_shape)

    @jax.jit(static_argnums=0)
    def epoch(convolution, images, kernel):
        def step(total, number):
            x = lax.dynamic_slice_in_dim(images, number * batch, batch)
            y, pull = jax.vjp(convolution, x, kernel)
            of_x, of_kernel = pull(y)
            return total + of_kernel, (y, of_x)

        return lax.scan(step, jnp.zeros_like(kernel), jnp.arange(2))

    fast = epoch(lambda x, k: fast_convolution(x, k, strides, "same"), images, kernel)
    stock = epoch(
        lambda x, k: keras.ops.conv(x, k, strides, "same", "channels_last"),
        *(images, kernel),
    )
    for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(stock), strict=True):
        assert relative_error(one, other) < 2 * TOLERANCE[kernel_shape[0]]


@pytest.mark.parametrize("width", [28, 31])
def test_bands_that_would_be_mostly_zeros_are_not_made(width):
    """Of 28 pixels two make one band; of 31, a prime, all would."""
    chosen = acceleration.algorithm((64, width + 2, 3), (3, 3, 3, 64))
    assert (chosen.name == "bands") == (width == 28)


@pytest.mark.parametrize(
    ("image", "kernel", "strides", "padding", "expected"),
    [
        ((28, 28, 16), (5, 5, 16, 32), (2, 2), "same", "gathered, strided, rows"),
        ((32, 32, 3), (3, 3, 3, 64), (1, 1), "same", "bands, bands, bands"),
        (
            *((32, 32, 64), (3, 3, 64, 64), (1, 1), "same"),
            "winograd, winograd turned, winograd",
        ),
        (
            *((8, 8, 64), (3, 3, 64, 64), (1, 1), "valid"),
            "winograd, winograd transposed, winograd",
        ),
        ((28, 28, 1), (5, 5, 1, 6), (1, 1), "same", "bands, bands, bands"),
        ((40, 90, 8), (3, 3, 8, 8), (1, 1), "same", "stock, turned, rows"),
        ((4, 4, 16), (4, 4, 16, 120), (1, 1), "valid", "dense, dense, dense"),
        ((2, 2, 16), (3, 3, 16, 16), (1, 1), "valid", "stock, stock, stock"),
        ((8, 8, 16), (3, 3, 8, 16), (1, 1), "same", "stock, stock, stock"),
    ],
)
def test_a_layer_s_algorithms_have_a_name_and_a_reason(
    image, kernel, strides, padding, expected
):
    found = [
        acceleration.algorithm(image, kernel, strides, padding, of)
        for of in ("output", "image gradient", "kernel gradient")
    ]
    assert ", ".join(each.name for each in found) == expected
    assert all(str(each) == f"{each.name}: {each.reason}" for each in found)
    assert all(len(each.reason) > 10 for each in found)


@pytest.mark.parametrize("channels", [2, 16], ids=["bands", "tiles"])
def test_derivatives_of_higher_order_equal_the_stock_ones(channels):
    shapes = (2, 5, 5, channels), (3, 3, channels, 16)
    x, kernel, dx, dk = arrays(2, *shapes, *shapes)

    @jax.jit(static_argnums=0)
    def derivatives(convolution, x, kernel, dx, dk):
        def loss(x, kernel):
            return jnp.mean(jnp.sin(convolution(x, kernel)))

        gradient = jax.grad(loss, argnums=(0, 1))
        directional = along(gradient, (dx, dk))
        reverse_over_reverse = jax.grad(directional, argnums=(0, 1))(x, kernel)
        third = jax.grad(lambda x: jnp.vdot(jax.grad(directional)(x, kernel), dx))(x)
        return jax.tree.leaves((reverse_over_reverse, third))

    fast = derivatives(
        lambda x, k: fast_convolution(x, k, 1, "same"), x, kernel, dx, dk
    )
    stock = derivatives(stock_convolution, x, kernel, dx, dk)
    for one, other in zip(fast, stock, strict=True):
        # Three convolutions in a row lose three times what one loses.
        assert relative_error(one, other) < 3 * TOLERANCE[3]


def test_vmap_over_images_kernels_and_examples():
    x, kernel = arrays(3, (3, 2, 6, 5, 4), (3, 3, 4, 5))
    kernels = np.stack([kernel, 2 * kernel, -kernel])

    def both(convolution):
        def gradient(x, kernel):
            return jax.grad(lambda k: jnp.mean(convolution(x, k) ** 2))(kernel)

        return (
            jax.vmap(convolution, (0, None))(x, kernel),
            jax.vmap(convolution, (1, None), 2)(x, kernel),
            jax.vmap(convolution)(x, kernels),
            jax.vmap(convolution, (None, 0))(x[0], kernels),
            jax.vmap(gradient, (0, None))(x, kernel),
        )

    fast = both(lambda x, k: fast_convolution(x, k, 1, "same"))
    for one, other in zip(fast, both(stock_convolution), strict=True):
        assert relative_error(one, other) < TOLERANCE[3]


# Tiles; a loop over strided blocks; bands; stock; the kernel covers the image; other.
BIASED = pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "strides"),
    [
        ((130, 8, 8, 16), (3, 3, 16, 24), 1),
        ((130, 9, 8, 16), (3, 3, 16, 20), 2),
        ((3, 8, 14, 6), (5, 5, 6, 16), 1),
        ((3, 9, 40, 8), (3, 5, 8, 8), 1),
        ((3, 3, 3, 5), (3, 3, 5, 6), 1),
        ((3, 9, 8, 1), (5, 5, 1, 6), 1),
    ],
    ids=["tiles", "strided", "bands", "stock", "dense", "one channel"],
)


@BIASED
@pytest.mark.parametrize("relu", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_bias_and_relu_equal_numpy(x_shape, kernel_shape, strides, relu):
    x, kernel, bias = arrays(5, x_shape, kernel_shape, kernel_shape[3:])
    padding, strides_pair = "valid", (strides, strides)
    exact, gradients = exact_convolution(x, kernel, strides_pair, padding)
    (g,) = arrays(6, exact.shape)
    exact = exact + bias
    passed = np.where(exact > 0, g, 0) if relu else g
    expected = (*gradients(passed), passed.sum((0, 1, 2), dtype=np.float64))

    @jax.jit
    def value_and_gradients(x, kernel, bias, g):
        value, pull = jax.vjp(
            lambda *a: fast_convolution(*a[:2], strides, padding, a[2], relu),
            *(x, kernel, bias),
        )
        return value, *pull(g)

    value, *found = value_and_gradients(x, kernel, bias, g)
    tolerance = TOLERANCE[kernel_shape[1]]
    assert relative_error(value, np.maximum(exact, 0) if relu else exact) < tolerance
    # Within rounding of zero, ReLU may take the other side: none here does.
    assert not relu or np.min(np.abs(exact)) > 1e-6
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("relu", [True, False])
def test_derivatives_with_bias_and_relu_equal_those_of_the_parts(relu):
    x, kernel, bias = arrays(7, (2, 5, 5, 16), (3, 3, 16, 16), (16,))
    tangents = arrays(8, x.shape, kernel.shape, bias.shape)
    batch = [np.stack([a, 2 * a, -a]) for a in (x, kernel, bias)]

    def whole(x, kernel, bias):
        return fast_convolution(x, kernel, 1, "same", bias, relu)

    def parts(x, kernel, bias):
        y = stock_convolution(x, kernel) + bias
        return jax.nn.relu(y) if relu else y

    def derivatives(convolution):
        def loss(*arguments):
            return jnp.mean(jnp.sin(convolution(*arguments)))

        gradient = jax.grad(loss, argnums=(0, 1, 2))
        directional = along(gradient, tangents)

        return jax.tree.leaves(
            (
                jax.grad(directional, argnums=(0, 1, 2))(x, kernel, bias),
                [jax.grad(loss, i)(x, kernel, bias) for i in range(3)],
                jax.vmap(convolution)(*batch),
                jax.vmap(convolution, (0, None, None), 1)(batch[0], kernel, bias),
                jax.vmap(jax.grad(loss, 1), (0, None, None))(batch[0], kernel, bias),
            )
        )

    for one, other in zip(derivatives(whole), derivatives(parts), strict=True):
        assert relative_error(one, other) < 3 * TOLERANCE[3]


@pytest.mark.slow
@pytest.mark.parametrize("taps", [3, 7])
def test_a_convolution_of_an_affine_input_has_the_derivatives_of_any_other(taps):
    """The affine input gives the kernel's gradient, on one path and on the other."""
    images, kernel, bias, scale, shift = arrays(
        11, (130, 8, 8, 16), (taps, taps, 16, 16), (16,), (16,), (16,)
    )
    tangents = arrays(12, images.shape, kernel.shape, bias.shape, (16,), (16,))

    def result(known, images, kernel, bias, scale, shift):
        x = images * scale + shift
        affine_input = (images, scale, shift) if known else ()
        return fast_convolution(x, kernel, 1, "same", bias, True, affine_input)

    @jax.jit(static_argnums=0)
    def derivatives(known, *arguments):
        def loss(*arguments):
            return jnp.mean(jnp.sin(result(known, *arguments)))

        gradient = jax.grad(loss, argnums=range(5))
        directional = along(gradient, tangents)

        return jax.tree.leaves(
            (
                gradient(*arguments),
                jax.grad(directional, argnums=range(5))(*arguments),
            )
        )

    arguments = images, kernel, bias, scale, shift
    for one, other in zip(
        derivatives(True, *arguments), derivatives(False, *arguments), strict=True
    ):
        assert relative_error(one, other) < TOLERANCE[taps]
    # Of another affine input it would be another's.
    wrong, right = (
        jax.grad(
            lambda x, k, affine_input=affine_input: fast_convolution(
                x, k, 1, "same", affine_input=affine_input
            ).sum(),
            argnums=(0, 1),
        )(images, kernel)[1]
        for affine_input in ((images, scale, shift), ())
    )
    assert relative_error(wrong, right) > 0.1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: fast_convolution(x, np.ones((3, 3, 16, 16), np.float32)),
        lambda x: fast_max_pool(x, (2, 2)),
        lambda x: fast_batch_normalization(x, x[0, 0, 0], x[0, 0, 0], 1e-3)[0],
        fast_silu,
    ],
    ids=["convolution", "pooling", "normalization", "silu"],
)
def test_forward_mode_is_refused_in_jax_s_words(function):
    (x,) = arrays(14, (2, 6, 6, 16))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(function, (x,), (x,))


@pytest.mark.slow
def test_a_gradient_penalty_has_the_gradient_of_stock_keras_in_float64():
    """The gradient by the weights of the squared gradient by the images."""

    def penalised(convert, dtype, start=None):
        keras.utils.set_random_seed(0)
        image = x = keras.Input((12, 12, 3), dtype=dtype)
        for layer in (
            layers.Conv2D(16, 3, activation="relu", dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.Conv2D(16, 3, activation="silu", dtype=dtype),
            layers.MaxPooling2D(dtype=dtype),
            layers.Conv2D(4, 3, strides=2, dtype=dtype),
        ):
            x = layer(x)
        model = convert(keras.Model(image, x))
        if start is not None:  # JAX draws other numbers in float64
            model.set_weights(start)
        weights = [v.value for v in model.trainable_variables]
        others = [v.value for v in model.non_trainable_variables]
        (images,) = arrays(16, (5, 12, 12, 3))

        def outputs(images, weights):
            y, _ = model.stateless_call(weights, others, images, training=True)
            return jnp.sum(y**2)

        def penalty(weights):
            return jnp.sum(jax.grad(outputs)(images.astype(dtype), weights) ** 2)

        return jax.jit(jax.grad(penalty))(weights), model.get_weights()

    fast, start = penalised(accelerate, "float32")
    with jax.enable_x64(True):
        exact, _ = penalised(lambda model: model, "float64", start)
    for one, other in zip(fast, exact, strict=True):
        assert other.dtype == np.float64
        largest = max(np.max(np.abs(each)) for each in exact)
        assert np.max(np.abs(one - other)) < 1e-5 * largest


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_of_an_affine_input(axes):
    images, kernel, scale, shift = arrays(
        13, (3, 2, 6, 6, 16), (3, 3, 16, 16), (16,), (16,)
    )
    kernels = np.stack([kernel, -kernel, 2 * kernel])

    def gradient(known):
        def loss(kernel, images):
            x = images * scale + shift
            affine_input = (images, scale, shift) if known else ()
            return jnp.sin(
                fast_convolution(x, kernel, 1, "same", affine_input=affine_input)
            ).sum()

        a = kernel if axes[0] is None else kernels
        b = images[0] if axes[1] is None else images
        return jax.vmap(jax.grad(loss, (0, 1)), axes)(a, b)

    for one, other in zip(gradient(True), gradient(False), strict=True):
        assert relative_error(one, other) < TOLERANCE[3]


def test_relu_keeps_nan_and_passes_it_no_gradient():
    """As `jax.nn.relu` does."""
    x, kernel, bias = arrays(9, (2, 5, 5, 16), (3, 3, 16, 16), (16,))
    bias[3] = np.nan

    def total(bias):
        y = fast_convolution(x, kernel, 1, "same", bias, relu=True)
        return y.sum(), y

    gradient, y = jax.grad(total, has_aux=True)(bias)
    assert np.isnan(y[..., 3]).all()
    assert not np.isnan(np.delete(y, 3, axis=3)).any()
    assert gradient[3] == 0
    assert (np.delete(gradient, 3) > 0).all()


def test_what_is_stored_is_computed_once_by_a_loop_that_holds_no_code():
    def shifted_sums(x, keep, sines=jnp.sin):
        y = keep(sines(x))
        return y[:-2] + y[1:-1] + y[2:]

    def compiled_for(keep):
        step = jax.jit(shifted_sums, static_argnums=1).lower(x, keep).compile()
        return step.as_text().count(" fusion("), step.as_text().count(" while(")

    x = np.random.default_rng(0).normal(size=99).astype("float32")
    # XLA computes each sine three times where nothing is stored.
    assert compiled_for(lambda y: y) == (1, 0)
    # The sines, the question whether to turn, the sums: nothing for a turn.
    assert compiled_for(acceleration.stored) == (3, 1)
    exact = shifted_sums(x.astype("float64"), np.asarray, np.sin)
    found = jax.jit(shifted_sums, static_argnums=1)(x, acceleration.stored)
    assert relative_error(found, exact) < 1e-6


@pytest.mark.parametrize("images", [2, 400])
def test_the_stock_convolution_waits_in_a_loop(images):
    """Of one block and of several: XLA would run it in each step."""
    x, kernel = arrays(0, (images, 8, 8, 16), (3, 3, 16, 16))
    text = jax.jit(fast_convolution).lower(x, kernel).compile().as_text()
    bodies = set(re.findall(r"body=%?([\w.-]+)", text))
    inside, callers, convolving = "", {}, []
    for line in text.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.-]+) \(", line):
            inside = start[1]
        for called in re.findall(r"calls=%?([\w.-]+)", line):
            callers[called] = inside
        if " convolution(" in line:
            convolving.append(inside)
    assert convolving
    assert {callers.get(each, each) for each in convolving} <= bodies


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.few("False-True", "True-False")
def test_a_step_keeps_one_array_a_convolution(bias, normalised):
    """Not what is before bias and ReLU as well, nor zeros to copy for each loop."""
    images = keras.Input((32, 32, 16))
    x = images
    for _ in range(6):
        x = layers.Conv2D(16, 3, padding="same", activation="relu", use_bias=bias)(x)
        if normalised:
            x = layers.BatchNormalization()(x)
    model = accelerate(keras.Model(images, x))
    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    def loss(weights, images):
        return model.stateless_call(weights, others, images, training=True)[0].sum()

    (batch,) = arrays(10, (256, 32, 32, 16))
    step = jax.jit(jax.grad(loss)).lower(weights, batch).compile()
    kept = step.memory_analysis().temp_size_in_bytes / batch.nbytes
    # Six results, the gradient before and after a layer, and the blocks': 9. It was 17,
    # and 13 with BatchNorm, of whose results each would be kept as well.
    assert kept < 10


@pytest.mark.parametrize("place", ["of the convolution", "a layer", "normalised"])
def test_with_silu_a_step_keeps_two_arrays_a_convolution(place):
    """What SiLU makes and what it is made of, not the sigmoid as well."""
    images = keras.Input((32, 32, 16))
    x = images
    for _ in range(6):
        own = "silu" if place == "of the convolution" else None
        x = layers.Conv2D(16, 3, padding="same", activation=own)(x)
        if place == "normalised":
            x = layers.BatchNormalization()(x)
        if own is None:
            x = layers.Activation("silu")(x)
    model = accelerate(keras.Model(images, x))
    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    def loss(weights, images):
        return model.stateless_call(weights, others, images, training=True)[0].sum()

    (batch,) = arrays(10, (256, 32, 32, 16))
    step = jax.jit(jax.grad(loss)).lower(weights, batch).compile()
    kept = step.memory_analysis().temp_size_in_bytes / batch.nbytes
    # Eleven, for the sum needs no last one, the gradient before and after a layer, and
    # the blocks'; BatchNorm's gradient takes another two.
    assert kept < (15 if place == "normalised" else 13)


def test_silu_has_all_derivatives_of_the_stock_one():
    (x,) = arrays(22, (4, 6))
    with jax.enable_x64(True):
        x = 4 * x.astype(np.float64)
        check_grads(fast_silu, (x,), order=3, modes=("rev",))

        def gradient(silu):
            return jax.grad(lambda x: jnp.sum(silu(x) ** 2))

        for transform in (jax.jit, jax.vmap, jax.jacrev):
            fast = transform(gradient(fast_silu))(x)
            stock = transform(gradient(jax.nn.silu))(x)
            np.testing.assert_allclose(fast, stock, rtol=0, atol=1e-13)
        np.testing.assert_array_equal(fast_silu(x), jax.nn.silu(x))


def test_inside_scan_the_gradient_is_the_same():
    x, kernel = arrays(4, (3, 2, 6, 6, 16), (3, 3, 16, 16))

    def step(kernel, x):
        loss = lambda k: jnp.mean(fast_convolution(x, k, 1, "same") ** 2)  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(kernel)
        return kernel - gradient, value

    scanned, losses = jax.jit(lambda k, x: lax.scan(step, k, x))(kernel, x)
    for images, loss in zip(x, losses, strict=True):
        kernel, value = jax.jit(step)(kernel, images)
        np.testing.assert_allclose(loss, value, rtol=1e-5)
    assert relative_error(scanned, kernel) < 1e-5


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_types_groups_and_wide_padding_run_as_the_stock_operation(dtype):
    x, kernel, grouped = arrays(5, (2, 6, 6, 16), (3, 3, 16, 16), (3, 3, 8, 16))
    one, two = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
    np.testing.assert_array_equal(
        fast_convolution(one, two, 1, "same"), stock_convolution(one, two)
    )
    np.testing.assert_array_equal(
        fast_convolution(x, grouped, 1, "same"),
        stock_convolution(x, grouped, feature_group_count=2),
    )
    wide = ((3, 0), (4, 5))
    np.testing.assert_array_equal(
        fast_convolution(x, kernel, 1, wide), stock_convolution(x, kernel, padding=wide)
    )


def test_symbolic_batch_sizes_run_as_the_stock_operation():
    x, kernel = arrays(6, (3, 6, 6, 16), (3, 3, 16, 16))
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(lambda x: fast_convolution(x, kernel)))(
        jax.ShapeDtypeStruct((batch, 6, 6, 16), np.float32)
    )
    np.testing.assert_array_equal(
        exported.call(x), stock_convolution(x, kernel, padding="VALID")
    )


def lowered(function, platform, *arguments):
    traced = jax.jit(function).trace(*arguments)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_accelerators_get_the_stock_operation(platform):
    x, kernel = arrays(7, (2, 6, 6, 16), (3, 3, 16, 16))

    def gradients(convolution):
        return lambda x, kernel: jax.grad(
            lambda x, k: jnp.sum(convolution(x, k) ** 2), argnums=(0, 1)
        )(x, kernel)

    fast = gradients(lambda x, k: fast_convolution(x, k, 1, "same"))
    text = lowered(fast, platform, x, kernel)
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.while" not in text
    assert "stablehlo.dot_general" not in text
    with jax.default_matmul_precision("highest"):
        assert lowered(fast, platform, x, kernel).count("HIGHEST") == 6
    text = lowered(fast, "cpu", x, kernel)
    # One for extreme numbers, which runs only where there are some.
    assert text.count("stablehlo.convolution") == 1
    assert "stablehlo.dot_general" in text


def test_the_images_gradient_is_not_computed_where_nothing_asks_for_it():
    x, kernel = arrays(8, (2, 6, 6, 16), (3, 3, 16, 16))

    def loss(x, kernel):
        return jnp.sum(fast_convolution(x, kernel) ** 2)

    def products(argnums):
        text = lowered(jax.grad(loss, argnums=argnums), "cpu", x, kernel)
        return text.count("stablehlo.dot_general")

    # Forward and for the kernel one each, and one each that transforms the kernel.
    assert products((0, 1)) == 5
    assert products(1) == 4


@pytest.fixture
def fresh_trust():
    canary.trusted.cache_clear()
    yield
    canary.trusted.cache_clear()


@pytest.mark.usefixtures("fresh_trust")
def test_wrong_results_are_found_and_the_stock_operation_takes_over(monkeypatch):
    x, kernel = arrays(9, (2, 6, 6, 16), (3, 3, 16, 16))
    right = winograd.weight_gradient
    monkeypatch.setattr(
        winograd,
        "weight_gradient",
        lambda *arguments: right(*arguments).at[0, 0, 0, 0].add(1),
    )
    with pytest.warns(RuntimeWarning, match="wrong on this machine"):
        value = jax.jit(lambda x, k: fast_convolution(x, k, 1, "same"))(x, kernel)
    np.testing.assert_array_equal(value, stock_convolution(x, kernel))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast_convolution(x, kernel)


@pytest.mark.usefixtures("fresh_trust")
def test_right_results_are_trusted_also_while_a_function_is_traced():
    x, kernel = arrays(9, (2, 6, 6, 16), (3, 3, 16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = lowered(lambda x, k: fast_convolution(x, k), "cpu", x, kernel)
    assert "stablehlo.dot_general" in text
    assert canary.trusted()


def stock_max_pool(x, pool_size):
    window = (1, *pool_size, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


@pytest.mark.parametrize("pool_size", [(2, 2), (3, 2)])
def test_max_pool_equals_the_stock_one_with_ties_odd_sizes_and_nan(pool_size):
    x = np.random.default_rng(10).integers(0, 3, (3, 7, 8, 5)).astype(np.float32)
    with_nan = np.where(x == 0, np.nan, x)
    np.testing.assert_array_equal(
        fast_max_pool(with_nan, pool_size), stock_max_pool(with_nan, pool_size)
    )
    value, pull = jax.vjp(lambda x: fast_max_pool(x, pool_size), x)
    stock_value, stock_pull = jax.vjp(lambda x: stock_max_pool(x, pool_size), x)
    np.testing.assert_array_equal(value, stock_value)
    (g,) = arrays(11, value.shape)
    np.testing.assert_array_equal(pull(g)[0], stock_pull(g)[0])


def test_max_pool_has_second_derivatives():
    (x, v) = arrays(12, (1, 4, 4, 2), (1, 4, 4, 2))

    gradient = jax.grad(lambda x: jnp.sum(fast_max_pool(x, (2, 2)) ** 3))
    product = jax.grad(lambda x: jnp.vdot(gradient(x), v))(x)
    # The Hessian is diagonal: 6 x at each window's maximum, 0 elsewhere.
    windows = x.reshape(1, 2, 2, 2, 2, 2)
    at_maximum = (windows == windows.max((2, 4), keepdims=True)).reshape(x.shape)
    np.testing.assert_allclose(product, 6 * x * v * at_maximum, rtol=1e-5)


def exact_batch_normalization(x, gamma, beta, epsilon):
    """The values, and a function from a cotangent to the gradients, in float64."""
    x = x.astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    deviation = np.sqrt(variance + epsilon)
    normal = (x - mean) / deviation

    def gradients(g):
        # Ioffe and Szegedy, "Batch normalization", 2015, section 3.
        by_beta, by_gamma = g.sum(axes), (g * normal).sum(axes)
        count = x.size / x.shape[-1]
        own = g - by_beta / count - normal * by_gamma / count
        return gamma / deviation * own, by_gamma, by_beta

    return (gamma * normal + beta, mean, variance), gradients


@pytest.mark.parametrize("shape", [(64, 3), (2, 5, 7, 4), (130, 9, 8, 16)])
@pytest.mark.parametrize(("offset", "error"), [(0, 5e-6), (100, 1e-4)])
def test_batch_normalization_equals_numpy(shape, offset, error):
    x, g, gamma, beta = arrays(20, shape, shape, shape[-1:], shape[-1:])
    x += np.float32(offset)  # a mean far from zero costs digits, but not all

    def values(x, gamma, beta):
        y, mean, variance = fast_batch_normalization(x, gamma, beta, 1e-3)
        return y, (mean, variance)

    y, pull, statistics = jax.vjp(values, x, gamma, beta, has_aux=True)
    exact, gradients = exact_batch_normalization(x, gamma, beta, 1e-3)
    for value, expected in zip(
        (y, *statistics, *pull(g)), (*exact, *gradients(g)), strict=True
    ):
        assert relative_error(value, expected) < error


@pytest.mark.slow
def test_derivatives_of_higher_order_of_batch_normalization():
    x, gamma, beta, *tangents = arrays(21, *[(6, 4, 4, 5), (5,), (5,)] * 2)

    def stock(x, gamma, beta):
        mean, variance = keras.ops.moments(x, [0, 1, 2])
        y = keras.ops.batch_normalization(x, mean, variance, -1, beta, gamma, 1e-3)
        return y, mean, variance

    def derivatives(normalise):
        def loss(*arguments):
            return sum(jnp.sum(jnp.sin(value)) for value in normalise(*arguments))

        gradient = jax.grad(loss, argnums=(0, 1, 2))

        def directional(*arguments):
            pairs = zip(gradient(*arguments), tangents, strict=True)
            return sum(jnp.vdot(one, other) for one, other in pairs)

        arguments = (x, gamma, beta)
        reverse = jax.grad(directional, argnums=(0, 1, 2))(*arguments)
        return jax.tree.leaves((gradient(*arguments), reverse))

    fast = derivatives(lambda *a: fast_batch_normalization(*a, 1e-3))
    for one, other in zip(fast, derivatives(stock), strict=True):
        assert relative_error(one, other) < 2e-5


@pytest.mark.parametrize(
    ("options", "dtype", "is_fast"),
    [
        ({}, "float32", True),
        ({"scale": False, "momentum": 0.5}, "float32", True),
        ({"center": False, "axis": 3, "epsilon": 0.1}, "float32", True),
        ({"axis": 1}, "float32", False),
        ({"renorm": True}, "float32", False),
        ({"trainable": False}, "float32", False),
        ({}, "mixed_bfloat16", False),
        ({"autocast": False}, "mixed_bfloat16", False),
    ],
)
def test_batch_normalization_layers_compute_as_the_stock_ones(
    options, dtype, is_fast, monkeypatch
):
    calls = []

    def spied(*arguments):
        calls.append(arguments)
        return fast_batch_normalization(*arguments)

    monkeypatch.setattr(acceleration.layers, "fast_batch_normalization", spied)

    def trained(function):
        inputs = keras.Input((5, 6, 4))
        norm = layers.BatchNormalization(dtype=dtype, **options)
        model = keras.Model(inputs, norm(inputs))
        norm.set_weights([v + 0.5 for v in norm.get_weights()])
        (x,) = arrays(22, (8, 5, 6, 4))
        fast = function(model)
        y = [fast(x, training=mode) for mode in (True, True, False)]
        return [np.asarray(a, np.float32) for a in (*y, *model.get_weights())]

    expected = trained(lambda model: model)
    assert not calls
    for one, other in zip(trained(accelerate), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert bool(calls) is is_fast


def test_batch_normalization_is_the_stock_one_on_an_accelerator(monkeypatch):
    inputs = keras.Input((4,))
    fast = accelerate(keras.Model(inputs, layers.BatchNormalization()(inputs)))
    (x,) = arrays(23, (8, 4))

    def calls():
        # A new function: JAX keeps the trace of one that it has seen.
        step = jax.make_jaxpr(lambda x: fast(x, training=True))
        return "custom_vjp_call" in str(step(x))

    assert calls()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not calls()


def test_batch_normalization_and_its_twin_have_one_switch():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.BatchNormalization()(inputs))
    fast = accelerate(model)
    (x,) = arrays(24, (8, 4))
    x += 3

    def moves(model):
        before = np.asarray(model.layers[1].moving_mean)
        model(x, training=True)
        return bool(np.any(before != model.layers[1].moving_mean))

    for switch in (model, fast):
        for value in (False, True):
            switch.layers[1].trainable = value
            assert len(fast.trainable_variables) == 2 * value
            assert len(model.trainable_variables) == 2 * value
            assert moves(fast) is value
            assert moves(model) is value


def test_batch_normalization_leaves_masked_steps_out():
    inputs = keras.Input((5, 3))
    x = layers.BatchNormalization()(layers.Masking()(inputs))
    model = keras.Model(inputs, x)
    (x,) = arrays(26, (4, 5, 3))
    x[:, 3:] = 0  # what `Masking` masks
    fast = accelerate(model)
    np.testing.assert_array_equal(fast(x, training=True), model(x, training=True))


def test_batch_normalization_stays_float32_where_jax_has_float64():
    inputs = keras.Input((3,))
    norm = layers.BatchNormalization(scale=False, center=False)
    fast = accelerate(keras.Model(inputs, norm(inputs)))
    (x,) = arrays(27, (8, 3))
    with jax.enable_x64(True):
        assert fast(x, training=True).dtype == jnp.float32


def network():
    inner_input = keras.Input((8, 8, 16))
    inner = layers.Conv2D(16, 3, padding="same", name="inner_conv")(inner_input)
    inner = keras.Model(inner_input, layers.BatchNormalization()(inner), name="inner")
    inputs = keras.Input((16, 16, 3), name="photograph")
    x = layers.Conv2D(
        16, 3, padding="same", activation="relu", kernel_regularizer="l2", name="first"
    )(inputs)
    x = layers.MaxPooling2D()(x)
    x = inner(inner(x))
    x = layers.Dropout(0.5, seed=0)(x)
    x = layers.Conv2D(4, 3, strides=2)(layers.ZeroPadding2D(1)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)), name="network")


def outputs(model, x):
    return model.predict(x, verbose=0)


def names(model):
    return [layer.name for layer in model.layers]


def test_accelerate_shares_every_variable_and_keeps_the_structure():
    model = network()
    before = model.to_json()
    fast = accelerate(model)
    assert [id(v) for v in fast.variables] == [id(v) for v in model.variables]
    assert [id(v) for v in fast.trainable_variables] == [
        id(v) for v in model.trainable_variables
    ]
    assert names(fast) == names(model)
    assert names(fast.get_layer("inner")) == names(model.get_layer("inner"))
    assert fast.name == model.name
    assert type(fast.get_layer("first")) is acceleration.Conv2D
    inner = fast.get_layer("inner")
    assert type(inner.layers[1]) is acceleration.Conv2D
    assert type(inner.layers[2]) is acceleration.BatchNormalization
    assert type(fast.layers[2]) is acceleration.MaxPooling2D
    assert model.to_json() == before
    kernel = np.asarray(model.get_layer("first").kernel)
    # L2's default factor is 0.01; a loss counted twice would be twice as large.
    np.testing.assert_allclose(sum(fast.losses), 0.01 * np.sum(kernel**2), rtol=1e-5)
    (x,) = arrays(13, (12, 16, 16, 3))
    np.testing.assert_allclose(outputs(fast, x), outputs(model, x), rtol=0, atol=1e-5)


def test_training_the_fast_model_equals_training_the_stock_one(tmp_path):
    (x,) = arrays(14, (12, 16, 16, 3))
    y = np.arange(12) % 10
    weights = {}
    for name, function in [("stock", lambda model: model), ("fast", accelerate)]:
        keras.utils.set_random_seed(0)
        model = network()
        trained = function(model)
        trained.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        trained.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
        # The weights of the model that was passed, whichever was trained.
        weights[name] = model.get_weights()
    start = network().get_weights()
    for stock, fast, other in zip(*weights.values(), start, strict=True):
        # Nine steps carry a rounding error of 1e-6 a step on.
        np.testing.assert_allclose(fast, stock, rtol=0, atol=1e-4)
        assert np.any(fast != other)

    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert "kerascnn" not in json.dumps(json.loads(archive.read("config.json")))
    trained.save_weights(tmp_path / "fast.weights.h5")
    twin = network()
    twin.load_weights(tmp_path / "fast.weights.h5")
    np.testing.assert_array_equal(outputs(twin, x), outputs(model, x))
    trained.save(tmp_path / "fast.keras")
    loaded = keras.models.load_model(tmp_path / "fast.keras")
    assert relative_error(outputs(loaded, x), outputs(model, x)) < 1e-5


@pytest.mark.parametrize("noise_shape", [None, (None, 1, 5)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dropout_draws_as_the_stock_layer(rate, noise_shape):
    """The same numbers from one generator, which both models move on."""
    (x,) = arrays(21, (6, 4, 5))

    def of(convert):
        image = keras.Input((4, 5))
        y = layers.Dropout(rate, noise_shape=noise_shape, seed=3)(image)
        model = keras.Model(image, y)
        return model, convert(model)

    stock, same = of(lambda model: model)
    model, fast = of(accelerate)
    assert same is stock
    assert type(fast.layers[1]) is acceleration.Dropout
    assert fast.layers[1].get_config() == model.layers[1].get_config()
    assert [id(v) for v in fast.variables] == [id(v) for v in model.variables]
    for _ in range(3):
        np.testing.assert_array_equal(fast(x, training=True), stock(x, training=True))
        np.testing.assert_array_equal(fast(x, training=False), x)
    gradients = [
        jax.grad(lambda x, model=each: model(x, training=True).sum())(x)
        for each in (fast, stock)
    ]
    np.testing.assert_array_equal(*gradients)
    # What the fast one has drawn, the original will not draw again.
    np.testing.assert_array_equal(model(x, training=True), stock(x, training=True))


def test_dropout_draws_for_one_axis():
    """For four, XLA on a CPU would compile five times as long."""
    image = keras.Input((4, 5, 3))
    fast = accelerate(keras.Model(image, layers.Dropout(0.5)(image)))
    state = [v.value for v in fast.non_trainable_variables]

    def train(state, x):
        return fast.stateless_call([], state, x, training=True)

    text = str(jax.make_jaxpr(train)(state, np.zeros((2, 4, 5, 3), np.float32)))
    assert "random_bits[bit_width=32 shape=(120,)]" in text


def test_frozen_layers_stay_frozen():
    model = network()
    model.get_layer("inner").trainable = False
    fast = accelerate(model)
    assert [v.path for v in fast.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    (x,) = arrays(15, (2, 16, 16, 3))
    model.get_layer("first").trainable = False
    assert len(fast.trainable_variables) == len(model.trainable_variables) == 4
    np.testing.assert_allclose(outputs(fast, x), outputs(model, x), rtol=0, atol=1e-5)


def conv(trainable=True):
    return layers.Conv2D(16, 3, padding="same", activation="relu", trainable=trainable)


def frozen_model():
    model = keras.Sequential([keras.Input((8, 8, 16)), conv()])
    model.trainable = False
    return model


# Layers of which the last convolution trains, and how many compute an image gradient.
STEMS = {
    "the first layer": (lambda: [conv()], 0),
    "a frozen one": (lambda: [conv(False), conv()], 0),
    "frozen ones": (
        lambda: [
            layers.Rescaling(2.0),
            conv(False),
            layers.BatchNormalization(trainable=False),
            layers.MaxPooling2D(),
            conv(False),
            layers.Dropout(0.0),
            conv(),
        ],
        0,
    ),
    "a frozen one between": (lambda: [conv(), conv(False), conv()], 2),
    "a trained shift": (lambda: [layers.BatchNormalization(), conv()], 1),
    "a frozen model": (lambda: [frozen_model(), conv()], 0),
}


@pytest.mark.few("a frozen one between", "a trained shift")
@pytest.mark.parametrize("stem", STEMS)
def test_no_image_gradient_is_computed_before_the_first_trained_layer(stem):
    make, of_images = STEMS[stem]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 16)), *make(), layers.GlobalAveragePooling2D()]
    )
    (x,) = arrays(18, (4, 8, 8, 16))

    def step(model):
        others = [v.value for v in model.non_trainable_variables]

        def loss(weights, others, x):
            y, _ = model.stateless_call(weights, others, x, training=True)
            return jnp.sum(y**2)

        weights = [v.value for v in model.trainable_variables]
        compiled = jax.jit(jax.grad(loss)).lower(weights, others, x).compile()
        return compiled(weights, others, x), compiled.as_text().count(" dot(")

    gradients, products = step(accelerate(model))
    for one, other in zip(gradients, step(model)[0], strict=True):
        assert relative_error(one, other) < 3 * TOLERANCE[3]
    flat = [
        each for layer in model.layers for each in getattr(layer, "layers", [layer])
    ]
    convolutions = [each for each in flat if isinstance(each, layers.Conv2D)]
    variables = [id(each) for each in model.trainable_variables]
    trained = sum(id(each.kernel) in variables for each in convolutions)
    # Each map is a product of the tiles, and one that transforms the kernel, which the
    # output and the images' gradient share.
    assert products == 2 * len(convolutions) + 2 * trained + of_images


def test_what_was_frozen_before_trains_again():
    for thaw_the_fast_one in (False, True):
        model = network()
        count = len(model.trainable_variables)
        frozen = [model.get_layer("first"), *model.get_layer("inner").layers]
        for layer in frozen:
            layer.trainable = False
        fast = accelerate(model)
        assert len(fast.trainable_variables) == len(model.trainable_variables) < count
        chosen = fast if thaw_the_fast_one else model
        for layer in [chosen.get_layer("first"), *chosen.get_layer("inner").layers]:
            layer.trainable = True
        for one in (model, fast):
            assert len(one.trainable_variables) == count
            assert one.get_layer("first").trainable


def test_layers_that_are_not_covered_compute_as_they_did():
    inputs = keras.Input((12, 12, 4))
    x = layers.Conv2D(8, 3, dilation_rate=2)(inputs)
    x = layers.Conv2D(8, 3, groups=2, padding="same")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = layers.DepthwiseConv2D(3)(x)
    x = keras.ops.transpose(x, (0, 3, 1, 2))
    x = layers.MaxPooling2D(2, data_format="channels_first")(x)
    model = keras.Model(inputs, x)
    fast = accelerate(model)
    (images,) = arrays(16, (2, 12, 12, 4))
    np.testing.assert_array_equal(outputs(fast, images), outputs(model, images))


@pytest.mark.parametrize("name", ["double", "gelu"])
def test_functions_of_the_user_s_need_not_be_registered(name):
    """And may have the names of Keras's."""

    def double(x):
        return 2 * x

    double.__name__ = name

    def tenth(shape, dtype):
        return keras.ops.full(shape, 0.1, dtype)

    image = keras.Input((5, 5, 3))
    conv = layers.Conv2D(
        4, 3, activation=double, kernel_initializer=tenth, kernel_constraint=double
    )
    model = keras.Model(image, conv(image))
    fast = accelerate(model)
    assert type(fast.layers[1]) is acceleration.Conv2D
    np.testing.assert_allclose(outputs(fast, np.ones((1, 5, 5, 3))), 5.4, rtol=1e-6)


def test_sequential_and_compiled_models_come_back_so():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)]
    )
    model.compile("adam", "mse", metrics=["mae"])
    fast = accelerate(model)
    assert isinstance(fast, keras.Sequential)
    x, y = arrays(17, (4, 8, 8, 3), (4, 2))
    fast.fit(x, y, verbose=0)
    np.testing.assert_allclose(outputs(fast, x), outputs(model, x), rtol=0, atol=1e-5)


def test_another_backend_gets_its_model_back(monkeypatch):
    model = network()
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert accelerate(model) is model


def test_accelerate_names_what_it_cannot_take():
    with pytest.raises(UsageError, match="unbuilt"):
        accelerate(keras.Sequential([layers.Conv2D(3, 3)]))

    class Subclassed(keras.Model):
        pass

    with pytest.raises(UsageError, match="Subclassed"):
        accelerate(Subclassed())
