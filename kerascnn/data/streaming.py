"""Opening a set to be read as a stream: image files, or what tfds has prepared."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kerascnn import UsageError
from kerascnn.data.array_files import ArrayFile
from kerascnn.data.arrays import DataSet, Split
from kerascnn.data.decoding import AS_THEY_ARE, Form
from kerascnn.data.image_sets import ImageFiles
from kerascnn.data.reading import read
from kerascnn.data.streamed import (
    FileSource,
    PreparedSource,
    Source,
    StreamedImages,
    StreamedSplit,
    identity,
)


def files(own: ImageFiles, form: Form) -> DataSet:
    """Open a user's own image files as a stream."""
    skipped = own.skipped
    form = replace(form, channels=form.channels or (1 if own.grey else 3))
    splits, told = [], []
    for role in ("train", "test"):
        listed = own.roles[role]
        source = FileSource(
            [file for file, _ in listed],
            [label for _, label in listed],
            form,
            str(own.folder),
        )
        splits.append(_split(source, np.arange(len(listed), dtype="int32"), form))
        told += [(role, *_told(file, own.folder), label) for file, label in listed]
    return DataSet(
        name=own.name,
        classes=own.classes,
        train=splits[0],
        test=splits[1],
        sample=False,
        source=str(own.folder),
        version=own.version,
        hash=identity([form, *own.classes, *told]),
        skipped=len(skipped),
        brought=_brought(form),
    )


def prepared(folder: Path, form: Form) -> DataSet:
    """Open a set that tensorflow-datasets has prepared as a stream."""
    found = read(folder)
    of_one_size = None not in found.builder.info.features["image"].shape
    if of_one_size and not form.exact:
        form = AS_THEY_ARE
    splits = []
    for role in ("train", "test"):
        places = found.places(role)
        if not len(places):
            raise UsageError(f"{folder}: the split {found.splits[role]} is empty.")
        splits.append(_split(PreparedSource(found, role, form), places, form))
    told = [_told(file, folder) for file in sorted(folder.iterdir()) if file.is_file()]
    notice = None
    if found.held_out:
        notice = held_out(found.name, found.version, *splits)
    return DataSet(
        name=found.name,
        classes=found.classes,
        train=splits[0],
        test=splits[1],
        sample=False,
        source=str(folder),
        version=found.version,
        hash=identity([form, *found.classes, *told]),
        notice=notice,
        brought=_brought(form),
    )


def held_out(name: str, version: str, train: Split, test: Split) -> str:
    """Say of a set without test images which serve as such."""
    return (
        f"{name} {version} has training images alone: every tenth is held out to test "
        f"on, {len(test):,} of them; {len(train):,} are left to train on."
    )


def extent(
    folder: Path, form: Form, own: ImageFiles | ArrayFile | None
) -> tuple[int, tuple[int, int, int]]:
    """Return how many images a set has, and the shape of one; 0 of what is not known.

    Of a set of tensorflow-datasets without importing the package, which takes a second.
    """
    height, width = form.size or (0, 0)
    if own:
        return own.number, (height, width, form.channels or 3)
    # What is damaged is refused where it is read.
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        info = json.loads((folder / "dataset_info.json").read_text("utf-8"))
        number = sum(
            int(length) for split in info["splits"] for length in split["shardLengths"]
        )
        features = json.loads((folder / "features.json").read_text("utf-8"))
        image: Any = features["featuresDict"]["features"]["image"]["image"]
        shape = tuple(int(n) for n in image["shape"]["dimensions"])
        if min(shape[:2]) < 1 or form.exact:
            shape = height, width, form.channels or max(shape[2], 1)
        return number, shape  # type: ignore[return-value]
    return 0, (0, 0, 0)


def _split(source: Source, places: np.ndarray, form: Form) -> StreamedSplit:
    """Return a split of a source, whose images are as the first one is."""
    (first,), _ = source.read(places[:1].tolist())
    height, width, channels = first.shape
    return StreamedSplit(StreamedImages(source, places, (height, width, channels)))


def _told(file: Path, folder: Path) -> tuple[str, int]:
    """Return what tells a file from others, without reading it: its name and size."""
    return os.path.relpath(file, folder), file.stat().st_size


def _brought(form: Form) -> str | None:
    if form.size is None:
        return None
    height, width = form.size
    return (
        f"Images are cut to their centre and scaled to {height} x {width} pixels as "
        "they are read."
    )
