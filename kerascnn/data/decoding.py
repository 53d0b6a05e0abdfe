"""Image files as arrays: `decode`, and `fitted`, which brings an image to a size."""

from __future__ import annotations

import contextlib
import re
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerascnn import UsageError
from kerascnn.text import one_line

if TYPE_CHECKING:
    from PIL import Image

# What makes images of one size, by the rule of `fitted`.
RESIZING = "layers.Resizing(height, width, crop_to_aspect_ratio=True, antialias=True)"
_BITS_PER_SAMPLE = 258  # a tag of TIFF


def decode(file: Path) -> np.ndarray:
    """Decode an image file as a viewer shows it: uint8 (height, width, 3).

    A camera's note of its orientation (EXIF) is obeyed. Raises `UsageError` for what a
    guess would change: several frames, transparency, inks (CMYK), more than 8 bits.
    """
    from PIL import Image, ImageOps

    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{file} is no plain file: remove it.")
        if status.st_size == 0:
            raise UsageError(f"{file} is empty: fetch it again or remove it.")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Of a damaged note beside the pixels, or a palette with transparency.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(file) as image:
                _refuse_guesses(file, image)
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UsageError(f"{file} is too large an image: scale it down.") from error
    except UsageError:
        raise
    # Pillow's decoders raise what they like on damaged bytes.
    except Exception as error:
        reason = one_line(error, most=200)
        raise UsageError(
            f"{file} can't be decoded ({reason}): save it again or remove it."
        ) from error


def is_grey(file: Path) -> bool:
    """Whether a file's image is grey, by its header."""
    from PIL import Image

    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `decode` says what is wrong with a file
        with Image.open(file) as image:
            return image.mode in ("1", "L")
    return False


def _refuse_guesses(file: Path, image: Image.Image) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise UsageError(f"{file} has several frames: save one of them.")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise UsageError(f"{file} is in {image.mode} colours: save it as RGB.")
    if image.mode.startswith("I") or image.mode == "F" or _is_deep_colour(image):
        raise UsageError(f"{file} has more than 8 bits a channel: save it with 8.")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
        if lowest < 255:
            raise UsageError(
                f"{file} is transparent in places: save it on a background."
            )


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether colours have more than 8 bits, which Pillow opens as if they had 8."""
    # Pillow says so only in how it will decode them: in a raw mode such as "RGB;16B"
    # (PNG), a largest value (PPM), or a tag (TIFF, whose planes have no such raw mode).
    deep = max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (1,))) > 8
    if image.format == "AVIF":
        with Path(image.filename).open("rb") as file:
            head = file.read(4096)
        # The third byte of the box av1C holds the flag `high_bitdepth`.
        deep |= re.search(rb"av1C..([\x40-\x7f\xc0-\xff])", head, re.DOTALL) is not None
    for tile in getattr(image, "tile", ()):
        first, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        # Not "BGR;16" of BMP: those are 16 bits for three channels.
        deep |= re.search(";16[BLN]", str(first)) is not None
        deep |= tile.codec_name.startswith("ppm") and max(rest, default=0) > 255
    return deep


def fitted(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Cut an image's centre to the proportions of a size, and scale it to the size.

    What `keras.layers.Resizing(height, width, crop_to_aspect_ratio=True,
    antialias=True)` computes, rounded to uint8; and torchvision's `Resize` followed by
    `CenterCrop`, up to rounding.
    """
    from PIL import Image, ImageOps

    height, width = image_size
    if image.shape[:2] == (height, width):
        return image
    grey = image.shape[-1] == 1
    resized = ImageOps.fit(
        Image.fromarray(image[..., 0] if grey else image),
        (width, height),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(resized).reshape(height, width, image.shape[-1])
