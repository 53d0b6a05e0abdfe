"""Read the official archives of CIFAR-10 and Fashion-MNIST, in the usual layouts.

No file of an archive is written anywhere: what is wanted is read into memory, up to the
size that the true set has.
"""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from kerascnn import UsageError
from kerascnn.data.official import Official
from kerascnn.data.pickles import cifar_batch
from kerascnn.text import expanded, one_line

Splits = dict[str, tuple[np.ndarray, np.ndarray]]

_CIFAR_BINARY = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
}
_CIFAR_PYTHON = {
    "train": [f"data_batch_{number}" for number in range(1, 6)],
    "test": ["test_batch"],
}
# The archive's folder: a tar file has its files there and nowhere else.
_CIFAR = {"cifar-10-batches-bin": _CIFAR_BINARY, "cifar-10-batches-py": _CIFAR_PYTHON}
_CIFAR_ARCHIVES = [
    "cifar-10-binary.tar.gz",
    "cifar-10-python.tar.gz",
    # What Keras 3 and Keras 2 call the latter.
    "cifar-10-batches-py-target_archive",
    "cifar-10-batches-py.tar.gz",
]

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# How deep under the given folder the files are looked for: ~/.keras/datasets/
# cifar-10-batches-py-target/cifar-10-batches-py is two below the folder of data sets.
_DEPTH = 3
# More than pickles, tar headers and class names add to the images.
_ALLOWANCE = 8 * 2**20


def read_archive(name: str, path: str | os.PathLike, official: Official) -> Splits:
    """Read a set from its official archive, or a folder of it, checked by `official`.

    For CIFAR-10 cifar-10-binary.tar.gz, cifar-10-python.tar.gz, or a folder with their
    files as torchvision and Keras keep them; for Fashion-MNIST a folder with the four
    idx files, compressed or not, as torchvision, Keras and Debian keep them. A folder
    above will do.
    """
    path = expanded(path)
    if not path.exists():
        raise UsageError(
            f"{path} does not exist: pass the archive of {official.title}, or the "
            "folder that holds it."
        )
    read = {"cifar10": _cifar, "fashion_mnist": _fashion}[name]
    try:
        splits = read(path, official)
        for split, (images, labels) in splits.items():
            official.check(split, images, labels)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as {official.title} ({one_line(error)}): it is "
            "truncated, damaged or another file; take a complete copy."
        ) from error
    return splits


def read_idx(files: dict[str, tuple[Path, Path]], official: Official) -> Splits:
    """Read Fashion-MNIST's idx files; `ValueError` for damaged ones."""
    # The format: http://yann.lecun.com/exdb/mnist
    return {
        split: (
            _idx(images, (official.counts[split], *official.shape[:2]))[..., None],
            _idx(labels, (official.counts[split],)),
        )
        for split, (images, labels) in files.items()
    }


def _cifar(path: Path, official: Official) -> Splits:
    limit = sum(official.counts.values()) * 3073 + _ALLOWANCE
    if path.is_file() and path.name not in _names(_CIFAR):
        return _cifar_arrays(dict(_tar_files(path, limit)))
    start = path if path.is_dir() else path.parent
    for folder in _folders(start):
        for wanted in _CIFAR.values():
            names = [each for split in wanted.values() for each in split]
            if any((folder / each).is_file() for each in names):
                return _cifar_arrays(
                    {
                        each: _read(folder / each, limit)
                        for each in names
                        if (folder / each).is_file()
                    }
                )
        for name in _CIFAR_ARCHIVES:
            if (folder / name).is_file():
                return _cifar_arrays(dict(_tar_files(folder / name, limit)))
    raise UsageError(
        "found neither cifar-10-binary.tar.gz nor cifar-10-python.tar.gz nor their "
        "files data_batch_1 to 5 and test_batch here: pass the archive or its folder."
    )


def _cifar_arrays(files: dict[str, bytes]) -> Splits:
    wanted, read = (
        (_CIFAR_BINARY, _cifar_binary)
        if any(name.endswith(".bin") for name in files)
        else (_CIFAR_PYTHON, cifar_batch)
    )
    missing = [each for each in _names({"": wanted}) if each not in files]
    if missing:
        raise UsageError(
            f"found no {', '.join(missing)}: take a complete copy of CIFAR-10."
        )
    splits = {}
    for split, names in wanted.items():
        images, labels = zip(*(read(files[name]) for name in names), strict=True)
        splits[split] = (np.concatenate(images), np.concatenate(labels))
    return splits


