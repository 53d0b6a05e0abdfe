"""The commands `kerascnn data get`, `list`, `import`, `check` and `statistics`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.markup import escape
from rich.table import Table

from kerascnn import UsageError, text
from kerascnn.data import checking, decoding
from kerascnn.data.fetching import get as fetch
from kerascnn.data.folders import SAMPLES, data_directory, prepared
from kerascnn.data.importing import import_archive
from kerascnn.data.loading import load
from kerascnn.data.moments import statistics as moments
from kerascnn.training.options import Folder, Integer

SetName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SET")]
Archive = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]


@dataclasses.dataclass
class Get:
    """Download a set and prepare it with tensorflow-datasets."""

    name: SetName
    """Its name, such as cifar10."""
    data_dir: Folder = None
    """Where to put it (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)."""

    def __call__(self) -> None:
        if self.data_dir is not None:
            text.check_place("--data-dir", self.data_dir)
        if (folder := prepared(self.name, self.data_dir)) is not None:
            print(f"{self.name} is already prepared in {folder}.")
        else:
            _report(self.name, fetch(self.name, self.data_dir))


@dataclasses.dataclass
class ListData:
    """Show which sets are on this machine."""

    data_dir: Folder = None
    """Where to look (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    json: bool = False
    """Print a JSON object: folder (of the full sets), and sets, for each: set, full and
    sample (images by split, null where it is not here), version."""

    def __call__(self) -> None:
        directory = data_directory(self.data_dir)
        samples = prepared_sets(SAMPLES)
        full = prepared_sets(directory)
        if self.json:
            sets = [
                {
                    "set": name,
                    "full": counts(full.get(name)),
                    "sample": counts(samples.get(name)),
                    "version": (full.get(name) or samples[name]).parent.name,
                }
                for name in sorted(samples | full)
            ]
            text.print_json({"folder": str(directory), "sets": sets}, indent=2)
            return
        table = Table(
            title="training + test images",
            caption=f"Full sets: {escape(str(directory))}\n"
            "Get one: kerascnn data get SET",
            caption_justify="left",
        )
        for column in ("set", "full set", "bundled sample", "version"):
            table.add_column(column, no_wrap=True)
        for name in sorted(samples | full):
            here, sample = full.get(name), samples.get(name)
            table.add_row(
                name,
                _size(here) if here else "not here",
                _size(sample) if sample else "none",
                (here or sample or Path()).parent.name,
            )
        text.console().print(table)


@dataclasses.dataclass
class Import:
    """Prepare a set from the official archive, or a folder that holds it."""

    name: SetName
    """cifar10 or fashion_mnist."""
    path: Archive
    """The archive, or the folder that torchvision, Keras or Debian keep it in."""
    data_dir: Folder = None
    """Where to put it (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)."""

    def __call__(self) -> None:
        if self.data_dir is not None:
            text.check_place("--data-dir", self.data_dir)
        if (folder := prepared(self.name, self.data_dir)) is not None:
            print(f"{self.name} is already prepared in {folder}: nothing to import.")
        else:
            _report(self.name, import_archive(self.name, self.path, self.data_dir))


@dataclasses.dataclass
class Check:
    """Find the images of a folder that can't be trained on, all at once."""

    folder: Archive
    """A folder of images, or a CSV or Parquet of paths and labels."""
    fix: Folder = None
    """Write a mended copy to this folder: images that would be turned or converted as
    they are read become PNG, and those that can't be used are left out."""

    def __call__(self) -> None:
        if line := checking.of_arrays(self.folder):
            print(line)
            return
        found = checking.check(self.folder)
        for line in (*found.faults, *found.problems):
            print(text.printable(found.relative(line)))
        if others := found.listing.passed_over:
            print(f"Passed over: {others}.")
        if found.listing.unused:
            print(f"Not used: {found.listing.unused}.")
        if doubt := found.listing.doubt:
            print(f"{doubt[0].upper()}{doubt[1:]}.")
        totals = found.totals.most_common()
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in totals)
        if found.kinds:
            print(f"{len(found.kinds):,} images can be used: {kinds}.")
            classes = [f"{name} {n:,}" for name, n in found.classes.items()]
            print(f"Classes: {text.printable(', '.join(classes))}.")
        if any(" " in kind for kind, _ in totals):
            print(f"{decoding.RULE}.")
        if len(found.sizes) > 1:
            _say_sizes(found)
        if self.fix is not None:
            copied, converted = checking.mend(found, self.fix)
            out = len(found.problems) + len(found.listing.refused)
            place = shlex.quote(os.path.join(".", self.fix))
            print(
                f"{self.fix} holds a copy: {copied:,} images as they are, "
                f"{converted:,} converted to PNG; {out:,} left out. "
                f"`kerascnn run RECIPE --dataset {place}` trains on it."
            )
        wrong = []
        faults = found.listing.faults if self.fix else found.faults
        if number := len(faults):
            wrong.append(f"the layout has {number:,} fault{'s' * (number > 1)}")
        if found.problems and not self.fix:
            wrong.append(
                f"{len(found.problems):,} of {found.images:,} images can't be used"
            )
        if wrong:
            raise UsageError(f"{' and '.join(wrong)}.")


