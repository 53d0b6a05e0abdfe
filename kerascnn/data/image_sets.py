"""A user's own images as a set: a folder, a table of paths, or a file of arrays."""

from __future__ import annotations

import concurrent.futures
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from kerascnn import UsageError
from kerascnn.data import array_files, image_files, image_folders, tables
from kerascnn.data.array_files import ArrayFile
from kerascnn.data.decoding import RESIZING, Form, all_brought, decode, is_grey
from kerascnn.data.folders import check_folder
from kerascnn.data.listing import Listing, divided, place
from kerascnn.text import expanded, printable

_CHUNK = 64
# Of names without a slash, those that end so are paths too.
ENDINGS = (*tables.ENDINGS, array_files.ENDING)


def opened(path: str | os.PathLike, skip_bad: bool = False) -> ImageFiles | ArrayFile:
    """Open a folder of images, a table of paths and labels, or an .npz file.

    With `skip_bad` files that can't be used are left out instead of refused.

    Raises:
        UsageError: The path leads to none, or to one that can't be trained on.
    """
    path = check(path)
    if path.suffix.lower() == array_files.ENDING and path.is_file():
        return ArrayFile(path)
    return ImageFiles(path, skip_bad)


def check(path: str | os.PathLike) -> Path:
    """Return the absolute path of a set's folder or file, if there is one."""
    path = expanded(path).absolute()
    if not (path.suffix.lower() in ENDINGS and path.is_file()):
        check_folder(path)
    return path


def listed(path: Path) -> Listing:
    """List the image files of a folder or a table."""
    if path.suffix.lower() in tables.ENDINGS and path.is_file():
        return tables.listed({path: None})
    check_folder(path)
    return image_folders.listed(path)


class ImageFiles:
    """A set of image files, in a folder or listed by a table."""

    def __init__(self, path: Path, skip_bad: bool = False):
        self.folder, self.skip_bad = path, skip_bad
        self.changed: Counter[str] = Counter()
        self.name = path.name if path.is_dir() else path.stem
        self.version = "folder" if path.is_dir() else path.suffix.lower()[1:]
        self._found = listed(path)
        # First: without the files that they name, classes may be missing too.
        refused = [] if skip_bad else self._found.refused
        if faults := [*refused, *self._found.faults]:
            more = (
                f" `kerascnn data check {self.folder}` lists {len(faults) - 1:,} more."
                if len(faults) > 1
                else ""
            )
            raise UsageError(faults[0] + more)
        self.classes = self._found.classes
        self.held_out = "content" if self._found.by_content else False

    @property
    def number(self) -> int:
        """How many images are listed."""
        return sum(map(len, self._found.files.values()))

    @property
    def unused(self) -> str:
        """How many images are neither trained nor tested on, and where."""
        return self._found.unused

    @property
    def passed_over(self) -> str:
        """How many files that are no images the folders of the classes hold."""
        return self._found.passed_over

    @property
    def doubt(self) -> str:
        """Why the classes may be meant otherwise."""
        return self._found.doubt

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
        files = self._usable if self.skip_bad else self._found.files
        if self._found.by_content:
            every = files["train"]
            # Pillow lets other threads run while it decodes.
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                places = [*pool.map(self._place, (file for file, _ in every))]
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
    def skipped(self) -> list[str]:
        """A line for each file that is left out."""
        if not self.skip_bad:
            return []
        files = [file for every in self._found.files.values() for file, _ in every]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            wrong = dict(zip(files, pool.map(_wrong, files), strict=True))
        self._bad = {file for file, line in wrong.items() if line}
        return [*self._found.refused, *filter(None, wrong.values())]

    @property
    def _usable(self) -> dict[str, list[tuple[Path, int]]]:
        """The listed files without those that can't be used."""
        skipped = self.skipped
        files = {
            role: [each for each in every if each[0] not in self._bad]
            for role, every in self._found.files.items()
        }
        for role, every in files.items():
            least = 2 if self._found.by_content else 1
            counts = Counter(label for _, label in every)
            for _, label in self._found.files[role]:
                if counts[label] < least:
                    raise UsageError(
                        f"{self.folder}: without the files that can't be used "
                        f"{counts[label] or 'no'} {role} image of "
                        f"{printable(self.classes[label])} is left: {skipped[0]}"
                    )
        return files

    @cached_property
    def grey(self) -> bool:
        """Whether all images are grey, and so have one channel."""
        return all(is_grey(file) for files in self.roles.values() for file, _ in files)

    def count(self, role: str) -> int:
        """How many images "train" or "test" holds."""
        return len(self.roles[role])

    def chunks(self, role: str, form: Form) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield a role's images, grey where all are, and labels, some at a time."""
        files, shape = self.roles[role], None
        form = replace(form, channels=form.channels or (1 if self.grey else 3))
        for start in range(0, len(files), _CHUNK):
            images = []
            for file, _ in files[start : start + _CHUNK]:
                (image,) = all_brought([self._decoded(file)], form, self.changed)
                shape = shape or image.shape
                if image.shape != shape:
                    raise UsageError(
                        f"{file} is {image.shape[0]} pixels high and {image.shape[1]} "
                        f"wide, and others are {shape[0]} and {shape[1]}: bring "
                        "them to one, or take a recipe whose transform begins with "
                        f"{RESIZING}."
                    )
                images.append(image)
            labels = [label for _, label in files[start : start + _CHUNK]]
            yield np.stack(images), np.array(labels, np.int32)

    def _decoded(self, file: Path) -> np.ndarray:
        try:
            return decode(file)
        except UsageError as error:
            raise UsageError(
                f"{error} `kerascnn data check {self.folder}` lists all such images."
            ) from error

    def _place(self, file: Path) -> float:
        # Of the pixels: what is written beside them, and how, may change.
        return place(self._decoded(file).tobytes())


def _wrong(file: Path) -> str:
    try:
        decode(file)
    except UsageError as error:
        return str(error)
    return ""
