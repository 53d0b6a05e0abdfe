"""The commands `kerascnn predict` and `kerascnn evaluate`."""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from kerascnn import UsageError, text
from kerascnn.prediction import shipped
from kerascnn.process import prepare
from kerascnn.runs import Run
from kerascnn.training.options import Folder

if TYPE_CHECKING:
    from kerascnn.prediction.evaluation import Figures
    from kerascnn.prediction.files import Picture
    from kerascnn.prediction.predictor import Predictor

PIPED = "standard input"  # what a message calls an image that has no name
Where = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Images = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="IMAGE|FOLDER|-", help_behavior_hint=""),
]
Number = Annotated[int, tyro.conf.arg(metavar="N")]
Set = Annotated[str | None, tyro.conf.arg(metavar="SET", help_behavior_hint="")]


@dataclasses.dataclass
class Predict:
    """Name the likeliest classes of images, as a run's model sees them.

    Images of another size are cut to their centre and scaled. A file that can't be read
    is named and passed over, and the exit code is then 1.
    """

    run: Where
    """The run's folder, or the name of a network that comes with the package."""
    images: Images
    """Image files, folders of them, or - for one image on standard input."""
    top: Number = 3
    """Classes to name for each image."""
    invert: bool = False
    """Turn bright into dark and dark into bright first."""
    views: bool = False
    """Take the mean logits of six views: moved by a pixel, and mirrored."""
    explain: Folder = None
    """Write a picture for each image to this folder: where the network finds the class
    (Grad-CAM)."""
    json: bool = False
    """Print JSON, with all classes."""
    csv: bool = False
    """Print comma-separated values, with all classes."""

    def __post_init__(self):
        text.check_positive(self, "top")
        if not self.images:
            raise UsageError("expected images: `kerascnn predict RUN IMAGE...`.")
        if self.json and self.csv:
            raise UsageError("--json and --csv: print one of the two.")

    def __call__(self) -> None:
        run = shipped.run(self.run)
        with tempfile.TemporaryDirectory() as folder:
            piped = Path(folder) / PIPED
            if Path("-") in self.images:
                piped.write_bytes(sys.stdin.buffer.read())
            places = [piped if str(p) == "-" else p for p in self.images]
            failed = self.predict(run, places)
        if failed:
            text.warn(f"{failed:,} image{'s' * (failed > 1)} could not be used.")
            raise SystemExit(1)

    def predict(self, run: Run, places: list[Path]) -> int:
        """Print what is predicted; return how many images could not be used."""
        from kerascnn.prediction import files

        found, refused = files.find(places)
        for line in refused:
            text.warn(line)
        prepare.prepare_process()
        from kerascnn.prediction.predictor import Predictor

        predictor = Predictor(run)
        printer = _PRINTERS["json" if self.json else "csv" if self.csv else "table"]
        printed, scaled = printer(predictor.classes, self.top), 0
        failed = len(refused)
        for pictures in files.read(found, predictor.shape):
            failed += sum(picture.image is None for picture in pictures)
            scaled += sum(picture.scaled for picture in pictures)
            for picture in pictures:
                if picture.image is None:
                    text.warn(picture.wrong)
            for group in files.of_one_size(pictures):
                self.predict_some(predictor, group, printed)
        printed.close()
        if scaled:
            height, width, _ = predictor.shape
            text.say(
                f"{scaled:,} image{'s' * (scaled > 1)} of another size: cut to the "
                f"centre and scaled to {height} x {width} pixels."
            )
        if printed.unlike and not self.invert:
            text.warn(
                f"{printed.unlike:,} image{'s' * (printed.unlike > 1)} unlike those "
                "that the network was trained on: do not rely on what it says of them"
                + "; --invert turns bright into dark" * printed.inverted
                + "."
            )
        return failed

    def predict_some(
        self, predictor: Predictor, group: list[Picture], printed: Printer
    ) -> None:
        """Print what is predicted of images of one size."""
        images = np.stack([picture.image for picture in group])  # type: ignore[misc]
        images = 255 - images if self.invert else images
        found = predictor.probabilities(images, self.views)
        unlike = predictor.unlike(images)
        strange = [i for i, said in enumerate(unlike) if said]
        printed.unlike += len(strange)
        inverted = predictor.unlike(255 - images[strange])
        printed.inverted |= not all(inverted)
        for picture, row, said in zip(group, found, unlike, strict=True):
            name = "-" if picture.file.name == PIPED else str(picture.file)
            printed.add(name, row, said)
        if self.explain is not None:
            classes = found.argmax(-1)
            drawn = predictor.explained(images, classes)
            for picture, image, best in zip(group, drawn, classes, strict=True):
                _save(self.explain, picture.file, predictor.classes[best], image)


