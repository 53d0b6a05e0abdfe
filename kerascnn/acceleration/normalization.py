"""Batch normalisation that reads the images fewer times."""

import jax
import jax.numpy as jnp
from jax import lax

from kerascnn.acceleration.blocks import along_channels
from kerascnn.acceleration.materialize import stored
from kerascnn.acceleration.mesh import (
    BATCH,
    WHOLE,
    alike,
    is_cut_explicitly,
    may_be_cut,
    on_each_device,
)


def fast_batch_normalization(x, gamma, beta, epsilon, counted=None):
    """Batch normalisation in training, over all axes but the last.

    The value is Keras's: the mean, then the variance about it, and the numbers
    `x * scale + (beta - mean * scale)`, where scale is `gamma / sqrt(variance +
    epsilon)`. The gradient takes two sums over the batch, where that of the single
    operations takes more; under one `jax.jit` with it, nothing but `x` is kept for it.
    Reverse derivatives, of any order, are exact.

    Where devices share a batch, they exchange numbers once forward and once backward.

    Args:
        x: float32 of shape `(batch, ..., channels)`.
        gamma: float32 of shape `(channels,)`.
        beta: float32 of shape `(channels,)`.
        epsilon: what is added to the variance, a float.
        counted: bool of shape `(batch,)`, which images the mean and the variance are
            taken over; None for all.

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
    if counted is not None:
        counted = counted.astype(x.dtype)
    if is_cut_explicitly(x, gamma, beta):
        return _by_single_operations(x, gamma, beta, counted, epsilon)
    return _normalised(*alike(x, gamma, beta), counted, epsilon)


def _by_single_operations(x, gamma, beta, counted, epsilon):
    mean, variance = _moments(x, counted)
    scale, shift = scale_and_shift(gamma, beta, mean, variance, epsilon)
    scale, shift = along_channels(scale, x.ndim), along_channels(shift, x.ndim)
    return x * scale + shift, mean, variance


_normalised = jax.custom_vjp(_by_single_operations, nondiff_argnums=(4,))


def scale_and_shift(gamma, beta, mean, variance, epsilon):
    """What the images are multiplied with, and what is added to them."""
    scale = gamma * lax.rsqrt(variance + epsilon)
    return scale, beta - mean * scale


def _normalised_forward(x, gamma, beta, counted, epsilon):
    y, mean, variance = _normalised(x, gamma, beta, counted, epsilon)
    return (y, mean, variance), (x, gamma, mean, variance, counted)


def _normalised_backward(epsilon, residuals, gradients):
    x, gamma, mean, variance, counted = residuals
    g, g_mean, g_variance = gradients
    inverse = lax.rsqrt(variance + epsilon)
    scale = gamma * inverse
    centred = x - along_channels(mean, x.ndim)
    images = tuple(range(x.ndim - 1))
    number = x.size // x.shape[-1]
    dbeta = g.sum(images)
    # Materialised, because XLA would keep `centred` from the forward pass on.
    slope = on_each_device(stored, centred * g).sum(images)
    # The variance is the mean of centred * centred, and the sum of `centred` is zero.
    half = 2 * g_variance - scale * inverse * inverse * slope
    dmean = g_mean - scale * dbeta
    dx = along_channels(scale, x.ndim) * g
    if counted is not None:
        # Mean and variance depend on these images alone.
        number = counted.sum() * (number // len(x))
        through = centred * along_channels(half / number, x.ndim)
        through += along_channels(dmean / number, x.ndim)
        dx += _of_each_image(counted, x.ndim) * through
        return dx, slope * inverse, dbeta, None
    dx += centred * along_channels(half / number, x.ndim)
    dx += along_channels(dmean / number, x.ndim)
    return dx, slope * inverse, dbeta, None


_normalised.defvjp(_normalised_forward, _normalised_backward)


def _over_images(x):
    return jnp.mean(x, tuple(range(x.ndim - 1)))


def _mean_and_variance(x):
    mean = _over_images(x)
    return mean, _over_images(jnp.square(x - along_channels(mean, x.ndim)))


def _of_each_image(values, ndim):
    return values.reshape(-1, *[1] * (ndim - 1))


def _counted_moments(x, counted):
    """The mean and the variance of the images that count, and their number."""
    weights, images = _of_each_image(counted, x.ndim), tuple(range(x.ndim - 1))
    number = counted.sum() * (x.size // x.shape[-1] // len(x))
    # A device may have none.
    mean = (weights * x).sum(images) / jnp.maximum(number, 1)
    squares = weights * jnp.square(x - along_channels(mean, x.ndim))
    return mean, squares.sum(images) / jnp.maximum(number, 1), number


def _moments_of_counted(x, counted):
    """The same of a batch that devices share, each with other numbers of them."""
    if not may_be_cut(x):
        return _counted_moments(x, counted)[:2]

    def of_all(part):
        mean, variance, number = _counted_moments(*part)
        own = jnp.stack([mean, variance, jnp.full_like(mean, number)])
        means, variances, numbers = lax.all_gather(own, BATCH, axis=1)
        shares = numbers / numbers.sum(0, keepdims=True)
        mean = (shares * means).sum(0)
        between = (shares * jnp.square(means - mean[None])).sum(0)
        return mean, (shares * variances).sum(0) + between

    return on_each_device(of_all, (x, counted), result=WHOLE)


def _moments(x, counted=None):
    """The mean and the variance of the batch, also of one that devices share."""
    if counted is not None:
        return _moments_of_counted(x, counted)
    if not may_be_cut(x):
        return _mean_and_variance(x)

    def of_all(part):
        # Parts of equal size: the mean of their variances and the variance of their
        # means add up to that of all. Chan, Golub and LeVeque, "Updating formulae and
        # a pairwise algorithm for computing sample variances", 1979.
        own = jnp.stack(_mean_and_variance(part))
        means, variances = lax.all_gather(own, BATCH, axis=1)
        mean, between = _mean_and_variance(means)
        return mean, jnp.mean(variances, 0) + between

    return on_each_device(of_all, x, result=WHOLE)
