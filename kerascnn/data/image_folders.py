"""Image classification sets that are folders of image files: one folder a class."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerascnn import UsageError
from kerascnn.data import image_files
from kerascnn.data.folders import check_folder
from kerascnn.data.image_files import Found
from kerascnn.text import expanded, one_line, printable

if TYPE_CHECKING:
    from PIL import Image

TESTS = ("test", "validation", "val")
# What makes images of one size, by the rule of `fitted`.
RESIZING = "layers.Resizing(height, width, crop_to_aspect_ratio=True, antialias=True)"
_CHUNK = 64
_BITS_PER_SAMPLE = 258  # a tag of TIFF


class ImageFolder:
    """A set laid out as `train/CLASS/IMAGE` and `test/CLASS/IMAGE`.

    `validation` or `val` may stand for `test`, as in torchvision's and Keras's
    examples. Folders inside a class's folder belong to the class. A file that is an
    image by its name or its content is read, or refused by name; files that are no
    images are passed over, and `check` counts them.
    """

    version = "folder"
    held_out = False

    def __init__(self, folder: str | os.PathLike):
        self.folder = expanded(folder).absolute()
        self.name = self.folder.name
        self._roles = _roles(self.folder)
        self._found = _find(self._roles)
        if faults := _faults(self._roles, self._found):
            more = (
                f" `kerascnn data check {self.folder}` lists {len(faults) - 1:,} more."
                if len(faults) > 1
                else ""
            )
            raise UsageError(faults[0] + more)
        self.classes = tuple(self._found["train"])

    @property
    def unused(self) -> str:
        """How many images lie beside train and test, and where; empty for none."""
        return _unused(self._roles)

    @cached_property
    def files(self) -> dict[str, list[tuple[Path, int]]]:
        """The images of "train" and "test" with their labels, in one mixed order."""
        mixed = {}
        for role, found in self._found.items():
            every = [
                (file, label)
                for label, name in enumerate(self.classes)
                for file in found[name].images
            ]
            # By class, the first thousand images would all be of the first.
            order = np.random.default_rng(0).permutation(len(every))
            mixed[role] = [every[i] for i in order]
        return mixed

    @cached_property
    def grey(self) -> bool:
        """Whether all images are grey, and so have one channel."""
        return all(_is_grey(file) for files in self.files.values() for file, _ in files)

    def count(self, role: str) -> int:
        """How many images "train" or "test" holds."""
        return len(self.files[role])

    def chunks(
        self, role: str, image_size: tuple[int, int] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield a role's images, grey where all are, and labels, some at a time."""
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
                        f"wide, and others are {shape[0]} and {shape[1]}: bring "
                        "them to one, or take a recipe whose transform begins with "
                        f"{RESIZING}."
                    )
                images.append(image[..., :1] if self.grey else image)
            labels = [label for _, label in files[start : start + _CHUNK]]
            yield np.stack(images), np.array(labels, np.int32)


@dataclass
class Findings:
    """What `check` has found in a folder.

    Args:
        faults: a line for each fault of the layout: a class without images or in one
            of training and test only, one class alone, an image that would not count.
        problems: a line for each image that can't be decoded.
        images: how many images lie in classes, with those that can't be decoded.
        sizes: those that can, by size (height, width).
        others: how many files are passed over, by the endings of names.
        unused: how many images lie beside train and test, and where.
    """

    faults: list[str]
    problems: list[str]
    images: int
    sizes: dict[tuple[int, int], list[Path]]
    others: Counter[str]
    unused: str


def check(folder: str | os.PathLike) -> Findings:
    """Decode every image of a folder and collect all that is wrong."""
    roles = _roles(expanded(folder).absolute())
    classes = _find(roles)
    found = Findings(_faults(roles, classes), [], 0, {}, Counter(), _unused(roles))
    for role, each in classes.items():
        found.others += _loose(roles[role]).others
        for file in (image for name in each for image in each[name].images):
            found.images += 1
            try:
                height, width = decode(file).shape[:2]
                found.sizes.setdefault((height, width), []).append(file)
            except UsageError as error:
                found.problems.append(str(error))
        found.others += sum((each[name].others for name in each), Counter())
    return found


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


def _is_grey(file: Path) -> bool:
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


def _roles(folder: Path) -> dict[str, Path]:
    """The folders of "train" and "test"."""
    check_folder(folder)
    test = next((t for t in TESTS if (folder / t).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        there = sorted(each.name for each in folder.iterdir())
        more = f" and {len(there) - 5:,} more" * (len(there) > 5)
        raise UsageError(
            f"{folder} is no data set: expected train/CLASS/ and test/CLASS/ with "
            f"images in them, and found {', '.join(there[:5]) or 'nothing'}{more}."
        )
    return {"train": folder / "train", "test": folder / test}


def _find(roles: dict[str, Path]) -> dict[str, dict[str, Found]]:
    """What lies in the folders of the classes, by role and class."""
    return {
        role: {name: image_files.find(folder / name) for name in _folders(folder)}
        for role, folder in roles.items()
    }


def _loose(role: Path) -> Found:
    """What lies beside the folders of the classes, and in hidden folders."""
    loose = Found()
    for each in sorted(role.iterdir()):
        hidden = each.name.startswith(".")
        if hidden and each.is_dir():
            for file in image_files.walk(each):
                image_files.add(loose, file, hidden)
        elif not each.is_dir():
            image_files.add(loose, each, hidden)
    return loose


def _unused(roles: dict[str, Path]) -> str:
    """How many images lie beside the folders of the roles, at any depth, and where."""
    folder = roles["train"].parent
    counts: Counter[str] = Counter()
    others = *roles.values(), folder, *folder.resolve().parents
    for each in sorted(folder.iterdir()):
        place = each.name if each.is_dir() else f"{folder.name} itself"
        counts[place] += image_files.count(each, others)
    return ", ".join(
        f"{count:,} image{'s' * (count > 1)} in {printable(place)}"
        for place, count in counts.items()
        if count
    )


def _faults(roles: dict[str, Path], found: dict[str, dict[str, Found]]) -> list[str]:
    """A line for each reason why the folders are no data set to train on."""
    train, test = roles["train"], roles["test"]
    faults = []
    if different := sorted({*found["train"]} ^ {*found["test"]}):
        faults.append(
            f"{train.parent}: train and {test.name} have different classes "
            f"({', '.join(different)})."
        )
    if len(found["train"]) < 2:
        faults.append(
            f"{train} holds {', '.join(found['train']) or 'no class'}: a network "
            "learns to tell two classes or more apart."
        )
    faults += [
        f"{roles[role] / name} holds no image: add some, or remove the class from "
        f"train and {test.name}."
        for role, classes in found.items()
        for name in classes
        if not classes[name].images and not classes[name].refused
    ]
    for role, classes in found.items():
        loose = _loose(roles[role])
        faults += [
            f"{file} is in no class: move it into the folder of one, or remove it."
            for file in sorted(loose.images)
        ]
        faults += loose.refused
        faults += [line for name in classes for line in classes[name].refused]
        faults += [
            f"{each} is a link to what is not there: mend it, or remove it."
            for each in sorted(roles[role].iterdir())
            if each.is_symlink() and not each.exists() and each not in loose.images
        ]
    return faults


def _folders(folder: Path) -> list[str]:
    return sorted(
        each.name
        for each in folder.iterdir()
        if each.is_dir() and not each.name.startswith(".")
    )
