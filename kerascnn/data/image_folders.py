"""Image classification sets that are folders of image files: one folder a class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerascnn import UsageError
from kerascnn.command_line import one_line

if TYPE_CHECKING:
    from PIL import Image

# The formats that torchvision's ImageFolder takes.
ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TESTS = ("test", "validation", "val")
# What makes images of one size, by the rule of `fitted`.
RESIZING = "layers.Resizing(height, width, crop_to_aspect_ratio=True, antialias=True)"
_CHUNK = 64


class ImageFolder:
    """A set laid out as `train/CLASS/IMAGE` and `test/CLASS/IMAGE`.

    `validation` or `val` may stand for `test`, as in torchvision's and Keras's
    examples. Hidden files and files with other endings than images' are passed over.

    Args:
        folder: the folder that holds `train` and `test`.

    Raises:
        UsageError: the folder is laid out otherwise, a class is empty, or training and
            test classes differ.
    """

    version = "folder"
    held_out = False

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).expanduser().absolute()
        self.name = self.folder.name
        test = next((t for t in TESTS if (self.folder / t).is_dir()), None)
        if test is None or not (self.folder / "train").is_dir():
            raise UsageError(
                f"{self.folder} is no data set: expected train/CLASS/ and test/CLASS/ "
                "with images in them."
            )
        self._roles = {"train": self.folder / "train", "test": self.folder / test}
        self.classes = tuple(_folders(self._roles["train"]))
        others = tuple(_folders(self._roles["test"]))
        if self.classes != others:
            different = ", ".join(sorted({*self.classes} ^ {*others}))
            raise UsageError(
                f"{self.folder}: train and {test} have different classes ({different})."
            )
        if len(self.classes) < 2:
            held = self.classes[0] if self.classes else "nothing"
            raise UsageError(
                f"{self._roles['train']} holds {held}: a network learns to tell "
                "two classes or more apart."
            )
        for role in self._roles.values():
            for name in self.classes:
                if not any(_images(role / name)):
                    raise UsageError(
                        f"{role / name} holds no image: add some, or remove the class "
                        f"from train and {test}."
                    )

    @cached_property
    def files(self) -> dict[str, list[tuple[Path, int]]]:
        """The images of "train" and "test" with their labels, in one mixed order."""
        mixed = {}
        for role, folder in self._roles.items():
            every = [
                (file, label)
                for label, name in enumerate(self.classes)
                for file in sorted(_images(folder / name))
            ]
            # By class, the first thousand images would all be of the first.
            order = np.random.default_rng(0).permutation(len(every))
            mixed[role] = [every[i] for i in order]
        return mixed

    def count(self, role: str) -> int:
        """How many images "train" or "test" holds."""
        return len(self.files[role])

    def chunks(
        self, role: str, image_size: tuple[int, int] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decode "train" or "test".

        Args:
            role: "train" or "test".
            image_size: height and width to bring the images to, see `fitted`.

        Yields:
            uint8 images (n, height, width, 3) and int32 labels (n,), some at a time.

        Raises:
            UsageError: an image can't be used, or the images are of unequal size and no
                size is given.
        """
        files, shape = self.files[role], None
        for start in range(0, len(files), _CHUNK):
            images = []
            for file, _ in files[start : start + _CHUNK]:
                try:
                    image = decode(file)
                except UsageError as error:
                    raise UsageError(
                        f"{error} `kerascnn data check {self.folder}` lists all such "
                        "images."
                    ) from error
                if image_size:
                    image = fitted(image, image_size)
                shape = shape or image.shape
                if image.shape != shape:
                    raise UsageError(
                        f"{file} is {image.shape[0]} pixels high and {image.shape[1]} "
                        f"wide, and others are {shape[0]} and {shape[1]}: pass an "
                        f"image size, or begin the recipe's transform with {RESIZING}."
                    )
                images.append(image)
            labels = [label for _, label in files[start : start + _CHUNK]]
            yield np.stack(images), np.array(labels, np.int32)


def check(folder: str | os.PathLike) -> tuple[int, list[str], set[tuple[int, int]]]:
    """Decode every image of a folder and collect what is wrong.

    Args:
        folder: see `ImageFolder`.

    Returns:
        The number of images, a line for each that can't be used, and the sizes
        (height, width) of the others.

    Raises:
        UsageError: the folder is not laid out as a data set.
    """
    files = [file for split in ImageFolder(folder).files.values() for file, _ in split]
    problems, sizes = [], set()
    for file in sorted(files):
        try:
            sizes.add(decode(file).shape[:2])
        except UsageError as error:
            problems.append(str(error))
    return len(files), problems, sizes


def decode(file: Path) -> np.ndarray:
    """Decode an image file as a viewer shows it.

    Args:
        file: an image of 8 bits a channel: grey, colour or palette. A camera's note of
            its orientation (EXIF) is obeyed.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        UsageError: the file is damaged or huge, or has something that a guess would
            change: several frames, transparency, inks (CMYK), more than 8 bits.
    """
    from PIL import Image, ImageOps

    try:
        if file.stat().st_size == 0:
            raise UsageError(f"{file} is empty: fetch it again or remove it.")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", "Palette images", UserWarning)
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


def _refuse_guesses(file: Path, image: Image.Image) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise UsageError(f"{file} has several frames: save one of them.")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise UsageError(f"{file} is in {image.mode} colours: save it as RGB.")
    # Pillow opens 16-bit colour as 8-bit, and says so only in how it will decode it.
    if image.mode.startswith("I") or image.mode == "F" or "16" in str(image.tile):
        raise UsageError(f"{file} has more than 8 bits a channel: save it with 8.")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
        if lowest < 255:
            raise UsageError(
                f"{file} is transparent in places: save it on a background."
            )


def fitted(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Cut an image's centre to the proportions of a size, and scale it to the size.

    What `keras.layers.Resizing(height, width, crop_to_aspect_ratio=True,
    antialias=True)` computes, rounded to uint8; and torchvision's `Resize` followed by
    `CenterCrop`, up to rounding.

    Args:
        image: uint8 array (height, width, channels), 1 or 3 channels.
        image_size: the new height and width.

    Returns:
        uint8 array (*image_size, channels).
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


def _folders(folder: Path) -> list[str]:
    return sorted(
        each.name
        for each in folder.iterdir()
        if each.is_dir() and not each.name.startswith(".")
    )


def _images(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.suffix.lower() in ENDINGS and not file.name.startswith("."):
            yield file