def _save(folder: Path, file: Path, name: str, image: np.ndarray) -> None:
    from PIL import Image

    folder = text.expanded(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        safe = "".join(letter if letter.isalnum() else "-" for letter in name)
        number, path = 1, folder / f"{file.stem}-{safe}.png"
        while path.exists():  # of another folder, or of an earlier time
            number += 1
            path = folder / f"{file.stem}-{safe}-{number}.png"
        Image.fromarray(image).save(path)
    except OSError as error:
        raise UsageError(f"--explain {folder}: {error.strerror or error}.") from error


class Printer:
    """What prints predictions, one image after the other."""

    def __init__(self, classes: tuple[str, ...], top: int):
        self.classes = classes
        self.top = min(top, len(classes))
        self.unlike = 0
        self.inverted = False  # whether --invert makes one of them usual

    def add(self, file: str, probabilities: np.ndarray, unlike: list[str]) -> None:
        """Print an image's, or keep it for the end."""

    def close(self) -> None:
        """Print what is left."""


class _Csv(Printer):
    def __init__(self, classes: tuple[str, ...], top: int):
        super().__init__(classes, top)
        self.writer = csv.writer(sys.stdout, lineterminator="\n")
        self.writer.writerow(["file", "class", "probability", "unlike", *classes])

    def add(self, file: str, probabilities: np.ndarray, unlike: list[str]) -> None:
        best = int(probabilities.argmax())
        first = [file, self.classes[best], f"{probabilities[best]:.6f}"]
        shares = [f"{p:.6f}" for p in probabilities]
        self.writer.writerow([*first, "; ".join(unlike), *shares])


class _Json(Printer):
    def __init__(self, classes: tuple[str, ...], top: int):
        super().__init__(classes, top)
        self.rows: list[dict[str, Any]] = []

    def add(self, file: str, probabilities: np.ndarray, unlike: list[str]) -> None:
        best = int(probabilities.argmax())
        shares = dict(zip(self.classes, probabilities.tolist(), strict=True))
        row = {"file": file, "class": self.classes[best], "unlike": unlike}
        self.rows.append(row | {"probabilities": shares})

    def close(self) -> None:
        text.print_json(self.rows, indent=2)


class _Table(Printer):
    def __init__(self, classes: tuple[str, ...], top: int):
        super().__init__(classes, top)
        self.rows: list[list[str]] = []

    def add(self, file: str, probabilities: np.ndarray, unlike: list[str]) -> None:
        order = np.argsort(-probabilities, kind="stable")[: self.top]
        likely = [f"{self.classes[i]} {probabilities[i]:.1%}" for i in order]
        self.rows.append([text.printable(file), *likely, ", ".join(unlike)])

    def close(self) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        if not self.rows:
            return
        heads = ["image", *("likely", "then")[: self.top]]
        heads += [""] * (self.top - 2) + ["unlike the training images"]
        if not any(row[-1] for row in self.rows):
            heads.pop()
            self.rows = [row[:-1] for row in self.rows]
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        text.console().print(table)


_PRINTERS = {"table": _Table, "csv": _Csv, "json": _Json}


@dataclasses.dataclass
class Evaluate:
    """Measure a run's model: on the images of its own run, or on another set's."""

    run: Where
    """The run's folder, or the name of a network that comes with the package."""
    dataset: Set = None
    """A set of tensorflow-datasets, or images of yours, as `kerascnn run` takes them,
    whose classes are the run's: its test images (default: those that the run was
    evaluated on)."""
    data: Literal["auto", "full", "sample"] = "auto"
    """Which images of --dataset, as `kerascnn run` has it."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""
    views: bool = False
    """Take the mean logits of six views: moved by a pixel, and mirrored."""
    json: bool = False
    """Print JSON instead of tables."""

    def __post_init__(self):
        for option, given in (
            ("data", self.data != "auto"),
            ("data-dir", self.data_dir),
        ):
            if given and self.dataset is None:
                raise UsageError(f"--{option} is for --dataset SET: give the set too.")

    def __call__(self) -> None:
        run = shipped.run(self.run)
        prepare.prepare_process()
        from kerascnn.prediction import evaluation
        from kerascnn.prediction.predictor import Predictor

        found = evaluation.evaluate(
            Predictor(run), self.dataset, self.data, self.data_dir, self.views
        )
        if self.json:
            text.print_json(_record(found), indent=2)
        else:
            _show(found)


def _record(found: Figures) -> dict[str, Any]:
    entropy = found.crossentropy
    return {
        "dataset": found.name,
        "images": len(found.outcome),
        "accuracy": found.accuracy,
        "interval": list(found.interval),
        "crossentropy": entropy if math.isfinite(entropy) else None,
        "calibration_error": found.error,
        "classes": {
            each.name: {
                "right": each.right,
                "images": each.images,
                "interval": [each.low, each.high],
            }
            for each in found.classes
        },
    }


def _show(found: Figures) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    low, high = found.interval
    print(
        f"{found.name}, {len(found.outcome):,} images: {found.accuracy:.2%} right "
        f"(95 %: {low:.2%} to {high:.2%})"
    )
    print(f"crossentropy {found.crossentropy:.4f}, calibration error {found.error:.2%}")
    names = found.outcome.classes
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class")
    for head in ("right", "of", "share", "95 %"):
        table.add_column(head, justify="right", no_wrap=True)
    for each in found.classes:
        if each.images:
            share, between = (
                f"{each.accuracy:.1%}",
                f"{each.low:.1%} to {each.high:.1%}",
            )
            cells = str(each.right), str(each.images), share, between
            table.add_row(Text(each.name), *cells)
    text.console().print(table)
    for pair in found.pairs[:3]:
        print(
            f"{pair.count} of {pair.of} images of {names[pair.truth]} are taken for "
            f"{names[pair.predicted]}."
        )
