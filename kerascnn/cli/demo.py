"""The command `kerascnn demo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from kerascnn import text
from kerascnn.cli.report import File, check_file
from kerascnn.prediction import shipped
from kerascnn.process import prepare


@dataclasses.dataclass
class Demo:
    """Write one HTML page with a run's network in it, which needs no server.

    A browser opens it from the disk or from any web space: show the network a picture,
    or draw one, and see its answer, its feature maps and what drives the decision.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="[RUN]")] = Path(
        "cifar10"
    )
    """The run's folder, or the name of a network that comes with the package."""
    out: File = None
    """Where to write the page (default: demo.html in the run's folder; for a network
    that comes with the package, in this one)."""

    def __post_init__(self):
        check_file(self.out)

    def __call__(self) -> None:
        run = shipped.run(self.run)
        prepare.prepare_process()
        from kerascnn.demo import page

        path = page.write(run, self.out and text.expanded(self.out))
        size = text.size(path.stat().st_size)
        print(f"{path}: {size}; open it in a browser, or put it on any web space.")
