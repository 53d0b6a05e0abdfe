"""What happens to an image before the network sees it, with torchvision's meaning.

A recipe lists its transforms in order, as torchvision's `Compose` does:

    transform=lambda: [
        transforms.RandomCrop(padding=2),
        layers.RandomFlip("horizontal"),
        transforms.standard("cifar10"),
    ]

Each is a Keras layer on a batch of raw images, (batch, height, width, channels), uint8
or float in 0..255, and runs inside the compiled training step on every Keras backend.
The random ones give every image its own draw and act with `training=True` only. In a
model, `keras.Input(shape, dtype="uint8")` keeps raw images one byte a value until
they are scaled.

A random transform has two halves: `draw` rolls the dice, `transform` is a pure function
of the images and the draw, so that `parity` can give Keras and PyTorch the same draw.
Keras's own `RandomFlip("horizontal")` flips per image with probability 1/2, as
torchvision's does, and is used as it is (it returns floats; the layers here keep the
dtype). Keras's `RandomCrop` moves the whole batch alike, and its `RandomErasing` has no
aspect ratio: hence the ones here.
"""

import difflib
import math
import random
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from kerascnn import UsageError

# Keras's operations have no types of their own: pyright would take many for None.
ops: Any = keras.ops

# Mean and standard deviation of each channel over the training set, pixels in 0..1.
# CIFAR-10: lecture 3, computed from the data. Fashion-MNIST: the values usually quoted.
# Both agree with the data to the digits shown.
CHANNEL_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
}


def unit() -> layers.Rescaling:
    """Scale raw pixels to 0..1: `x / 255`, torchvision's `ToTensor`.

    Returns:
        A `keras.layers.Rescaling` that computes and returns float32 under every
        precision policy, for uint8 and float input alike.

    Example:
        >>> transforms.unit()(np.uint8([[[[0], [255]]]])).tolist()
        [[[[0.0], [1.0]]]]
    """
    return _rescaling(1 / 255, 0.0)


def pm1() -> layers.Rescaling:
    """Scale raw pixels to -1..1: `(x / 255 - 0.5) / 0.5`.

    Returns:
        A `keras.layers.Rescaling`, float32 as in `unit`.

    Example:
        >>> transforms.pm1()(np.uint8([[[[0], [255]]]])).tolist()
        [[[[-1.0], [1.0]]]]
    """
    return _rescaling(1 / 127.5, -1.0)


def standard(
    dataset_or_mean: str | float | Sequence[float],
    std: float | Sequence[float] | None = None,
) -> layers.Rescaling:
    """Scale raw pixels to zero mean and unit deviation: `(x / 255 - mean) / std`.

    Args:
        dataset_or_mean: a name in `CHANNEL_STATISTICS`, or the mean of the pixels in
            0..1: one number, or one per channel.
        std: their standard deviation, in the same form; only with a mean.

    Returns:
        A `keras.layers.Rescaling`, float32 as in `unit`.

    Raises:
        UsageError: for an unknown data set, or a mean and deviation that do not fit.

    Example:
        >>> transforms.standard("cifar10")(np.full((1, 1, 1, 3), 125.3)).round(4)
        [[[[-0.0001, 0.0377, 0.1715]]]]
    """
    if isinstance(dataset_or_mean, str):
        if std is not None:
            raise UsageError(
                f"`standard` takes a data set's name or a mean and a deviation, not "
                f"both. Received: {dataset_or_mean!r} with std={std}"
            )
        mean, std = _channel_statistics(dataset_or_mean)
    else:
        mean = dataset_or_mean
        if std is None:
            raise UsageError(
                f"`standard` needs the deviation with the mean: standard(mean, std). "
                f"Received: mean={mean} alone"
            )
    mean, std = _numbers(mean), _numbers(std)
    fit = mean and len(mean) == len(std) and min(std) > 0
    if not (fit and _are_finite(*mean, *std)):
        raise UsageError(
            f"`standard` needs one mean and one positive deviation for each channel, "
            f"all finite. "
            f"Received: mean={mean}, std={std}"
        )
    scale = [1 / (255 * deviation) for deviation in std]
    offset = [-center / deviation for center, deviation in zip(mean, std, strict=True)]
    one = len(mean) == 1
    layer = _rescaling(scale[0], offset[0]) if one else _rescaling(scale, offset)
    layer.of_statistics = True  # which another set has others of
    return layer


