"""Image sets that are one .npz file of arrays: `x_train`, `y_train` and their kind."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kerascnn import UsageError
from kerascnn.data.decoding import Form, all_brought, over_white
from kerascnn.data.listing import TESTS, TRAINS, divided, ordered, place
from kerascnn.text import one_line, printable

ENDING = ".npz"
_IMAGES = ("x", "images", "image", "data")
_LABELS = ("y", "labels", "label", "targets", "target")
_NAMES = ("class_names", "classes", "label_names", "names")
_CHANNELS = (1, 3, 4)
_CHUNK = 256


class ArrayFile:
    """A set in an .npz file, as `numpy.savez` writes it.

    Images are `(n, height, width)` or `(n, height, width, channels)`, 1 or 3 channels,
    or 4 with transparency, which may also come first: uint8; whole numbers or floats
    from 0 to 255; floats from 0 to 1; uint16. Labels are `(n,)` numbers or words, or
    `(n, classes)` with a 1 at the class.

    Raises:
        UsageError: The file can't be read or holds something else.
    """

    version = "npz"

    def __init__(self, file: Path):
        self.folder = file
        self.name = file.stem
        self.unused = self.passed_over = self.doubt = ""
        self.changed: Counter[str] = Counter()
        try:
            with np.load(file, allow_pickle=False) as arrays:
                found = {str(name): arrays[name] for name in arrays.files}
        # NumPy and zipfile raise what they like on damaged bytes.
        except Exception as error:
            raise UsageError(
                f"{file} can't be read as arrays ({one_line(error, most=200)})."
            ) from error
        self._sort(found)

    def _sort(self, arrays: dict[str, np.ndarray]) -> None:
        """Find out which array is what."""
        keys = {name.strip().lower(): name for name in arrays}
        train = next((p for s in (*TRAINS, "") if (p := _pair(keys, s))), None)
        tests = {s: p for s in TESTS if (p := _pair(keys, s))}
        if train is None:
            there = ", ".join(
                f"{printable(name)} {array.shape}" for name, array in arrays.items()
            )
            raise UsageError(
                f"{self.folder} has no images and labels to train on: expected x_train "
                f"and y_train, x_test and y_test, and found {there or 'nothing'}."
            )
        pairs = {"train": train}
        if tests:
            first, *rest = tests
            pairs["test"] = tests[first]
            self.unused = ", ".join(
                f"{len(arrays[tests[s][0]]):,} images of {s}" for s in rest
            )
        self._images = {r: self._checked(arrays, p[0]) for r, p in pairs.items()}
        labels = {r: self._words(arrays[p[1]], p[1]) for r, p in pairs.items()}
        for role, (images, words) in pairs.items():
            if len(self._images[role]) != len(labels[role]):
                raise UsageError(
                    f"{self.folder} has {len(self._images[role]):,} {images} and "
                    f"{len(labels[role]):,} {words}: expected as many."
                )
        self._name_classes(arrays, keys, labels)
        self.held_out = "content" if not tests else False
        if not tests:
            self._divide()

    def _name_classes(
        self,
        arrays: dict[str, np.ndarray],
        keys: dict[str, str],
        labels: dict[str, np.ndarray],
    ) -> None:
        values = ordered(labels["train"].tolist())
        if len(values) < 2:
            raise UsageError(
                f"{self.folder} has the class {''.join(values)} alone: a network "
                "learns to tell two classes or more apart."
            )
        if other := sorted({*labels.get("test", np.array([])).tolist()} - {*values}):
            raise UsageError(
                f"{self.folder} has test images of {printable(other[0])} and no "
                "training images."
            )
        number = {value: n for n, value in enumerate(values)}
        self._labels = {
            role: np.array([number[word] for word in words.tolist()], np.int32)
            for role, words in labels.items()
        }
        self.classes = values
        given = next((arrays[keys[n]] for n in _NAMES if n in keys), None)
        whole = all(v.isdecimal() and v.isascii() for v in values)
        if given is not None and given.ndim == 1 and given.dtype.kind in "US" and whole:
            names = [_text(name) for name in given.tolist()]
            if max(map(int, values)) < len(names) and len({*names}) == len(names):
                self.classes = tuple(names[int(v)] for v in values)

    def _divide(self) -> None:
        images, labels = self._images["train"], self._labels["train"]
        places = [
            place(image.tobytes())
            for start in range(0, len(images), _CHUNK)
            for image in self._uint8(images[start : start + _CHUNK])
        ]
        chosen = np.array(divided(places, labels.tolist()), bool)
        for role, here in (("test", chosen), ("train", ~chosen)):
            self._images[role], self._labels[role] = images[here], labels[here]
        if lone := set(labels.tolist()) - set(self._labels["test"].tolist()):
            name = printable(self.classes[min(lone)])
            raise UsageError(
                f"{self.folder} has one image of {name}: two or more are needed, "
                "because one is tested on."
            )

    @property
    def number(self) -> int:
        """How many images there are."""
        return sum(map(len, self._labels.values()))

    def count(self, role: str) -> int:
        """How many images "train" or "test" holds."""
        return len(self._labels[role])

    def files(self) -> list[Path]:
        """The files that the set lies in."""
        return [self.folder]

    def chunks(self, role: str, form: Form) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield a role's images, grey where all are, and labels, some at a time."""
        grey = all(images.shape[3] == 1 for images in self._images.values())
        form = replace(form, channels=form.channels or (1 if grey else 3))
        images, labels = self._images[role], self._labels[role]
        for start in range(0, len(images), _CHUNK):
            found = self._uint8(images[start : start + _CHUNK])
            found = np.stack(all_brought(found, form, self.changed))
            yield found, labels[start : start + _CHUNK]

    def _checked(self, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
        """Return images as `(n, height, width, channels)` of their own type."""
        images = arrays[name]
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim == 4 and images.shape[3] not in _CHANNELS:
            first = images.shape[1] in _CHANNELS
            images = np.moveaxis(images, 1, 3) if first else images
        kind = images.dtype.kind
        if images.ndim != 4 or images.shape[3] not in _CHANNELS or not images.size:
            wrong = f"shape {arrays[name].shape}: expected (n, height, width) or (n, "
            wrong += "height, width, channels) with 1, 3 or 4 channels, n 1 or more"
        elif kind not in "buif":
            wrong = f"dtype {images.dtype}: expected numbers"
        else:
            low, high = float(images.min()), float(images.max())
            if images.dtype == "uint16" or (low >= 0 and high <= 255):
                return images
            wrong = f"pixels from {low:.4g} to {high:.4g}: expected 0 to 255, or 0 to 1"
        raise UsageError(f"{self.folder}: {printable(name)} has {wrong}.")

    def _uint8(self, images: np.ndarray) -> np.ndarray:
        """Return images as uint8; what a pixel means follows from all of them."""
        if images.dtype != "uint8" or self._scale != 1:
            scaled = images.astype("float64") * self._scale
            # Of 16 bits the upper 8, as of image files.
            images = np.floor(scaled) if self._scale < 1 else np.rint(scaled)
        if images.shape[3] == 4:
            images = over_white(images)
        return np.ascontiguousarray(images.astype("uint8"))

    @functools.cached_property
    def _scale(self) -> float:
        every = self._images.values()
        high = max(float(images.max()) for images in every)
        if all(images.dtype.kind in "bf" for images in every) and high <= 1:
            return 255
        deep = any(images.dtype == "uint16" for images in every)
        return 1 / 256 if deep and high > 255 else 1

    def _words(self, labels: np.ndarray, name: str) -> np.ndarray:
        """Return labels as an array of texts."""
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim == 2 and labels.shape[1] and labels.dtype.kind in "buif":
            hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()
            labels = labels.argmax(1) if hot else labels
        kind = labels.dtype.kind
        if labels.ndim == 1 and kind == "f" and np.isfinite(labels).all():
            whole = labels == np.rint(labels)
            if whole.all() and (abs(labels) < 2**53).all():
                labels, kind = labels.astype("int64"), "i"
        if labels.ndim != 1 or kind not in "buiUS":
            raise UsageError(
                f"{self.folder}: {printable(name)} has dtype {labels.dtype} and shape "
                f"{labels.shape}: expected whole numbers or words, one for each image."
            )
        if kind == "b":
            labels = labels.astype("int8")
        texts = [_text(each) for each in labels.tolist()]
        return np.array(texts, object)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _pair(keys: dict[str, str], split: str) -> tuple[str, str] | None:
    """Return the names of a split's images and labels; "" is of no split."""
    found = []
    for words in (_IMAGES, _LABELS):
        forms = ("{0}_{1}", "{1}_{0}", "{0}{1}", "{1}{0}") if split else ("{0}",)
        names = (form.format(word, split) for word in words for form in forms)
        name = next((keys[name] for name in names if name in keys), None)
        if name is None:
            return None
        found.append(name)
    return found[0], found[1]
