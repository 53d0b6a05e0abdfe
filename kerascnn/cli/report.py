"""The command `kerascnn report`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from kerascnn import UsageError
from kerascnn.process import prepare
from kerascnn.runs import Run
from kerascnn.text import expanded
from kerascnn.training.options import Folder

File = Annotated[
    Path | None, tyro.conf.arg(metavar="FILE", aliases=["-o"], help_behavior_hint="")
]


def check_file(out: Path | None) -> None:
    """Raise `UsageError` where no file can be written."""
    if out is None:
        return
    if expanded(out).is_dir():
        raise UsageError(f"--out {out} is a folder: name a file in it.")
    if not expanded(out).parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it.")


@dataclasses.dataclass
class Report:
    """Write the page of a run: one HTML file that needs no network."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    out: File = None
    """Where to write the page (default: report.html in the run's folder)."""
    figures: Folder = None
    """Write the figures too, each to a PNG file in this folder."""
    svg: bool = False
    """Write them as SVG."""

    def __post_init__(self):
        if self.svg and self.figures is None:
            raise UsageError("--svg is for --figures FOLDER: give the folder too.")
        check_file(self.out)

    def __call__(self) -> None:
        run = Run(expanded(self.run))
        _ = run.result  # where there is none, that is the reason
        prepare.prepare_process()

        from kerascnn.page import document, evidence, figures

        found = evidence.gather(run)
        path = run.folder / document.NAME if self.out is None else expanded(self.out)
        print(document.save(document.render(found), path))
        if self.figures is not None:
            for file in figures.write(found, expanded(self.figures), self.svg):
                print(file)
