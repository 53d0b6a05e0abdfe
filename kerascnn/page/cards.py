"""The command `kerascnn cookbook add`: a run's record, and its best pictures, kept."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Annotated, Any

import tyro

from kerascnn import UsageError
from kerascnn.process import prepare
from kerascnn.report import cookbook, records
from kerascnn.runs import Run
from kerascnn.text import warn

# Dots an inch: a card is read on a screen, and the cookbook keeps many.
_DOTS = 80


@dataclasses.dataclass
class Add:
    """Take finished runs into the cookbook, and render it.

    The first run of a recipe leaves its curve and pictures on the recipe's card.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")
    ]
    """The runs' folders. If one can't be taken in, none is."""

    def __call__(self) -> None:
        if not self.runs:
            raise UsageError("expected runs: `kerascnn cookbook add RUN...`.")
        prepare.prepare_process()
        taken: list[tuple[Run, dict[str, Any]]] = []
        for run in map(Run, self.runs):
            record = cookbook.record_of(run)
            if record in [
                *records.read(f"{record['recipe']}/runs"),
                *(r for _, r in taken),
            ]:
                raise UsageError(f"{run.folder} is in the cookbook already.")
            taken.append((run, record))
        for run, record in taken:
            folder = records.FOLDER / record["recipe"]
            records.add(f"{folder.name}/runs", record)
            known = records.read(f"{folder.name}/runs")
            known = records.counted(known, record["fingerprint"])
            if record == known[0]:
                shutil.copyfile(run.folder / "curve.png", folder / "curve.png")
                _draw(run, folder)
            accuracy = cookbook.run_row(record)[1]
            print(f"{folder.name}, seed {record['seed']}: {accuracy}")
        cookbook.Cookbook()()


def _draw(run: Run, folder: Path) -> None:
    """Draw a card's pictures of a run; those of an earlier one don't stay."""
    from kerascnn.page import evidence, figures

    for name in cookbook.PICTURES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    try:
        figures.write(evidence.gather(run), folder, names=cookbook.PICTURES, dots=_DOTS)
    except UsageError as missing:  # its weights or its images are gone
        warn(f"{folder.name}'s card has no pictures: {missing}")
