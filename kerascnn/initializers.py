"""PyTorch's initial weights, as Keras initialisers that any Keras can load.

Keras's own defaults and names differ: layers start with `glorot_uniform` and zero
biases, and `he_normal` cuts the normal distribution off at two standard deviations.
"""

from __future__ import annotations

import math

import keras


def he_normal() -> keras.initializers.Initializer:
    """Return N(0, sqrt(2 / fan_in)), not truncated: `torch.nn.init.kaiming_normal_`.

    With it the variance of the activations stays about the same from layer to layer
    when each is followed by ReLU (He et al., 2015; lecture 3, solution 3). `fan_in` is
    the number of inputs of one unit: kernel height x kernel width x channels.

    Example:
        >>> layers.Conv2D(64, 3, kernel_initializer=initializers.he_normal())
    """
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def he_uniform() -> keras.initializers.Initializer:
    """Return U(-b, b) with b = sqrt(6 / fan_in): `torch.nn.init.kaiming_uniform_`.

    The variance is that of `he_normal` (PyTorch's `nonlinearity="relu"`).

    Example:
        >>> layers.Dense(256, kernel_initializer=initializers.he_uniform())
    """
    return keras.initializers.VarianceScaling(2.0, "fan_in", "uniform")


def default(fan_in: int) -> dict[str, keras.initializers.Initializer]:
    """Return the initialisers that a `torch.nn.Conv2d` or `Linear` starts with.

    Kernel and bias are both U(-b, b) with b = 1 / sqrt(fan_in). PyTorch writes the
    kernel's as `kaiming_uniform_(a=sqrt(5))`, which is the same. A Keras bias
    initialiser can't see the kernel, so `fan_in` has to be told.

    Args:
        fan_in: Inputs of one unit: kernel height x kernel width x channels, or the
            length of a dense layer's input.

    Returns:
        The layer's arguments `kernel_initializer` and `bias_initializer`.

    Raises:
        ValueError: `fan_in` is not positive.

    Example:
        >>> layers.Conv2D(6, 5, **initializers.default(fan_in=5 * 5 * 1))
    """
    if fan_in < 1:
        raise ValueError(f"`fan_in` must be 1 or more. Received: fan_in={fan_in}")
    bound = 1 / math.sqrt(fan_in)
    return {
        "kernel_initializer": keras.initializers.RandomUniform(-bound, bound),
        "bias_initializer": keras.initializers.RandomUniform(-bound, bound),
    }
