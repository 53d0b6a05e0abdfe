"""Classical edge detectors as fixed convolutions, equal to OpenCV's.

Each detector takes images, `(batch, height, width, channels)`, filters every channel on
its own, and returns the same shape, as OpenCV does:

    edges.sobel(image)      # hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=3),
                            #       cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=3))
    edges.scharr(image)     # hypot(cv2.Scharr(image, cv2.CV_32F, 1, 0),
                            #       cv2.Scharr(image, cv2.CV_32F, 0, 1))
    edges.laplacian(image)  # cv2.Laplacian(image, cv2.CV_32F)

They work on arrays and, in a Functional model, on symbolic tensors. There they are
Keras's own layers and operations, so a saved model needs Keras alone.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

Kernel = Sequence[Sequence[float]]

# The derivative from left to right, averaged over three rows: with equal weights
# (Prewitt, 1970), with the middle row counted twice (Sobel, 1968), and with the weights
# that depend least on the edge's direction (Scharr, 2000).
PREWITT_X = ((-1, 0, 1), (-1, 0, 1), (-1, 0, 1))
SOBEL_X = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))
SCHARR_X = ((-3, 0, 3), (-10, 0, 10), (-3, 0, 3))

# The derivative from top to bottom: the same, transposed.
PREWITT_Y = ((-1, -1, -1), (0, 0, 0), (1, 1, 1))
SOBEL_Y = ((-1, -2, -1), (0, 0, 0), (1, 2, 1))
SCHARR_Y = ((-3, -10, -3), (0, 0, 0), (3, 10, 3))

# The two diagonal differences of Roberts' cross (1963).
ROBERTS_1 = ((1, 0), (0, -1))
ROBERTS_2 = ((0, 1), (-1, 0))

# The sum of the two second derivatives.
LAPLACIAN = ((0, 1, 0), (1, -4, 1), (0, 1, 0))

# How much red, green and blue contribute to brightness (ITU-R BT.601), as
# cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) has it.
LUMA = (0.299, 0.587, 0.114)


def sobel(images: Any) -> Any:
    """The length of Sobel's gradient.

    Args:
        images: (batch, height, width, channels), floats, at least 2x2 pixels.

    Returns:
        The same shape, >= 0.

    Source: lecture 2, `_sobel`: cv2.Sobel with ksize 3, torch.hypot.

    Example:
        >>> step = np.float32([[[[0], [0], [1], [1]]] * 4])  # dark | light
        >>> edges.sobel(step)[0, 1, :, 0].tolist()
        [0.0, 4.0, 4.0, 0.0]
    """
    return _length(images, SOBEL_X, SOBEL_Y)


def scharr(images: Any) -> Any:
    """The length of Scharr's gradient; arguments and result as in `sobel`.

    Source: lecture 2, `_scharr`: cv2.Scharr, torch.hypot.
    """
    return _length(images, SCHARR_X, SCHARR_Y)


def prewitt(images: Any) -> Any:
    """The length of Prewitt's gradient; arguments and result as in `sobel`.

    Source: lecture 2 shows it as a picture; OpenCV computes it by cv2.filter2D.
    """
    return _length(images, PREWITT_X, PREWITT_Y)


def roberts(images: Any) -> Any:
    """The length of the two diagonal differences; arguments and result as in `sobel`.

    A pixel is compared with its neighbours above and to the left: the kernel's centre
    is its lower right entry, as cv2.filter2D has it for a kernel of even size.

    Source: lecture 2 shows it as a picture.
    """
    return _length(images, ROBERTS_1, ROBERTS_2)


def laplacian(images: Any) -> Any:
    """The sum of the second derivatives, with its sign.

    Args:
        images: (batch, height, width, channels), floats, at least 2x2 pixels.

    Returns:
        The same shape: negative on the light side of an edge, positive on the dark one.

    Source: lecture 2, `_laplacian`: cv2.Laplacian.

    Example:
        >>> step = np.float32([[[[0], [0], [1], [1]]] * 4])
        >>> edges.laplacian(step)[0, 1, :, 0].tolist()
        [0.0, 1.0, -1.0, 0.0]
    """
    return correlate(images, LAPLACIAN)


def correlate(images: Any, kernel: Kernel) -> Any:
    """Cross-correlate every channel with one fixed kernel, as cv2.filter2D does.

    The border mirrors the image about its outermost pixels (OpenCV's default,
    BORDER_REFLECT_101), so a constant image has no edges at its border.

    Args:
        images: (batch, height, width, channels), floats.
        kernel: Rows of numbers, centred at row `height // 2`, column `width // 2`.

    Returns:
        The shape of `images`.
    """
    height, width = len(kernel), len(kernel[0])
    padded = ops.pad(
        images,
        (
            (0, 0),
            (height // 2, (height - 1) // 2),
            (width // 2, (width - 1) // 2),
            (0, 0),
        ),
        mode="reflect",
    )
    # Lists, not an array: they are stored in the model's JSON.
    values = [[[[float(value)]] for value in row] for row in kernel]
    return layers.DepthwiseConv2D(
        (height, width),
        use_bias=False,
        depthwise_initializer=keras.initializers.Constant(values),  # pyright: ignore[reportArgumentType]
        trainable=False,
    )(padded)


def grey() -> layers.Conv2D:
    """Turn colour into brightness: `0.299 red + 0.587 green + 0.114 blue`.

    For a recipe's transform, after the scaling, as torchvision's `Grayscale` and
    OpenCV's `cvtColor(image, COLOR_RGB2GRAY)`: a fixed 1x1 convolution.

    Returns:
        A `keras.layers.Conv2D` from (batch, height, width, 3) to (batch, height, width,
        1), with no trainable weights.

    Example:
        >>> edges.grey()(np.float32([[[[1, 0, 0]]]])).tolist()
        [[[[0.29899999499320984]]]]
    """
    return layers.Conv2D(
        1,
        1,
        use_bias=False,
        kernel_initializer=keras.initializers.Constant([[v] for v in LUMA]),  # pyright: ignore[reportArgumentType]
        trainable=False,
        dtype="float32",  # a part of the scaling: no precision policy rounds the pixels
        name="grey",
    )


def _length(images: Any, first: Kernel, second: Kernel) -> Any:
    return ops.hypot(correlate(images, first), correlate(images, second))
