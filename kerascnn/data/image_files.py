"""Which files below a folder are images: all that a person would call so."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kerascnn import text

# Formats that Pillow decodes whole.
ENDINGS = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".jfi", ".jfif", ".jif"),
    *(".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pcx", ".pgm", ".png"),
    *(".pnm", ".ppm", ".qoi", ".ras", ".tga", ".tif", ".tiff", ".webp"),
    *(".xbm", ".xpm"),
)
# Formats that Pillow can't decode, or decodes in part: cameras' raw files (it opens
# their preview), drawings, icons of several sizes, JPEG 2000 with more than 8 bits.
_NOT_READ = (
    *(".arw", ".cr2", ".cr3", ".cur", ".dng", ".eps"),
    *(".icns", ".ico", ".j2c", ".j2k", ".jp2", ".jpc", ".jpf"),
    *(".jpx", ".jxl", ".jxr", ".nef", ".orf", ".pef", ".psd", ".raf"),
    *(".rw2", ".sgi", ".srw", ".svg", ".svgz"),
)
# What phones write, read with a package of its own.
_HEIC = (".heic", ".heif", ".hif")
HEIC_TAKES = f"reading it takes {text.install('heic')}"
# Formats whose first bytes tell them from everything else.
_TOLD_BY_CONTENT = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


@dataclass
class Found:
    """What lies below a folder: images, reasons against others, counts by ending."""

    images: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def find(folder: Path) -> Found:
    """Find the images in a folder and in the folders inside it."""
    found = Found()
    for file in walk(folder, frozenset(map(_identity, folder.resolve().parents))):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        add(found, file, hidden)
    found.images.sort()
    return found


def add(found: Found, file: Path, hidden: bool) -> None:
    """Add one file to what was found."""
    ending = file.suffix.lower()
    if not hidden and (ending in ENDINGS or (ending in _HEIC and reads_heic())):
        found.images.append(file)
    elif not hidden and ending in _HEIC:
        found.refused.append(
            f"{file} is a HEIC image: {HEIC_TAKES}, or save it as JPEG."
        )
    elif not hidden and ending in _NOT_READ:
        found.refused.append(
            f"{file} is of a kind that can't be read here ({ending}): save it as PNG "
            "or JPEG, or remove it."
        )
    elif _holds_image(file):
        wrong = (
            "an image that is hidden, or lies in a hidden folder: move it to where no "
            "name begins with a dot"
            if hidden
            else "an image by its content, and its name ends otherwise: rename it"
        )
        found.refused.append(f"{file} is {wrong}, or remove it.")
    elif not hidden:
        found.others[ending or "without ending"] += 1


def reads_heic() -> bool:
    """Whether the package that reads HEIC is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def count(place: Path, without: Iterable[Path]) -> int:
    """Count the files that are images by their names, read here or not.

    Args:
        place: a file, or a folder to look through.
        without: folders to leave out, also where links lead to them.
    """
    above = frozenset(map(_identity, without))
    files = walk(place, above) if place.is_dir() else [place]
    return sum(file.suffix.lower() in (*ENDINGS, *_HEIC, *_NOT_READ) for file in files)


def walk(
    folder: Path, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[Path]:
    """Yield the path of every file below a folder; no link that leads up."""
    here = _identity(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            # A link to itself makes `entry.is_dir` raise, and `isdir` return False.
            linked = entry.is_symlink() and os.path.isdir(entry.path)
            if linked or entry.is_dir(follow_symlinks=False):
                yield from walk(folder / entry.name, above | {here})
            else:
                yield folder / entry.name


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def quiet_pillow() -> None:
    """Keep off the screen what Pillow logs of damaged files."""
    logging.getLogger("PIL").addHandler(_NOWHERE)


_NOWHERE = logging.NullHandler()


def _holds_image(file: Path) -> bool:
    """Whether Pillow takes a file's first bytes for an image's."""
    from PIL import Image

    if not file.is_file():  # a pipe would be waited for
        return False
    quiet_pillow()
    Image.init()
    known = [name for name in _TOLD_BY_CONTENT if name in Image.OPEN]
    # Pillow's readers raise what they like on other bytes.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file, formats=known):
            return True
    return False