def _rescaling(
    scale: float | list[float], offset: float | list[float]
) -> layers.Rescaling:
    # Without the dtype a bfloat16 policy would round the pixels to 8 bits.
    return layers.Rescaling(scale, offset, dtype="float32")  # pyright: ignore[reportArgumentType]


def _channel_statistics(dataset: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if dataset in CHANNEL_STATISTICS:
        return CHANNEL_STATISTICS[dataset]
    close = difflib.get_close_matches(dataset, CHANNEL_STATISTICS, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        f"No channel statistics for the data set {dataset!r}. {hint}Known: "
        f"{', '.join(CHANNEL_STATISTICS)}; or give them, standard(mean, std), as "
        "`kerascnn data statistics` computes them"
    )


def _numbers(value: float | Sequence[float]) -> list[float]:
    return [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]


def _are_finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


class _RandomTransform(layers.Layer):
    """A layer that draws once per image and keeps the images' shape and dtype."""

    def __init__(self, seed: int | None = None, **kwargs: Any):
        # Raw pixels stay what they are under any precision policy.
        super().__init__(autocast=False, **kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.input_spec = layers.InputSpec(ndim=4)
        self.built = True

    def draw(self, images_shape: Any) -> Any:
        raise NotImplementedError

    def transform(self, images: Any, draw: Any) -> Any:
        raise NotImplementedError

    def draw_for(self, images: Any) -> Any:
        return self.draw(ops.shape(images))

    def call(self, images: Any, training: bool = False) -> Any:
        if not training:
            return images
        return self.transform(images, self.draw_for(images))

    def _uniform(self, shape: Any) -> Any:
        # In [0, 1): times an integer and rounded down, uniform over that many integers.
        return keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def compute_output_spec(self, images: Any, training: bool = False) -> Any:
        return keras.KerasTensor(images.shape, dtype=images.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("kerascnn")
class RandomCrop(_RandomTransform):
    """Pad, then cut out the original size at a random place.

    torchvision's `RandomCrop(size, padding=padding)` with `size` the images' own: each
    image is shifted by up to `padding` pixels, all (2 padding + 1)^2 places equally
    likely. Put it before the scaling, so that the border is black.

    Args:
        padding: pixels added on every side, an integer >= 0.
        seed: integer; none draws one.
        mode: what is padded with, torchvision's `padding_mode`: `"constant"`, black, or
            `"reflect"`, the image mirrored about its outermost pixels.

    Raises:
        UsageError: for an impossible padding or mode.

    Source: lecture 4, trick 5; torchvision.transforms.RandomCrop.

    Example:
        >>> crop = transforms.RandomCrop(padding=1, seed=0)
        >>> image = np.arange(1, 5).reshape(1, 2, 2, 1)
        >>> crop.transform(image, np.array([[0, 0]]))[0, :, :, 0].tolist()
        [[0, 0], [0, 1]]
    """

    def __init__(
        self,
        padding: int,
        seed: int | None = None,
        mode: str = "constant",
        **kwargs: Any,
    ):
        super().__init__(seed=seed, **kwargs)
        if mode not in ("constant", "reflect"):
            raise UsageError(
                f"RandomCrop's `mode` must be 'constant' or 'reflect'. Received: "
                f"mode={mode!r}"
            )
        if not isinstance(padding, int) or isinstance(padding, bool) or padding < 0:
            raise UsageError(
                f"RandomCrop's `padding` must be an integer >= 0, in pixels. "
                f"Received: padding={padding}"
            )
        self.padding = padding
        self.mode = mode

    def draw(self, images_shape: Any) -> Any:
        """Each crop's place, (batch, 2) int32: row and column in 0..2 padding."""
        places = self._uniform((images_shape[0], 2)) * (2 * self.padding + 1)
        return ops.cast(ops.floor(places), "int32")

    def transform(self, images: Any, offsets: Any) -> Any:
        """Crop each image, of any dtype, at its offset, as `draw` returns them."""
        _, height, width, _ = images.shape
        shifts = ops.cast(offsets, "int32")[:, :, None, None] - self.padding
        rows = ops.arange(height, dtype="int32")[:, None] + shifts[:, 0]
        columns = ops.arange(width, dtype="int32")[None, :] + shifts[:, 1]
        if self.mode == "reflect":
            if self.padding >= min(height, width):
                raise UsageError(
                    f"RandomCrop can't reflect {self.padding} pixels of an image of "
                    f"{height} x {width}: the padding must be smaller than the image."
                )
            rows, columns = _reflected(rows, height), _reflected(columns, width)
        return _pixels_at(images, rows, columns)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "padding": self.padding}
        return config if self.mode == "constant" else config | {"mode": self.mode}


@keras.saving.register_keras_serializable("kerascnn")
class RandomAlternatingFlip(_RandomTransform):
    """Mirror each image in every other epoch: half of them in the even ones.

    `RandomFlip` shows an image the same way round twice running half of the time. Here
    an image's first side is random, a function of the seed and of its pixels, and the
    sides alternate from then on, so that two epochs show each image both ways round.
    Put it first: the sides follow from the raw pixels.

    Args:
        seed: integer; none draws one.

    Attributes:
        epoch: int32 `()`, the epoch counted from 0, a variable: a run sets it as each
            epoch begins.

    Source: Keller Jordan, arXiv:2404.00498, "derandomized" flipping, which draws the
    first sides in epoch 0.

    Example:
        >>> flip = transforms.RandomAlternatingFlip(seed=0)
        >>> image = np.arange(1, 5).reshape(1, 2, 2, 1)
        >>> flip.transform(image, np.array([True]))[0, :, :, 0].tolist()
        [[2, 1], [4, 3]]
    """

    def __init__(self, seed: int | None = None, **kwargs: Any):
        # Keras seeds Python's generator too (`keras.utils.set_random_seed`).
        seed = random.getrandbits(31) if seed is None else seed
        super().__init__(seed=seed, **kwargs)
        self.epoch = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="epoch"
        )

    def begin_epoch(self, epoch: int) -> None:
        """Show the images as an epoch, counted from 0, does."""
        self.epoch.assign(epoch)

    def draw_for(self, images: Any) -> Any:
        """Which images are mirrored in the present epoch.

        Args:
            images: (batch, height, width, channels), whole numbers of any dtype.

        Returns:
            (batch,) bool.
        """
        pixels = ops.reshape(
            ops.cast(images, "int32"), (-1, math.prod(images.shape[1:]))
        )
        # Whether the sum of a random half of the pixels is odd: a coin for each image
        # that falls the same way in all epochs.
        words = np.random.Philox(key=self.seed).random_raw(pixels.shape[1])
        half = ops.convert_to_tensor((words & 1).astype("int32"))
        odd = ops.sum(pixels * half, axis=1) + ops.cast(self.epoch, "int32")
        return ops.equal(ops.bitwise_and(odd, 1), 1)

    def transform(self, images: Any, flips: Any) -> Any:
        """Mirror the images of which `flips` says so.

        Args:
            images: (batch, height, width, channels), any dtype.
            flips: (batch,) bool.

        Returns:
            The images, some mirrored: shape and dtype of `images`.
        """
        images = ops.convert_to_tensor(images)
        flips = ops.reshape(ops.cast(flips, "bool"), (-1, 1, 1, 1))
        return ops.where(flips, ops.flip(images, axis=2), images)


@keras.saving.register_keras_serializable("kerascnn")
class RandomErasing(_RandomTransform):
    """Overwrite a random rectangle, so that the network learns from what is left.

    torchvision's rule, for each image on its own. With probability `p`: up to ten times
    draw an area (a fraction of the image, uniform in `scale`) and an aspect ratio
    height/width (uniform in its logarithm over `ratio`), and round the sides; the first
    rectangle with both sides smaller than the image's is put at a uniform place. If
    none of the ten fits, nothing is erased.

    Args:
        p: probability, in 0..1.
        scale: smallest and largest area, as fractions of the image, in 0..1.
        ratio: smallest and largest height/width, positive.
        value: what is written: one number, or one per channel, in the units of the
            images at this place (0 after `standard` is the mean colour).
        seed: integer; none draws one.

    Raises:
        UsageError: for impossible probabilities or ranges.

    Source: lecture 4, trick 1; torchvision.transforms.RandomErasing; Zhong et al. 2017,
    arXiv:1708.04896.

    Example:
        >>> erase = transforms.RandomErasing(p=0.75, scale=(0.01, 0.3), ratio=(1, 1))
        >>> image = np.arange(1, 10).reshape(1, 3, 3, 1)
        >>> box = np.array([[0, 1, 2, 2]])  # from row 0, column 1: 2 high, 2 wide
        >>> erase.transform(image, box)[0, :, :, 0].tolist()
        [[1, 0, 0], [4, 0, 0], [7, 8, 9]]
    """

    tries = 10

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(seed=seed, **kwargs)
        if not 0 <= p <= 1:
            raise UsageError(
                f"RandomErasing's `p` must be a probability in 0..1. Received: p={p}"
            )
        if len(scale) != 2 or not 0 <= scale[0] <= scale[1] <= 1:
            raise UsageError(
                f"RandomErasing's `scale` must be two fractions of the image, the "
                f"smaller first, in 0..1. Received: scale={tuple(scale)}"
            )
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
            raise UsageError(
                f"RandomErasing's `ratio` must be two positive, finite numbers, the "
                f"smaller first. Received: ratio={tuple(ratio)}"
            )
        values = value if isinstance(value, Sequence) else [value]
        if not _are_finite(*values):
            raise UsageError(
                f"RandomErasing's `value` must be finite. Received: value={value}"
            )
        self.p = p
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.value = tuple(value) if isinstance(value, Sequence) else value

    def draw(self, images_shape: Any) -> Any:
        """Each image's rectangle, (batch, 4) int32: row, column, height, width."""
        batch, image_height, image_width, _ = images_shape
        # All numbers from one call: each call adds to the time that JAX compiles.
        numbers = self._uniform((batch, 2 * self.tries + 3))
        areas, ratios, single = ops.split(numbers, [self.tries, 2 * self.tries], axis=1)
        vertical, horizontal, chance = ops.split(single, 3, axis=1)

        smallest, largest = (image_height * image_width * s for s in self.scale)
        areas = smallest + (largest - smallest) * areas
        low, high = (math.log(r) for r in self.ratio)
        ratios = ops.exp(low + (high - low) * ratios)
        heights = ops.round(ops.sqrt(areas * ratios))
        widths = ops.round(ops.sqrt(areas / ratios))
        fits = ops.logical_and(heights < image_height, widths < image_width)

        # argmax finds the first that fits; where none does, it is undone below.
        chosen = ops.argmax(ops.cast(fits, "int32"), axis=1)[:, None]
        height = ops.take_along_axis(heights, chosen, axis=1)
        width = ops.take_along_axis(widths, chosen, axis=1)
        top = ops.floor(vertical * (image_height - height + 1))
        left = ops.floor(horizontal * (image_width - width + 1))
        boxes = ops.concatenate([top, left, height, width], axis=1)

        erased = ops.logical_and(chance < self.p, ops.any(fits, axis=1, keepdims=True))
        return ops.cast(ops.where(erased, boxes, 0.0), "int32")

    def transform(self, images: Any, boxes: Any) -> Any:
        """Write `value` into each image's rectangle, as `draw` returns them."""
        images = ops.convert_to_tensor(images)
        _, image_height, image_width, channels = images.shape
        boxes = ops.cast(boxes, "int32")
        top, left, height, width = (boxes[:, i : i + 1] for i in range(4))
        rows = ops.arange(image_height, dtype="int32")
        columns = ops.arange(image_width, dtype="int32")
        in_rows = ops.logical_and(rows >= top, rows < top + height)
        in_columns = ops.logical_and(columns >= left, columns < left + width)
        inside = ops.logical_and(in_rows[:, :, None], in_columns[:, None, :])
        if isinstance(self.value, tuple) and len(self.value) != channels:
            raise UsageError(
                f"RandomErasing's `value` must be one number, or one per channel: "
                f"{channels} here. Received: value={self.value}"
            )
        value = ops.cast(self.value, images.dtype)
        return ops.where(inside[..., None], value, images)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "p": self.p,
            "scale": self.scale,
            "ratio": self.ratio,
            "value": self.value,
        }


