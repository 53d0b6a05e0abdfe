"""Checkpoints: arrays and JSON in a folder that is there whole, or not at all.

    RUN/checkpoints/00003-0000117/
        arrays.safetensors     weights, optimiser, seed generators, metrics so far
        manifest.json          all else, and the SHA-256 of every file

The numbers are those of the epoch, counted from 0, and of its steps that are done. A
checkpoint is written under a temporary name, synced and renamed, so a process may be
killed at any moment; only then is the oldest removed. Where a part of the training set
is held out, the checkpoint that did best on it stays.
Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - tells NumPy the names of bfloat16 and its kin
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from kerascnn import UsageError
from kerascnn.process import memory
from kerascnn.runs import evaluated

FOLDER = "checkpoints"
KEPT = 2
# Raised whenever an older program could misread what a newer one writes; older ones are
# read.
_FORMAT = 2
_PARTIAL = ".partial-"


class DamagedError(ValueError):
    """A checkpoint is not what was written."""


# What reading JSON and arrays that nobody wrote may raise.
_UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, RecursionError),
    SafetensorError,
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was read from a checkpoint: arrays by name, and all else as JSON values."""

    folder: Path
    arrays: dict[str, np.ndarray]
    manifest: dict[str, Any]

    @property
    def epoch(self) -> int:
        """The epoch to go on with, counted from 0."""
        return self.manifest["epoch"]

    @property
    def step(self) -> int:
        """The number of steps of that epoch that are done."""
        return self.manifest["step"]

    def group(self, name: str) -> list[np.ndarray]:
        """Return the arrays of one group (`"model"`), in the order they had."""
        keys = [key for key in sorted(self.arrays) if key.partition("/")[0] == name]
        return [self.arrays[key] for key in keys]


