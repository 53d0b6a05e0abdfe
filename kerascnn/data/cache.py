"""Decode a prepared set once: uint8 arrays on disk, memory-mapped and hash-checked.

One folder per prepared set holds four `.npy` files and `record.json` with the SHA-256
of each. Every file is written under a temporary name, synced and renamed, the record
last, so a reader sees a whole cache or none. Two processes that fill the cache at once
write the same bytes under the same names, so neither can break the other.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from kerascnn import UsageError
from kerascnn.data import image_files
from kerascnn.data.array_files import ArrayFile
from kerascnn.data.arrays import ARRAYS, digest, hash_of
from kerascnn.data.decoding import AS_THEY_ARE, Form
from kerascnn.data.folders import is_prepared
from kerascnn.data.image_sets import ImageFiles
from kerascnn.data.reading import Prepared, read
from kerascnn.process.caches import cache_directory
from kerascnn.text import one_line, warn

# Raised whenever the decoding or the layout of the cache changes.
_FORMAT = 3


def decoded(
    folder: Path,
    cache_dir: str | os.PathLike | None = None,
    form: Form = AS_THEY_ARE,
    own: ImageFiles | ArrayFile | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a set's record and `ARRAYS`, from the cache if they are whole.

    `folder` is one that tensorflow-datasets has prepared, or `own.folder`.
    """
    state = _state(folder, form, own)
    place = cache_directory(cache_dir) / f"{_title(folder)}-{state}"
    try:
        return _open(place)
    except (FileNotFoundError, NotADirectoryError):
        pass  # nothing is cached
    # NumPy has Python parse an array's header, and that raises what it likes.
    except Exception as error:
        warn(f"The cache {place} is damaged ({one_line(error)}): decoding again.")
    prepared = own or read(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        _write(place, prepared, form)
        _remove_outdated(place, folder, form)
        return _open(place)
    except OSError as error:
        warn(
            f"The cache {place.parent} cannot be written ({error.strerror or error}): "
            f"{prepared.name} is decoded into memory, at every start."
        )
        return _in_memory(prepared, form)
    finally:
        with contextlib.suppress(OSError):
            place.rmdir()  # if it is empty, after an error


def _title(folder: Path) -> str:
    return folder.parent.name if is_prepared(folder) else folder.name


def _state(
    folder: Path,
    form: Form,
    own: ImageFiles | ArrayFile | None,
) -> str:
    """A name for the state of a set: it changes whenever a file does."""
    try:
        files = [
            [os.path.relpath(each, folder), *_stamp(status)]
            for each in sorted(own.files() if own else folder.iterdir())
            if not each.name.startswith(".") and (status := each.stat())
        ]
    except OSError as error:
        place = error.filename or folder
        raise UsageError(f"{place} cannot be read: {error.strerror}.") from error
    state = json.dumps([_FORMAT, str(folder), files, *_named(form), *_left_out(own)])
    return hashlib.sha256(state.encode()).hexdigest()[:16]


def _named(form: Form) -> list[Any]:
    """A form as a cache records it: by its size alone where nothing else is asked."""
    more = [form.channels, form.exact] if form.channels or form.exact else []
    return [*(form.size or ()), *more]


def _left_out(own: ImageFiles | ArrayFile | None) -> list[Any]:
    """What decides which files are left out, and which are test images."""
    found: list[Any] = []
    if isinstance(own, ImageFiles) and own.skip_bad:
        found += ["skip_bad", image_files.reads_heic()]
    if own and own.held_out == "content":
        found += ["by pixels"]
    return found


def _stamp(status: os.stat_result) -> list[int]:
    # The time of the last write can be set (`touch -r`, `cp -p`); that of the last
    # change and the number of the file can't.
    times = [status.st_mtime_ns, status.st_ctime_ns]
    return [status.st_size, *times, status.st_ino]


def _open(place: Path) -> tuple[dict, dict]:
    record = json.loads((place / "record.json").read_text())
    if record.pop("checksum") != _checksum(record):
        raise ValueError("record.json is not what was written")
    arrays = {}
    for name in ARRAYS:
        file = place / f"{name}.npy"
        mapped = functools.partial(np.load, file, mmap_mode="r", allow_pickle=False)
        arrays[name] = mapped()
        # Read through another map: what has been read counts as the process's memory.
        if (
            list(arrays[name].shape) != record["shapes"][name]
            or digest(mapped()) != record["sha256"][name]
        ):
            raise ValueError(f"{file.name} is not what was written")
    return record, arrays


def _write(
    place: Path,
    prepared: Prepared | ImageFiles | ArrayFile,
    form: Form,
) -> None:
    """Decode a set into the cache; an array's file is written as it is decoded."""
    record = _record(prepared)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(_progress(prepared))
        files = {
            name: stack.enter_context(_File(place / f"{name}.npy")) for name in ARRAYS
        }
        for role in ("train", "test"):
            images, labels = files[f"{role}_images"], files[f"{role}_labels"]
            count = prepared.count(role)
            for chunk, chunk_labels in prepared.chunks(role, form):
                images.append(chunk, count)
                labels.append(chunk_labels, count)
                progress(len(chunk))
        for name, file in files.items():
            record["sha256"][name] = file.digest.hexdigest()
            record["shapes"][name] = file.shape
        record["hash"] = hash_of([record["sha256"][name] for name in ARRAYS])
        record["folder"] = str(prepared.folder)
        record["form"] = _named(form)
        record["changed"] = dict(prepared.changed)
        record["checksum"] = _checksum(record)
        last = stack.enter_context(_File(place / "record.json"))
        last.write(json.dumps(record, indent=1).encode())
        for file in (*files.values(), last):
            file.publish()


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _in_memory(
    prepared: Prepared | ImageFiles | ArrayFile, form: Form
) -> tuple[dict, dict]:
    arrays = {}
    with _progress(prepared) as progress:
        for role in ("train", "test"):
            chunks = []
            for chunk in prepared.chunks(role, form):
                chunks.append(chunk)
                progress(len(chunk[0]))
            images, labels = zip(*chunks, strict=True)
            arrays[f"{role}_images"] = np.concatenate(images)
            arrays[f"{role}_labels"] = np.concatenate(labels)
    for array in arrays.values():
        array.flags.writeable = False
    record = _record(prepared)
    record["hash"] = hash_of([digest(arrays[name]) for name in ARRAYS])
    record["changed"] = dict(prepared.changed)
    return record, arrays


def _record(prepared: Prepared | ImageFiles | ArrayFile) -> dict[str, Any]:
    return {
        "name": prepared.name,
        "version": prepared.version,
        "classes": prepared.classes,
        "held_out": prepared.held_out,
        "skipped": getattr(prepared, "skipped", []),
        "sha256": {},
        "shapes": {},
    }


class _File:
    """A file that appears under its name once it is whole and on the disk."""

    def __init__(self, path: Path):
        # Not by tempfile, whose files nobody else may read: a class shares a cache.
        self._temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        self._file = self._temporary.open("xb")
        self._path = path
        self.shape: list[int] = []
        self.digest = hashlib.sha256()

    def __enter__(self) -> "_File":
        return self

    def append(self, rows: np.ndarray, count: int) -> None:
        """Add rows to a .npy array that will have `count` of them."""
        if not self.shape:
            self.shape = [count, *rows.shape[1:]]
            header = {
                "descr": np.lib.format.dtype_to_descr(rows.dtype),
                "fortran_order": False,
                "shape": tuple(self.shape),
            }
            np.lib.format.write_array_header_1_0(self._file, header)
        content = np.ascontiguousarray(rows).data
        self.digest.update(content)
        self.write(content)

    def write(self, content: bytes | memoryview) -> None:
        self._file.write(content)

    def publish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path)

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()


def _remove_outdated(place: Path, folder: Path, form: Form) -> None:
    """Remove what earlier states of the folder, and killed processes, have left."""
    for part in place.glob(".*"):
        with contextlib.suppress(OSError):
            if part.stat().st_mtime < time.time() - 3600:
                part.unlink()
    for other in place.parent.glob(f"{_title(folder)}-*"):
        if other == place:
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((other / "record.json").read_text())
            same = record.get("form", record.get("image_size") or []) == _named(form)
            if same and record["folder"] == str(folder):
                shutil.rmtree(other)


@contextlib.contextmanager
def _progress(prepared: Prepared | ImageFiles | ArrayFile) -> Iterator[Any]:
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
