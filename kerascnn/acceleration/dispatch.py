"""Which algorithm serves a convolution on a CPU, and why.

`algorithm` answers for each of a layer's three maps, and `convolution` does what it
says:

    >>> print(algorithm((28, 28, 16), (5, 5, 16, 32), (2, 2), "same"))
    gathered: with strides, one product of all pixels under the kernel
"""

import contextlib
import contextvars
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import lax

from kerascnn.acceleration.bands import band_width, pixels_under
from kerascnn.acceleration.winograd import PIECES, TILE_SIZES

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


class Threshold(NamedTuple):
    """A bound, the machine and the day of its measurement, and what it bounds."""

    bound: float
    machine: str
    date: str
    bounds: str


_AVX2, _AVX512 = "two AVX2 cores", "two AVX-512 cores"

THRESHOLDS = {
    "winograd": Threshold(16, _AVX2, "2026-11-24", "channels and filters, at least"),
    "transposed": Threshold(0.7, _AVX2, "2026-11-24", "output by image pixels, below"),
    "bands": Threshold(256, _AVX2, "2026-11-24", "numbers in an image's row, at most"),
    "bands, output": Threshold(
        256, _AVX2, "2026-11-24", "those of the output, at most"
    ),
    "bands, channels": Threshold(
        4, _AVX512, "2026-11-27", "channels where it has more, at most"
    ),
    "bands, zeros": Threshold(
        3, _AVX512, "2026-11-27", "then pixels by columns, at most"
    ),
}


class Algorithm(NamedTuple):
    """An algorithm's name and the reason why it was chosen."""

    name: str
    reason: str

    def __str__(self):
        return f"{self.name}: {self.reason}"


_use_fast = contextvars.ContextVar("use_fast", default=True)


@contextlib.contextmanager
def stock_operations():
    """Have fast layers run the stock operations that they stand for.

    For a function, traced in this context, that will seldom be called: it is slower,
    and compiled in less time and memory (the fast `Dropout` stays a fast one). A
    function that `jax.jit` has traced before stays as it is.
    """
    token = _use_fast.set(False)
    try:
        yield
    finally:
        _use_fast.reset(token)


def uses_fast() -> bool:
    """Whether this is outside of `stock_operations`."""
    return _use_fast.get()


