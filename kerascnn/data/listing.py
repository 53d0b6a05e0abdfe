"""Which image files make up a set, of which classes, and which are test images."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kerascnn.text import printable

# The usual names of splits, in small letters. Of several to test on, the first is.
TRAINS = ("train", "training")
TESTS = ("test", "testing", "validation", "valid", "val", "eval", "dev")
ROLES = "train/CLASS/ and test/CLASS/"
# Where nothing says which images are test images, this share of them is.
TEST_SHARE = 0.2
SHARE_WORDS = "about a fifth"


@dataclass
class Listing:
    """The image files of a set, or why they are none.

    Args:
        classes: Their names, in the order of the labels.
        files: Of "train" and "test" the files and their labels. Where `by_content`,
            all are in "train".
        by_content: Whether nothing says which are test images, and `divided` does.
        faults: A line for each fault of the layout.
        refused: A line for each file that would be an image and can't be used.
        others: How many files are passed over, by the endings of names.
        unused: How many images are neither trained nor tested on, and where they lie.
        doubt: Why the classes may be meant otherwise.
    """

    classes: tuple[str, ...]
    files: dict[str, list[tuple[Path, int]]]
    by_content: bool = False
    faults: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    unused: str = ""
    doubt: str = ""

    @property
    def passed_over(self) -> str:
        """How many files are passed over of each ending, in words."""
        counts = (f"{n:,} {kind}" for kind, n in sorted(self.others.items()))
        return printable(", ".join(counts))


def split_name(name: str) -> str:
    """Return a split's name as `TRAINS` and `TESTS` have it, of `Train_set` `train`."""
    return re.sub(r"[ _-]*(set|data|images?|imgs?)$", "", name.strip().lower())


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of classes in order: numbers by value, words by letter."""
    found = set(names)
    try:
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(found))


def place(content: bytes) -> float:
    """Return where in 0..1 the SHA-256 of an image's pixels falls."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8]) / 2**64


def divided(places: list[float], labels: list[int]) -> list[bool]:
    """Say which images are test images, from their pixels alone.

    Those of `place` below `TEST_SHARE` are: an image that is added or removed moves no
    other, and the same image twice is on one side, however it is written. Of a class
    where that leaves one side empty, the lowest is a test image, or the highest a
    training image.
    """
    chosen = [p < TEST_SHARE for p in places]
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    for each in members.values():
        each.sort(key=places.__getitem__)
        if len(each) > 1:
            chosen[each[0]], chosen[each[-1]] = True, False
    return chosen