def _say_sizes(found: checking.Findings) -> None:
    by_area = sorted(found.sizes, key=lambda size: (size[0] * size[1], size))
    (low, narrow), (high, wide) = by_area[0], by_area[-1]
    first = text.printable(found.relative(str(found.sizes[by_area[0]][0])))
    print(
        f"They have {len(found.sizes):,} sizes, from {low} by {narrow} ({first}) to "
        f"{high} by {wide}: each is cut to its centre and scaled to the one that a "
        "recipe takes, or to that of --image-size."
    )


@dataclasses.dataclass
class Statistics:
    """Compute mean and deviation of a training set's pixels, for `standard`."""

    name: SetName
    """Its name, such as cifar10, or the path of images of yours."""
    image_size: Integer = None
    """Bring the images to N x N pixels first, cut to their centre and scaled."""
    data: Literal["auto", "full", "sample"] = "auto"
    """Which images, as `kerascnn run` has it."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""

    def __post_init__(self):
        text.check_positive(self, "image_size")

    def __call__(self) -> None:
        size = (self.image_size, self.image_size) if self.image_size else None
        dataset = load(
            self.name, self.data, self.data_dir, image_size=size, exact=bool(size)
        )
        for line in (dataset.notice, dataset.brought):
            if line:
                text.say(line)
        mean, deviation = moments(dataset.train.images)
        size = f"{len(dataset.train):,} training images"
        print(f"{dataset.name}, {size}, pixels in 0..1:")
        print(f"mean {_rounded(mean)}, deviation {_rounded(deviation)}")
        print(f"transforms.standard({_rounded(mean)}, {_rounded(deviation)})")


def _rounded(values: Sequence[float]) -> str:
    """Write four digits of each, as a tuple is written in Python."""
    inside = ", ".join(f"{value:.4f}" for value in values)
    return f"({inside},)" if len(values) == 1 else f"({inside})"


def prepared_sets(directory: Path) -> dict[str, Path]:
    """The record of each set in a folder, by the set's name."""
    # A set lies in <name>/<version>, or in <name>/<configuration>/<version>.
    names = {
        "/".join(file.relative_to(directory).parts[:-2])
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for file in directory.glob(pattern)
    }
    found = {}
    for name in names:
        if name.startswith("."):
            continue
        with contextlib.suppress(UsageError):  # a folder that is none of tfds's
            found[name] = prepared(name, directory)
    return {
        name: folder / "dataset_info.json" for name, folder in found.items() if folder
    }


def counts(file: Path | None) -> dict[str, int] | None:
    """Return the images of each split; `None` where there are none or it is damaged."""
    try:
        splits = json.loads(file.read_text("utf-8"))["splits"] if file else []
        found = {s["name"]: sum(map(int, s["shardLengths"])) for s in splits}
        return found or None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _size(file: Path) -> str:
    found = counts(file)
    return " + ".join(f"{n:,}" for n in found.values()) if found else "damaged"


def _report(name: str, folder: Path) -> None:
    size = _size(folder / "dataset_info.json")
    print(f"{name} is prepared in {folder}: {size} images.")
