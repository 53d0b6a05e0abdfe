"""A user's own images as a set: a folder, a table of paths, or a file of arrays."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kerascnn import UsageError
from kerascnn.data import array_files, image_files, image_folders, tables
from kerascnn.data.array_files import ArrayFile
from kerascnn.data.decoding import RESIZING, decode, fitted, is_grey
from kerascnn.data.folders import check_folder
from kerascnn.data.listing import Listing, divided, place
from kerascnn.text import expanded

_CHUNK = 64
# Of names without a slash, those that end so are paths too.
ENDINGS = (*tables.ENDINGS, array_files.ENDING)


def opened(path: str | os.PathLike) -> ImageFiles | ArrayFile:
    """Open a folder of images, a table of paths and labels, or an .npz file.

    Raises:
        UsageError: The path leads to none, or to one that can't be trained on.
    """
    path = expanded(path).absolute()
    if path.suffix.lower() == array_files.ENDING and path.is_file():
        return ArrayFile(path)
    return ImageFiles(path)


def listed(path: Path) -> Listing:
    """List the image files of a folder or a table."""
    if path.suffix.lower() in tables.ENDINGS and path.is_file():
        return tables.listed({path: None})
    check_folder(path)
    return image_folders.listed(path)


class ImageFiles:
    """A set of image files, in a folder or listed by a table."""

    def __init__(self, path: Path):
        self.folder = path
        self.name = path.name if path.is_dir() else path.stem
        self.version = "folder" if path.is_dir() else path.suffix.lower()[1:]
        self._found = listed(path)
        if faults := [*self._found.faults, *self._found.refused]:
            more = (
                f" `kerascnn data check {self.folder}` lists {len(faults) - 1:,} more."
                if len(faults) > 1
                else ""
            )
            raise UsageError(faults[0] + more)
        self.classes = self._found.classes
        self.held_out = "content" if self._found.by_content else False

    @property
    def unused(self) -> str:
        """How many images are neither trained nor tested on, and where."""
        return self._found.unused

    def files(self) -> Iterator[Path]:
        """The files whose change is a change of the set."""
        if self.folder.is_dir():
            yield from image_files.walk(self.folder)
        else:
            yield self.folder
        for files in self._found.files.values():
            yield from (f for f, _ in files if not f.is_relative_to(self.folder))

    @cached_property
    def roles(self) -> dict[str, list[tuple[Path, int]]]:
        """The images of "train" and "test" with their labels, in one mixed order."""
        files = self._found.files
        if self._found.by_content:
            every = files["train"]
            places = [place(_content(file)) for file, _ in every]
            chosen = divided(places, [label for _, label in every])
            files = {
                role: [e for e, c in zip(every, chosen, strict=True) if c == test]
                for role, test in (("train", False), ("test", True))
            }
        mixed = {}
        for role, every in files.items():
            # By class, the first thousand images would all be of the first.
            order = np.random.default_rng(0).permutation(len(every))
            mixed[role] = [every[i] for i in order]
        return mixed

    @cached_property
    def grey(self) -> bool:
        """Whether all images are grey, and so have one channel."""
        return all(is_grey(file) for files in self.roles.values() for file, _ in files)

    def count(self, role: str) -> int:
        """How many images "train" or "test" holds."""
        return len(self.roles[role])

    def chunks(
        self, role: str, image_size: tuple[int, int] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield a role's images, grey where all are, and labels, some at a time."""
        files, shape = self.roles[role], None
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


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes() if file.is_file() else b""  # `decode` refuses others
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.") from error


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
        unused: how many images are neither trained nor tested on, and where.
    """

    faults: list[str]
    problems: list[str]
    images: int
    sizes: dict[tuple[int, int], list[Path]]
    others: Counter[str]
    unused: str


def check(path: str | os.PathLike) -> Findings:
    """Decode every image of a folder or a table and collect all that is wrong."""
    listing = listed(expanded(path).absolute())
    faults = [*listing.faults, *listing.refused]
    found = Findings(faults, [], 0, {}, listing.others, listing.unused)
    for file in (file for files in listing.files.values() for file, _ in files):
        found.images += 1
        try:
            height, width = decode(file).shape[:2]
            found.sizes.setdefault((height, width), []).append(file)
        except UsageError as error:
            found.problems.append(str(error))
    return found