def explicit_padding(
    size: Pair, kernel_size: Pair, strides: Pair, padding: str | Padding
) -> Padding:
    """The pixels added on each side, `((top, bottom), (left, right))`."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(size, kernel_size, strides, padding.upper())
    top_bottom, left_right = ((int(low), int(high)) for low, high in padding)
    return top_bottom, left_right


def uncovered(
    images: tuple[int, ...], kernel: tuple[int, ...], padding: Padding, dtypes=()
) -> str:
    """Why the stock operation computes all maps of a convolution; "" if it does not."""
    if any(dtype != jnp.float32 for dtype in dtypes):
        return "another type than float32"
    if not all(isinstance(size, int) and size > 0 for size in (*images, *kernel)):
        return "a size that is symbolic or zero"
    if images[3] != kernel[2]:
        return "channels in groups"
    for size, taps, (low, high) in zip(images[1:3], kernel[:2], padding, strict=True):
        if not (0 <= low < taps and 0 <= high < taps):
            return "padding as wide as the kernel, or negative"
        if size + low + high < taps:
            return "an image smaller than the kernel"
    return ""


def algorithm(
    image: tuple[int, int, int],
    kernel: tuple[int, int, int, int],
    strides: Pair = (1, 1),
    padding: str | Padding = "valid",
    of: Literal["output", "image gradient", "kernel gradient"] = "output",
) -> Algorithm:
    """The algorithm that computes one of a float32 convolution's three maps on a CPU.

    Args:
        image: height, width and channels.
        kernel: rows, columns, channels and filters.
        strides: in pixels.
        padding: `"valid"`, `"same"`, or the pixels added on each side,
            `((top, bottom), (left, right))`.
        of: the map.

    Returns:
        Its name, by which `convolution` calls it, and the reason.
    """
    padding = explicit_padding(image[:2], kernel[:2], strides, padding)
    if reason := uncovered((1, *image), kernel, padding):
        return Algorithm("stock", reason)
    if image[:2] == kernel[:2] and not any(map(any, padding)):
        return Algorithm("dense", "the kernel covers the image: one matrix product")
    choose = {
        "output": _of_output,
        "image gradient": _of_image_gradient,
        "kernel gradient": _of_kernel_gradient,
    }[of]
    return choose(image, kernel, strides, padding)


def _of_output(image, kernel, strides, padding):
    if winograd := winograd_pays(kernel, strides):
        return Algorithm("winograd", winograd)
    if bands := _bands_pay(image, kernel, strides, padding):
        return Algorithm("bands", bands)
    if strides != (1, 1):
        return Algorithm(
            "gathered",
            "with strides, one product of all pixels under the kernel",
        )
    return Algorithm("stock", "without strides, XLA's own is as fast as any")


def _of_image_gradient(image, kernel, strides, padding):
    if strides != (1, 1):
        return Algorithm("strided", "one matrix product, added up by the strides")
    if bands := _bands_pay(image, kernel, strides, padding):
        return Algorithm("bands", bands)
    winograd = winograd_pays(kernel, strides)
    if not winograd:
        return Algorithm("turned", "XLA's own of the kernel turned by 180 degrees")
    height, width = _output_size(image, kernel, strides, padding)
    if kernel[0] in PIECES:
        return Algorithm("winograd transposed", f"{winograd}, in pieces")
    if height * width < THRESHOLDS["transposed"].bound * (image[0] * image[1]):
        return Algorithm("winograd transposed", f"{winograd}; the output is smaller")
    return Algorithm("winograd turned", f"{winograd}; the output is about as large")


def _of_kernel_gradient(image, kernel, strides, padding):
    if winograd := winograd_pays(kernel, strides):
        return Algorithm("winograd", winograd)
    if bands := _bands_pay(image, kernel, strides, padding):
        return Algorithm("bands", bands)
    return Algorithm("rows", "a matrix product for each row of the kernel")


def pools(image, kernel, strides, padding) -> bool:
    """Whether the algorithm of the output can pool 2 x 2 pixels before it stores them.

    A Winograd square holds whole ones.
    """
    return algorithm(image, kernel, strides, padding).name == "winograd"


def winograd_pays(kernel, strides) -> str:
    """Why Winograd's algorithm is faster than the definition; "" where it is not."""
    rows, columns, channels, filters = kernel
    pays = (
        strides == (1, 1)
        and rows == columns
        and rows in TILE_SIZES
        and min(channels, filters) >= THRESHOLDS["winograd"].bound
    )
    return "no strides, and enough channels and filters" if pays else ""


def _bands_pay(image, kernel, strides, padding) -> str:
    """Why bands are faster; "" where they are not."""
    # With few channels all else is slow, and lines may be longer, as long as the band
    # is not: a width that is prime has but one, mostly zeros.
    (_, pixels, channels), (_, columns, _, filters) = image, kernel
    _, width = _output_size(image, kernel, strides, padding)
    band = band_width(width, filters, strides[1], columns)
    zeros = THRESHOLDS["bands, zeros"].bound * columns
    pays = (
        pixels * channels <= THRESHOLDS["bands"].bound
        and (
            width * filters <= THRESHOLDS["bands, output"].bound
            or (
                channels <= THRESHOLDS["bands, channels"].bound
                and pixels_under(band, strides, kernel[:2]) <= zeros
            )
        )
        and strides[1] <= columns <= width * strides[1] + 1
    )
    return "few numbers in a row: one matrix makes several pixels" if pays else ""


def _output_size(image, kernel, strides, padding):
    return tuple(
        (pixels + low + high - taps) // step + 1
        for pixels, taps, step, (low, high) in zip(
            image[:2], kernel[:2], strides, padding, strict=True
        )
    )