def _cifar_binary(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A label, then 1024 red, green and blue values: 3073 bytes an image."""
    if len(data) % 3073:
        raise ValueError(f"{len(data)} bytes are no whole number of images")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def _tar_files(path: Path, limit: int) -> Iterator[tuple[str, bytes]]:
    """The wanted files of a tar archive, read in one pass and never extracted."""
    with _open(path, limit) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            place = PurePosixPath(member.name)
            if place.is_absolute() or ".." in place.parts:
                raise UsageError(
                    f"the archive's member {member.name!r} points outside of it: this "
                    "is not the official file."
                )
            # tarfile would look for the next one there, block by block, for ever.
            if tar.offset > limit:
                raise UsageError(
                    f"the archive's member {member.name!r} claims {member.size:,} "
                    "bytes: this is not the official archive."
                )
            wanted = _names({"": _CIFAR.get(str(place.parent), {})})
            if place.name in wanted:
                # A sparse file of a few bytes can claim any size.
                if not member.isreg() or member.issparse() or member.size > limit:
                    raise UsageError(
                        f"the archive's member {member.name!r} is no plain file of the "
                        "official size: this is not the official archive."
                    )
                file = tar.extractfile(member)
                assert file is not None
                yield place.name, file.read()


def _fashion(path: Path, official: Official) -> Splits:
    start = path if path.is_dir() else path.parent
    complete = []
    for folder in _folders(start):
        files = {
            split: tuple(_either(folder, name) for name in names)
            for split, names in IDX_FILES.items()
        }
        found = [file for pair in files.values() for file in pair]
        if all(found):
            complete.append((folder, files))
    if not complete:
        raise UsageError(
            "the four files train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (or .gz) are not here: "
            "pass the folder that holds them."
        )
    # MNIST's files have the same names, and torchvision keeps both side by side.
    complete.sort(key=lambda each: "fashion" not in str(each[0]).lower())
    return read_idx(complete[0][1], official)


def _idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    # Two zero bytes, 8 for bytes as the type, the number of axes; then each axis.
    header = bytes([0, 0, 8, len(shape)])
    header += b"".join(size.to_bytes(4, "big") for size in shape)
    length = len(header) + int(np.prod(shape))
    data = _read(path, length)
    if len(data) < length or not data.startswith(header):
        raise ValueError(f"{path.name} does not hold {' × '.join(map(str, shape))}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


def _either(folder: Path, name: str) -> Path | None:
    names = (folder / name, folder / f"{name}.gz")
    return next((each for each in names if each.is_file()), None)


def _folders(start: Path) -> Iterator[Path]:
    """A folder and those below it, the nearest first."""
    level = [start]
    for _ in range(_DEPTH + 1):
        yield from level
        level = [
            each
            for folder in level
            if os.access(folder, os.R_OK | os.X_OK)
            for each in sorted(folder.iterdir())
            if each.is_dir() and not each.name.startswith(".")
        ]


def _names(layouts: dict[str, dict[str, list[str]]]) -> list[str]:
    return [
        name for each in layouts.values() for names in each.values() for name in names
    ]


def _read(path: Path, limit: int) -> bytes:
    with _open(path, limit) as stream:
        return stream.read()


def _open(path: Path, limit: int) -> "_Limited":
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return _Limited(gzip.open(path) if compressed else path.open("rb"), path, limit)


class _Limited(io.BufferedIOBase):
    """A stream no longer than the true file: gzip can unfold to any size."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, path: Path, limit: int):
        self._stream = stream
        self._path = path
        self._left = limit

    def close(self) -> None:
        self._stream.close()
        super().close()

    def read(self, size: int | None = -1, /) -> bytes:
        size = -1 if size is None else size
        asked = self._left + 1 if size < 0 else min(size, self._left + 1)
        data = self._stream.read(asked)
        if len(data) > self._left:
            raise UsageError(
                f"{self._path.name} unfolds to more than the official file: it is "
                "another file."
            )
        self._left -= len(data)
        return data
