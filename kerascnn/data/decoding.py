"""Image files as arrays: `decode`, and `fitted`, which brings an image to a size."""

from __future__ import annotations

import contextlib
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerascnn import UsageError
from kerascnn.data import image_files
from kerascnn.text import one_line

if TYPE_CHECKING:
    from PIL import Image

# What makes images of one size, by the rule of `fitted`.
RESIZING = "layers.Resizing(height, width, crop_to_aspect_ratio=True, antialias=True)"
# Tags of TIFF and EXIF.
_BITS_PER_SAMPLE, _ORIENTATION, _PLANES = 258, 274, 284


# What is done to an image that is no plain 8-bit RGB, said wherever images are read.
RULE = (
    "Images are taken as a viewer shows them: turned as their EXIF says, inks (CMYK) "
    "as RGB, transparency over white, of 16 bits a channel the upper 8"
)
_GREY = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N")
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def made_of_files(shape: Sequence[int]) -> str:
    """Say how a file becomes an image of a shape, for whoever does without `decode`."""
    height, width, channels = shape
    said = (
        f"{RULE}. An image of another size is cut to its centre, in the proportions of "
        f"{height} x {width}, and scaled by a bilinear filter that averages where it "
        "shrinks (Pillow's `ImageOps.fit` with `Resampling.BILINEAR`)."
    )
    if channels == 1:
        said += " It is grey: 0.299 red + 0.587 green + 0.114 blue, rounded."
    return said


def decode(file: Path) -> np.ndarray:
    """Decode an image file by `RULE`: uint8 (height, width, 3).

    Raises `UsageError` for what a guess would change, such as several frames, and for
    what can't be decoded.
    """
    return decoded(file)[0]


def decoded(file: Path) -> tuple[np.ndarray, str]:
    """Decode an image file, and name its kind: "PNG", "PNG with transparency"."""
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
            with _opened(file) as image:
                _refuse_guesses(file, image)
                bits = _bits(image)  # which are no longer told when it is loaded
                pixels, named = _plain(ImageOps.exif_transpose(image), bits)
                kind = "JPEG" if image.format == "MPO" else image.format or "image"
                if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
                    kind = f"{kind} turned by EXIF"
                return pixels, f"{kind} with {', '.join(named)}" if named else kind
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


def _plain(image: Image.Image, bits: int) -> tuple[np.ndarray, list[str]]:
    """Return an image as RGB, and what that took."""
    from PIL import Image

    named = []
    if image.mode.startswith("I"):
        # Pillow's own conversion cuts all above 255 off.
        values = np.asarray(image).astype("int64") >> (bits - 8)
        grey = np.clip(values, 0, 255).astype("uint8")
        return np.repeat(grey[..., None], 3, -1), [f"{bits} bits"]
    if bits > 8:
        named.append(f"{bits} bits")
    if image.mode in ("CMYK", "YCbCr"):
        named.append(image.mode)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            named.append("transparency")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB")), named


def is_grey(file: Path) -> bool:
    """Whether a file's image is grey, by its header."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `decode` says what is wrong with a file
        with _opened(file) as image:
            return image.mode in _GREY
    return False


def _opened(file: Path) -> Image.Image:
    """Open an image, with the packages that its first bytes ask for."""
    from PIL import Image, features

    image_files.quiet_pillow()
    with file.open("rb") as opened:
        head = opened.read(12)
    if head[4:8] == b"ftyp" and head[8:] in _HEIC:
        if not image_files.reads_heic():
            raise UsageError(f"{file} is a HEIC image: {image_files.HEIC_TAKES}.")
        import pillow_heif

        pillow_heif.register_heif_opener()
    if head[4:] in (b"ftypavif", b"ftypavis") and not features.check("avif"):
        raise UsageError(f"{file} is an AVIF image, which takes Pillow 11.3 or newer.")
    return Image.open(file)


def _refuse_guesses(file: Path, image: Image.Image) -> None:
    # A phone's JPEG may hold a smaller one of the same picture, and is an MPO then.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UsageError(f"{file} has several frames: save one of them.")
    if image.mode in ("LAB", "HSV"):
        raise UsageError(f"{file} is in {image.mode} colours: save it as RGB.")
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise UsageError(f"{file} has 32 bits a channel: save it with 8.")
    if tags.get(_PLANES) == 2 and _bits(image) > 8:
        raise UsageError(
            f"{file} has more than 8 bits a channel in separate planes, which Pillow "
            "misreads: save it with 8."
        )


def _bits(image: Image.Image) -> int:
    """Return how many bits a channel has, 8 for fewer."""
    # Pillow says so only in how it will decode them: in a mode, in a raw mode such as
    # "RGB;16B" (PNG), or a tag (TIFF).
    bits = max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (1,)))
    if image.mode.startswith("I") and bits <= 8:
        bits = 16
    for tile in getattr(image, "tile", ()):
        first, *_ = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        # Not "BGR;16" of BMP: those are 16 bits for three channels.
        if re.search(";16[BLN]", str(first)):
            bits = max(bits, 16)
    return max(bits, 8)


@dataclass(frozen=True)
class Form:
    """What images are brought to as a set is decoded.

    Args:
        size: Height and width, to which images are cut and scaled (`fitted`).
        channels: 1, to which colours are made grey, or 3; `None` leaves both.
        exact: Whether that holds of sets that promise one size for all too.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    exact: bool = False


AS_THEY_ARE = Form()


def brought(image: np.ndarray, form: Form) -> np.ndarray:
    """Bring an image, uint8 `(height, width, channels)`, to a form."""
    if image.shape[-1] in (2, 4):
        image = over_white(image)
    if form.channels == 1 and image.shape[-1] == 3:
        if (image != image[..., :1]).any():
            # What Pillow's conversion to "L" computes, in float.
            light = image @ np.array([0.299, 0.587, 0.114])
            image = light.round().astype("uint8")[..., None]
        image = image[..., :1]
    elif form.channels == 3 and image.shape[-1] == 1:
        image = np.repeat(image, 3, axis=-1)
    return fitted(image, form.size) if form.size else image


def all_brought(
    images: Iterable[np.ndarray], form: Form, changed: Counter[str]
) -> list[np.ndarray]:
    """Bring images to a form; count those that were "scaled", and those made "grey"."""
    found = []
    for image in images:
        new = brought(image, form)
        changed["scaled"] += image.shape[:2] != new.shape[:2]
        if form.channels == 1 and image.shape[-1] > 1:
            changed["grey"] += bool((image != image[..., :1]).any())
        found.append(new)
    return found


def over_white(images: np.ndarray) -> np.ndarray:
    """Put images whose last channel is opacity on a white ground."""
    share = images[..., -1:] / 255
    found = images[..., :-1] * share + 255 * (1 - share)
    return found.round().astype("uint8")


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
