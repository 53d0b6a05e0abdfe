"""Image files as arrays that a model takes."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerascnn import UsageError
from kerascnn.data import image_files
from kerascnn.data.decoding import Form, brought, decode
from kerascnn.text import expanded

CHUNK = 256


@dataclass(frozen=True, eq=False)
class Picture:
    """A file and its image, uint8 `(height, width, channels)`, or why there is none."""

    file: Path
    image: np.ndarray | None = None
    scaled: bool = False
    wrong: str = ""


def find(places: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Return the image files that places are, or hold in folders, in order.

    A line comes with them for each file of a folder that is an image and can't be used.

    Raises:
        UsageError: A place does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    refused: list[str] = []
    for place in map(expanded, places):
        if not place.exists():
            raise UsageError(f"there is no {place}: name an image or a folder of them.")
        if not place.is_dir():
            found.append(place)
            continue
        inside = image_files.find(place)
        if not inside.images and not inside.refused:
            raise UsageError(f"{place} holds no image.")
        found += inside.images
        refused += inside.refused
    return found, refused


def read(
    files: Iterable[Path], shape: tuple[int | None, int | None, int]
) -> Iterator[list[Picture]]:
    """Decode files, some at a time, into images of a shape.

    Args:
        files: The files.
        shape: Height, width and channels that the model takes. An image of another size
            is cut to its centre and scaled, as a set of images of several sizes is.
            `None` where any size will do.

    Yields:
        Up to `CHUNK` pictures, in the files' order.
    """
    # Pillow lets other threads run while it decodes.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = iter(files)
        while chunk := list(itertools.islice(waiting, CHUNK)):
            yield list(pool.map(lambda file: picture(file, shape), chunk))


def picture(
    file: Path,
    shape: tuple[int | None, int | None, int],
) -> Picture:
    """Decode one file."""
    try:
        image = decode(file)
    except UsageError as error:
        return Picture(file, wrong=str(error))
    *size, channels = shape
    height, width = size
    if height is None or width is None:
        return Picture(file, brought(image, Form(None, channels)))
    scaled = image.shape[:2] != (height, width)
    return Picture(file, brought(image, Form((height, width), channels)), scaled)


def of_one_size(pictures: Iterable[Picture]) -> list[list[Picture]]:
    """Sort images that were read by their size, for models that take any."""
    groups: dict[tuple[int, ...], list[Picture]] = {}
    for picture in pictures:
        if picture.image is not None:
            groups.setdefault(picture.image.shape, []).append(picture)
    return list(groups.values())
