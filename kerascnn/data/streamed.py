"""Images that are decoded when they are asked for: a set that memory does not hold."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kerascnn import UsageError
from kerascnn.data.arrays import Split
from kerascnn.data.decoding import AS_THEY_ARE, RESIZING, Form, brought, decode
from kerascnn.data.reading import Prepared, Records, read
from kerascnn.text import say

# Examples of which only the labels are read at once.
_AT_ONCE = 1024


class Source(Protocol):
    """Examples that can be read in any order, by their places.

    Processes that decode are each given a copy, so that a source holds no open file
    when it is pickled.
    """

    def read(self, places: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
        """Decode images, uint8 `(height, width, channels)`, and their labels, int32."""
        ...

    def labels(self, places: np.ndarray) -> np.ndarray:
        """Return labels, int32 `(n,)`, without decoding an image."""
        ...


class StreamedImages:
    """The images of a split that stand for an array, and are decoded when indexed.

    Args:
        source: What decodes them.
        places: Their places in the source, whole numbers `(n,)`.
        shape: The shape of one, `(height, width, channels)`.
    """

    dtype = np.dtype("uint8")
    ndim = 4

    def __init__(self, source: Source, places: np.ndarray, shape: tuple[int, int, int]):
        self.source, self.places = source, places
        self.shape = (len(places), *shape)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def size(self) -> int:
        """How many numbers all images hold."""
        return int(np.prod(self.shape, dtype="int64"))

    @property
    def nbytes(self) -> int:
        """Bytes that all images would take, decoded."""
        return self.size

    def __getitem__(self, chosen: Any) -> np.ndarray:
        """Decode some images, as an array's index says: uint8."""
        places = self.places[chosen]
        images, _ = self.read(np.atleast_1d(places))
        return images if np.ndim(places) else images[0]

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode the images at places of the source, and return their labels too."""
        images, labels = self.source.read(places.tolist())
        for image in images:
            if image.shape != self.shape[1:]:
                raise UsageError(
                    f"an image is of shape {image.shape}, and others of "
                    f"{self.shape[1:]}: pass --image-size, or take a recipe whose "
                    f"transform begins with {RESIZING}."
                )
        if not images:
            return np.empty((0, *self.shape[1:]), "uint8"), labels
        return np.stack(images), labels

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise UsageError(
            f"{len(self):,} images are read as a stream, and something asks for all "
            "of them at once: leave it out, or make the set smaller, with --limit."
        )


class StreamedSplit(Split):
    """A split whose images are decoded when they are asked for.

    Its labels, int32 `(n,)`, are read when they are first asked for: of a set that
    tensorflow-datasets has prepared that takes a pass over its files.
    """

    images: StreamedImages  # type: ignore[assignment]

    def __init__(self, images: StreamedImages):
        object.__setattr__(self, "images", images)

    @property
    def knows_labels(self) -> bool:
        """Whether the labels are there without a pass over the files."""
        return "labels" in vars(self) or isinstance(self.images.source, FileSource)

    @functools.cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        """The labels of all images."""
        found = self.images.source.labels(self.images.places)
        found.flags.writeable = False
        return found

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        return {"images": self.images}

    def batch(self, chosen: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        return self.images.read(self.images.places[chosen])

    def part(self, chosen: np.ndarray | slice) -> StreamedSplit:
        images = self.images
        places = images.places[chosen]
        return StreamedSplit(StreamedImages(images.source, places, images.shape[1:]))


class FileSource:
    """Image files, of which not one is open between two readings."""

    def __init__(
        self, files: Iterable[Path], labels: Iterable[int], form: Form, check: str
    ):
        # A million paths as objects of Python would take half a gigabyte a process.
        names = [str(file).encode("utf-8", "surrogateescape") for file in files]
        self._names = b"".join(names)
        self._ends = np.cumsum([len(name) for name in names], dtype="int64")
        self._labels = np.array(list(labels), "int32")
        self._form, self._check = form, check

    def __len__(self) -> int:
        return len(self._ends)

    def file(self, place: int) -> Path:
        """Return the path of the file at a place."""
        start = self._ends[place - 1] if place else 0
        name = self._names[start : self._ends[place]]
        return Path(name.decode("utf-8", "surrogateescape"))

    def read(self, places: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
        images = []
        for place in places:
            try:
                images.append(brought(decode(self.file(place)), self._form))
            except UsageError as error:
                raise UsageError(
                    f"{error} `kerascnn data check {self._check}` lists all such "
                    "images."
                ) from error
        return images, self._labels[list(places)]

    def labels(self, places: np.ndarray) -> np.ndarray:
        return self._labels[places]


class PreparedSource:
    """A split that tensorflow-datasets has prepared as ArrayRecord."""

    def __init__(self, prepared: Prepared, role: str, form: Form):
        self._folder, self._role, self._form = prepared.folder, role, form
        self._name = prepared.name
        self._records: Records | None = prepared.open_records(role)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_records": None}

    @property
    def _opened(self) -> Records:
        if self._records is None:
            self._records = read(self._folder).open_records(self._role)
        return self._records

    def read(self, places: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
        images, labels = self._opened.read(places)
        if self._form != AS_THEY_ARE:
            images = [brought(image, self._form) for image in images]
        return images, labels

    def labels(self, places: np.ndarray) -> np.ndarray:
        say(f"Reading the labels of {len(places):,} images of {self._name}.")
        parts = [
            self._opened.labels(places[start : start + _AT_ONCE].tolist())
            for start in range(0, len(places), _AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty(0, "int32")


def identity(words: Iterable[object]) -> str:
    """Return the SHA-256, hexadecimal, of what tells a set's files from others."""
    digest = hashlib.sha256()
    for word in words:
        digest.update(f"{word}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