@keras.saving.register_keras_serializable("kerascnn")
class RandomRotation(_RandomTransform):
    """Turn each image about its centre by a random angle.

    torchvision's `RandomRotation(degrees)` with its defaults: the angle uniform in
    `degrees`, counter-clockwise if positive, the nearest pixel, the size kept, black
    where the source lies outside. Put it before the scaling, so that the corners are
    black.

    Args:
        degrees: largest angle, >= 0, for a range of -degrees..degrees; or the range,
            smaller end first.
        seed: integer; none draws one.

    Raises:
        UsageError: for an impossible range.

    Source: lecture 4, "predict"; torchvision.transforms.RandomRotation.

    Example:
        >>> rotation = transforms.RandomRotation(5)
        >>> image = np.arange(1, 5).reshape(1, 2, 2, 1)
        >>> rotation.transform(image, np.array([90.0]))[0, :, :, 0].tolist()
        [[2, 4], [1, 3]]
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(seed=seed, **kwargs)
        ends = tuple(degrees) if isinstance(degrees, Sequence) else (-degrees, degrees)
        if len(ends) != 2 or not -math.inf < ends[0] <= ends[1] < math.inf:
            raise UsageError(
                f"RandomRotation's `degrees` must be a finite number >= 0, or two, "
                f"the smaller first. Received: degrees={degrees}"
            )
        self.degrees = ends

    def draw(self, images_shape: Any) -> Any:
        """Each image's angle, (batch,) float32: degrees, counter-clockwise."""
        low, high = self.degrees
        return low + (high - low) * self._uniform((images_shape[0],))

    def transform(self, images: Any, angles: Any) -> Any:
        """Rotate each image, of any dtype, by its angle."""
        _, height, width, _ = images.shape
        radians = ops.cast(angles, "float32")[:, None, None] * (math.pi / 180)
        cosine, sine = ops.cos(radians), ops.sin(radians)
        # Pixel centres, seen from the image's centre; rows run downwards.
        middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
        y = (ops.arange(height, dtype="float32") - middle_y)[:, None]
        x = (ops.arange(width, dtype="float32") - middle_x)[None, :]
        rows = ops.round(cosine * y + sine * x + middle_y)
        columns = ops.round(cosine * x - sine * y + middle_x)
        return _pixels_at(images, ops.cast(rows, "int32"), ops.cast(columns, "int32"))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "degrees": self.degrees}


def _reflected(places: Any, size: int) -> Any:
    """Mirror int32 places outside 0..size-1 about the first and the last of these."""
    places = ops.absolute(places)
    return size - 1 - ops.absolute(size - 1 - places)


def _pixels_at(images: Any, rows: Any, columns: Any) -> Any:
    """Return the pixels at int32 rows and columns, 0 where they lie outside."""
    images = ops.convert_to_tensor(images)
    _, height, width, channels = images.shape
    in_rows = ops.logical_and(rows >= 0, rows < height)
    in_columns = ops.logical_and(columns >= 0, columns < width)
    inside = ops.logical_and(in_rows, in_columns)
    source = ops.where(inside, rows * width + columns, 0)
    # One gather of whole pixels: of rows, then of columns, is slower on PyTorch.
    pixels = ops.reshape(images, (-1, height * width, channels))
    source = ops.reshape(source, (-1, height * width, 1))
    pixels = ops.take_along_axis(pixels, source, axis=1)
    pixels = ops.reshape(pixels, (-1, height, width, channels))
    return ops.where(inside[..., None], pixels, ops.zeros_like(pixels))