def write(
    run: Path, arrays: Mapping[str, np.ndarray], manifest: dict[str, Any]
) -> Path:
    """Write a checkpoint, then remove all but the last `KEPT` and the best.

    There is a best one, by validation loss, where the manifest says `validation`. An
    OSError leaves the checkpoints written before intact.
    """
    parent = run / FOLDER
    _make(parent)
    name = f"{manifest['epoch']:05}-{manifest['step']:07}"
    partial = parent / f"{_PARTIAL}{name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        stored, types = _storable(arrays)
        content = safetensors.numpy.save(stored)
        _write_synced(partial / "arrays.safetensors", content)
        manifest = manifest | {
            "format": _FORMAT,
            "types": types,
            "files": {"arrays.safetensors": hashlib.sha256(content).hexdigest()},
        }
        _write_synced(partial / "manifest.json", _sealed(manifest))
        _sync_folder(partial)
        final = parent / name
        old = parent / f"{_PARTIAL}old-{name}"
        if final.exists():  # damaged, and replayed since
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)  # at once, where removing it takes its time
        partial.rename(final)
        _sync_folder(parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    folders = numbered(run)
    best = _best(folders, manifest)
    for old in folders[:-KEPT]:
        if old != best:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _make(parent: Path) -> None:
    if not parent.exists():
        parent.mkdir(exist_ok=True)
        _sync_folder(parent.parent)


def _best(folders: list[Path], manifest: dict[str, Any]) -> Path | None:
    """Choose the checkpoint after the epoch with the lowest validation loss."""
    if not manifest.get("validation"):
        return None
    losses = {
        f"{record['epoch']:05}-{0:07}": evaluated(record, "loss")
        for record in manifest["history"]
        if evaluated(record, "loss") is not None
    }
    ends = [folder for folder in folders if folder.name in losses]
    return min(ends, key=lambda folder: losses[folder.name], default=None)


def keep_last(run: Path) -> None:
    """Remove all checkpoints of a finished run but the newest and the best."""
    # `kerascnn resume` writes a lost result or model from the newest. Where it can't be
    # read, all stay.
    folders = numbered(run)
    try:
        best = _best(folders, read(folders[-1]).manifest)
    except (LookupError, DamagedError, UsageError):
        return
    for old in folders[:-1]:
        if old != best:
            shutil.rmtree(old, ignore_errors=True)


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint and check every byte of it.

    Raises `DamagedError` where it is not what was written, `UsageError` where it can't
    be read now or is of an unknown format: it may be good, and must not be passed over.
    """
    try:
        manifest = _unsealed((folder / "manifest.json").read_bytes())
        written = manifest["format"]
        if type(written) is not int or written < 1:
            raise DamagedError(f"its format is {written!r:.40}")
        if written > _FORMAT:
            raise UsageError(
                f"the checkpoint {folder} has format {written}, and this version of "
                f"kerascnn {_FORMAT}: go on with the one that wrote it."
            )
        content = (folder / "arrays.safetensors").read_bytes()
        expected = manifest["files"]["arrays.safetensors"]
        if hashlib.sha256(content).hexdigest() != expected:
            raise DamagedError("arrays.safetensors is not what was written")
        for name in ("epoch", "step"):
            if type(manifest[name]) is not int or manifest[name] < 0:
                raise DamagedError(f"its {name} is {manifest[name]!r:.40}")
        stored = safetensors.numpy.load(content)
        arrays = {
            name: array.view(manifest["types"].get(name, array.dtype))
            for name, array in stored.items()
        }
    except (DamagedError, UsageError):
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedError(str(error.strerror)) from error
    except OSError as error:
        raise UsageError(
            f"the checkpoint {folder} can't be read ({error.strerror or error}): try "
            "again when it can, or remove it to go on from the one before."
        ) from error
    except _UNREADABLE as error:
        raise DamagedError(" ".join(str(error).split())[:200]) from error
    return Checkpoint(folder, arrays, manifest)


def newest(run: Path, say: Callable[[str], None] = print) -> Checkpoint | None:
    """Read a run's newest whole checkpoint; None if it has none."""
    folders = numbered(run)
    for folder in reversed(folders):
        try:
            return read(folder)
        except DamagedError as error:
            rest = "" if folder == folders[0] else ": taking the one before"
            say(f"The checkpoint {folder} is damaged ({error}){rest}.")
    if folders:
        raise UsageError(
            f"all checkpoints in {run / FOLDER} are damaged: start the run anew, with "
            "another --out."
        )
    return None


def numbered(run: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, the oldest first."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folders = (run / FOLDER).iterdir()
        named = (p for p in folders if re.fullmatch(r"\d{5,}-\d{7,}", p.name))
        return sorted(named, key=_place)
    return []


def _place(folder: Path) -> tuple[int, ...]:
    """Return epoch and step of a checkpoint, by which they follow each other."""
    return tuple(map(int, folder.name.split("-")))


def remove_after(run: Path, start: Path | None) -> None:
    """Remove the checkpoints after `start`, or all, and what a killed process left."""
    # For a run that goes on from that one: it will come by their steps again.
    for folder in numbered(run):
        if start is None or _place(folder) > _place(start):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in (run / FOLDER).glob(f"{_PARTIAL}*"):
        shutil.rmtree(folder, ignore_errors=True)


class Writer:
    """Write checkpoints behind the training's back: one at a time, in a thread."""

    # The folder for checkpoints is made at once: where it is missing later, someone has
    # taken it away.

    def __init__(self, run: Path):
        self.run = run
        self.seconds = 0.0
        self.last: Path | None = None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        _make(run / FOLDER)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def start(
        self,
        arrays: Callable[[], Mapping[str, np.ndarray]],
        manifest: dict[str, Any],
    ) -> None:
        """Begin to write a checkpoint; the thread calls `arrays`."""
        # Raises `UsageError` where the one before could not be written.
        self.wait()

        def work() -> None:
            start = time.perf_counter()
            try:
                self.last = write(self.run, arrays(), manifest)
            except Exception as error:  # raised in the training's own thread
                self._error = error
            memory.trim()
            self.seconds = time.perf_counter() - start

        self._thread = threading.Thread(target=work, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when what was begun is on the disk; `UsageError` where it is not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise `UsageError` if a checkpoint could not be written."""
        if self._error is None:
            return
        error, self._error = self._error, None
        if not isinstance(error, OSError):
            raise error
        kept = numbered(self.run)
        there = f"the last, {kept[-1].name}, is whole" if kept else "there is none yet"
        raise UsageError(
            f"a checkpoint can't be written to {self.run / FOLDER} "
            f"({error.strerror or error}); {there}. Make room, then go on with "
            f"`{to_go_on(self.run)}`."
        ) from error


def to_go_on(run: Path) -> str:
    """Return the command that goes on with a run, as it can be pasted into a shell."""
    return f"kerascnn resume {shlex.quote(str(run))}"


def _storable(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return arrays of NumPy's own types, and the names of the types of the others."""
    stored, types = {}, {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        if array.dtype.kind == "V":
            types[name] = array.dtype.name
            array = array.view(f"uint{8 * array.dtype.itemsize}")
        stored[name] = array
    return stored, types


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


def _sealed(manifest: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(_dump(manifest)).hexdigest()
    return _dump(manifest | {"manifest_sha256": digest})


def _unsealed(content: bytes) -> dict[str, Any]:
    manifest = json.loads(content)
    # The same values can be written in several ways: the bytes must be ours too.
    whole = content == _dump(manifest)
    digest = manifest.pop("manifest_sha256")
    if not whole or hashlib.sha256(_dump(manifest)).hexdigest() != digest:
        raise DamagedError("manifest.json is not what was written")
    return manifest


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
