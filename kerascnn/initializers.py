"""PyTorch's initial weights, as Keras initialisers that any Keras can load.

Keras's own defaults and names differ: layers start with `glorot_uniform` and zero
biases, and `he_normal` cuts the normal distribution off at two standard deviations.

`whitening` and `dirac` return weights: a recipe's `adapt` assigns them, because a model
file names a layer's initialiser, and one of this package would keep Keras alone from
opening the file.
"""

from __future__ import annotations

import math

import keras
import numpy as np


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


def whitening(images: np.ndarray, size: int = 2, epsilon: float = 5e-4) -> np.ndarray:
    """Return filters that whiten images' patches, and their negatives, as a kernel.

    The first half of the filters are the eigenvectors of the patches' second moments,
    each divided by the root of its eigenvalue: their outputs over these patches are
    uncorrelated and of mean square 1. With the negatives as well, an activation that
    cuts off one side loses nothing. Of an eigenvector and its negative, the one whose
    largest entry is positive comes first.

    Args:
        images: Images as the network takes them, floats `(n, height, width, channels)`.
        size: Height and width of a patch, 1 or more.
        epsilon: Added to the eigenvalues, in squares of the images' units, so that
            directions that hardly vary are not blown up.

    Returns:
        A `Conv2D` kernel, float32 `(size, size, channels, 2 * size * size * channels)`,
        the filters in the order of falling eigenvalues.

    Source: KellerJordan/cifar10-airbench (MIT licence), after tysam-code/hlb-CIFAR10.

    Example:
        >>> layer = layers.Conv2D(24, 2, use_bias=False, trainable=False)
        >>> layer.build((None, 32, 32, 3))
        >>> layer.kernel.assign(initializers.whitening(images))
    """
    window = np.lib.stride_tricks.sliding_window_view
    patches = window(images, (size, size), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size**2 * images.shape[3])
    patches = patches.astype("float64")
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = vectors[:, ::-1] / np.sqrt(values[::-1] + epsilon)
    largest = np.abs(filters).argmax(axis=0)
    filters *= np.sign(filters[largest, np.arange(len(values))])
    kernel = np.concatenate([filters, -filters], axis=1).astype("float32")
    return kernel.reshape(size, size, images.shape[3], -1)


def dirac(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel whose first filters pass their channel on as it is.

    `torch.nn.init.dirac_` on the first filters, as many as there are channels; the
    others stay. A deep stack of such convolutions begins as a short one.

    Args:
        kernel: A `Conv2D` kernel, `(height, width, channels, filters)`, with a middle
            (odd height and width, or PyTorch's, right of it).

    Returns:
        A copy with filter i, for each channel i, 1 at its middle and 0 elsewhere.

    Source: `torch.nn.init.dirac_`; KellerJordan/cifar10-airbench (MIT licence).

    Example:
        >>> layer.kernel.assign(initializers.dirac(layer.kernel))
    """
    kernel = np.array(keras.ops.convert_to_numpy(kernel))
    height, width, channels, filters = kernel.shape
    for i in range(min(channels, filters)):
        kernel[..., i] = 0
        kernel[height // 2, width // 2, i, i] = 1
    return kernel
