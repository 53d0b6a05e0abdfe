"""Decode a prepared set once: uint8 arrays on disk, memory-mapped and hash-checked.

One folder per prepared set holds four `.npy` files and `record.json` with the SHA-256
of each. Every file is written under a temporary name, synced and renamed, the record
last, so a reader sees a whole cache or none. Two processes that fill the cache at once
write the same bytes under the same names, so neither can break the other.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerascnn.data.arrays import ARRAYS, digest, hash_of
from kerascnn.data.reading import Prepared, read

# Raised whenever the decoding or the layout of the cache changes.
_FORMAT = 1


def cache_directory(cache_dir: str | os.PathLike | None = None) -> Path:
    """The folder of decoded sets.

    Args:
        cache_dir: the folder; None means the environment variable
            `KERASCNN_CACHE_DIR`, or else the platform's folder for caches.

    Returns:
        The folder, which need not exist.
    """
    chosen = cache_dir or os.environ.get("KERASCNN_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        platform = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        platform = "~/Library/Caches"
    else:
        platform = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(platform).expanduser().absolute() / "kerascnn"


def decoded(
    folder: Path, cache_dir: str | os.PathLike | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The arrays of a prepared set, from the cache if they are there and whole.

    Args:
        folder: the prepared set.
        cache_dir: see `cache_directory`.

    Returns:
        The record (name, version, classes, hash) and the arrays named in `ARRAYS`,
        read-only.

    Raises:
        UsageError: the prepared set cannot be read.
    """
    files = _files(folder)
    key = hashlib.sha256(json.dumps([_FORMAT, str(folder), files]).encode())
    place = cache_directory(cache_dir) / f"{folder.parent.name}-{key.hexdigest()[:16]}"
    if (place / "record.json").is_file():
        found = _open(place)
        if found is not None:
            return found
        _say(f"The cache {place} is damaged: decoding {folder} again.")
    prepared = read(folder)
    try:
        _write(place, prepared)
        _remove_outdated(place, folder)
    except OSError as error:
        _say(
            f"The cache {place.parent} cannot be written ({error.strerror or error}): "
            f"{prepared.name} is decoded into memory, at every start."
        )
        return _in_memory(prepared)
    found = _open(place)
    return found if found is not None else _in_memory(prepared)


def _files(folder: Path) -> list[list]:
    """What tells one state of a prepared set from another without reading it all."""
    return [
        [each.name, status.st_size, status.st_mtime_ns]
        for each in sorted(folder.iterdir())
        if not each.name.startswith(".") and (status := each.stat())
    ]


def _open(place: Path) -> tuple[dict, dict] | None:
    try:
        record = json.loads((place / "record.json").read_text())
        arrays = {
            name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ARRAYS
        }
        whole = all(digest(arrays[name]) == record["sha256"][name] for name in ARRAYS)
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        if whole and shapes == record["shapes"]:
            return record, arrays
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(place: Path, prepared: Prepared) -> None:
    place.mkdir(parents=True, exist_ok=True)
    record = _record(prepared)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(_progress(prepared))
        for role in ("train", "test"):
            images = stack.enter_context(_Target(place / f"{role}_images.npy"))
            labels = stack.enter_context(_Target(place / f"{role}_labels.npy"))
            count = prepared.count(role)
            for chunk, chunk_labels in prepared.chunks(role):
                images.append(chunk, count)
                labels.append(chunk_labels, count)
                progress(len(chunk))
            for target in (images, labels):
                record["sha256"][target.path.stem] = target.finish()
                record["shapes"][target.path.stem] = target.shape
    record["hash"] = hash_of([record["sha256"][name] for name in ARRAYS])
    record["folder"] = str(prepared.folder)
    with _Target(place / "record.json") as target:
        target.file.write(json.dumps(record, indent=1).encode())
        target.finish()


def _in_memory(prepared: Prepared) -> tuple[dict, dict]:
    arrays = {}
    with _progress(prepared) as progress:
        for role in ("train", "test"):
            chunks = []
            for chunk in prepared.chunks(role):
                chunks.append(chunk)
                progress(len(chunk[0]))
            images, labels = zip(*chunks, strict=True)
            arrays[f"{role}_images"] = np.concatenate(images)
            arrays[f"{role}_labels"] = np.concatenate(labels)
    for array in arrays.values():
        array.flags.writeable = False
    record = _record(prepared)
    record["hash"] = hash_of([digest(arrays[name]) for name in ARRAYS])
    return record, arrays


def _record(prepared: Prepared) -> dict[str, Any]:
    return {
        "name": prepared.name,
        "version": prepared.version,
        "classes": prepared.classes,
        "sha256": {},
        "shapes": {},
    }


class _Target:
    """A file that appears under its name only when it is whole and on the disk."""

    def __init__(self, path: Path):
        self.path = path
        self.shape: list[int] = []
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> "_Target":
        descriptor, self._temporary = tempfile.mkstemp(
            prefix=f".{self.path.name}.", dir=self.path.parent
        )
        self.file = os.fdopen(descriptor, "wb")
        return self

    def append(self, rows: np.ndarray, count: int) -> None:
        """Add rows to a .npy array that will have `count` of them."""
        if not self.shape:
            self.shape = [count, *rows.shape[1:]]
            np.lib.format.write_array_header_1_0(
                self.file,
                {
                    "descr": np.lib.format.dtype_to_descr(rows.dtype),
                    "fortran_order": False,
                    "shape": tuple(self.shape),
                },
            )
        data = np.ascontiguousarray(rows).data
        self.file.write(data)
        self._sha256.update(data)

    def finish(self) -> str:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self._temporary, self.path)
        return self._sha256.hexdigest()

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)


def _remove_outdated(place: Path, folder: Path) -> None:
    """Remove what was decoded from an earlier state of the same folder."""
    for other in place.parent.glob(f"{folder.parent.name}-*"):
        if other == place:
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((other / "record.json").read_text())
            if record["folder"] == str(folder):
                shutil.rmtree(other)


@contextlib.contextmanager
def _progress(prepared: Prepared) -> Iterator[Any]:
    """A progress bar on the terminal, none elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(
            f"Decoding {prepared.name}, once",
            total=prepared.count("train") + prepared.count("test"),
        )
        yield lambda count: bar.advance(task, count)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
