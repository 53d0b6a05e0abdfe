"""All that is wrong with a set of image files at once, and a mended copy of it."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kerascnn import UsageError
from kerascnn.data import array_files, image_files
from kerascnn.data.decoding import decoded
from kerascnn.data.image_sets import listed
from kerascnn.data.listing import Listing
from kerascnn.text import expanded


@dataclass
class Findings:
    """What `check` has found.

    Args:
        path: the folder or table, absolute.
        listing: what lies in it.
        problems: a line for each image that can't be decoded.
        images: how many images lie in classes, with those that can't be decoded.
        kinds: of each image that can be decoded its kind, such as "PNG with
            transparency".
        sizes: those that can, by size (height, width).
    """

    path: Path
    listing: Listing
    problems: list[str] = field(default_factory=list)
    images: int = 0
    kinds: dict[Path, str] = field(default_factory=dict)
    sizes: dict[tuple[int, int], list[Path]] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """A line for each fault of the layout, and each image that would not count."""
        return [*self.listing.faults, *self.listing.refused]

    @property
    def totals(self) -> Counter[str]:
        """How many images there are of each kind."""
        return Counter(self.kinds.values())

    @property
    def classes(self) -> dict[str, int]:
        """How many images that can be used each class has."""
        files = [each for role in self.listing.files.values() for each in role]
        numbers = Counter(label for file, label in files if file in self.kinds)
        return {name: numbers[i] for i, name in enumerate(self.listing.classes)}

    def relative(self, words: str) -> str:
        """Write paths in a text as they are seen from the folder."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return words.replace(f"{folder}{os.sep}", "")


def of_arrays(path: str | os.PathLike) -> str:
    """Check a set of arrays; return a line on it, or nothing if the path is no such.

    Raises:
        UsageError: The file can't be read or holds something else.
    """
    path = expanded(path)
    if path.suffix.lower() != array_files.ENDING or not path.is_file():
        return ""
    array_files.ArrayFile(path)  # which says what is wrong with it
    return f"{path} holds arrays, and nothing is wrong with them."


def check(path: str | os.PathLike) -> Findings:
    """Decode every image of a folder or a table and collect all that is wrong.

    Raises:
        UsageError: There is no set of image files.
    """
    path = expanded(path).absolute()
    found = Findings(path, listed(path))
    for file, (size, kind) in _looked_at(found.listing):
        found.images += 1
        if size is None:
            found.problems.append(kind)
        else:
            found.kinds[file] = kind
            found.sizes.setdefault(size, []).append(file)
    return found


def _looked_at(
    listing: Listing,
) -> Iterator[tuple[Path, tuple[tuple[int, int] | None, str]]]:
    """Yield each file with its image's size and kind, or `None` and what is wrong."""

    def look(file: Path) -> tuple[tuple[int, int] | None, str]:
        try:
            image, kind = decoded(file)
            return (image.shape[0], image.shape[1]), kind
        except UsageError as error:
            return None, str(error)

    files = [file for every in listing.files.values() for file, _ in every]
    # Pillow lets other threads run while it decodes.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from zip(files, pool.map(look, files), strict=True)


def mend(found: Findings, target: Path) -> tuple[int, int]:
    """Write a copy of a checked set in which every image can be trained on.

    Plain images are copied, those that are turned or converted as they are read are
    written as PNG, and those that can't be used are left out. Each class has a folder,
    in a folder of its split where there are splits; where there are none, the copy has
    the same test images, because their pixels choose them.

    Returns:
        How many were copied, and how many converted.

    Raises:
        UsageError: The folder holds files, lies in the set, or can't be written.
    """
    target = expanded(target).absolute()
    if target.resolve().is_relative_to(found.path.resolve()):
        raise UsageError(
            f"{target} lies in the set itself: name another folder for the copy."
        )
    copied = converted = 0
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise UsageError(
                f"{target} already holds files: name a new folder for the copy."
            )
        for role, files in found.listing.files.items():
            for file, label in files:
                if file not in found.kinds:
                    continue
                name = _folder_name(found.listing.classes[label], label)
                place = target if found.listing.by_content else target / role
                if _copied(file, place / name, found.kinds[file]):
                    copied += 1
                else:
                    converted += 1
    except OSError as error:
        raise UsageError(
            f"{target} can't be written: {error.strerror or error}."
        ) from error
    return copied, converted


def _copied(file: Path, folder: Path, kind: str) -> bool:
    """Copy an image, or write what it is decoded to; return which of the two."""
    from PIL import Image

    # A table may name a file that a folder's reader would pass over.
    plain = kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
    plain = plain and file.suffix.lower() in image_files.ENDINGS
    stem = file.stem.lstrip(".") or "image"
    folder.mkdir(parents=True, exist_ok=True)
    ending, number = (file.suffix.lower() if plain else ".png"), 1
    path = folder / f"{stem}{ending}"
    while path.exists():  # of another folder inside the class's
        number += 1
        path = folder / f"{stem}-{number}{ending}"
    if plain:
        shutil.copyfile(file, path)
    else:
        Image.fromarray(decoded(file)[0]).save(path)
    return plain


def _folder_name(name: str, label: int) -> str:
    """Return a class's name as a folder's."""
    safe = "".join(c if c.isprintable() and c not in "/\\" else "-" for c in name)
    return safe.strip() if safe.strip(". ") and safe[0] != "." else f"class {label}"
