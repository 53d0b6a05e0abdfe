"""The command `kerascnn export`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from kerascnn import UsageError
from kerascnn.cli.report import File, check_file
from kerascnn.prediction import shipped
from kerascnn.process import prepare
from kerascnn.text import choose, expanded

FORMATS = ("onnx", "stablehlo", "savedmodel", "litert", "torch", "keras")


@dataclasses.dataclass
class Export:
    """Write a run's model in another format, and beside it a JSON file on its use.

    The file takes raw images, uint8, and returns logits. It is run on 64 real images,
    and kept where its logits are Keras's.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder, or the name of a network that comes with the package."""
    to: Annotated[
        str | None,
        tyro.conf.arg(metavar=f"{{{','.join(FORMATS)}}}", help_behavior_hint=""),
    ] = None
    """The format. ONNX needs the extra `onnx`, SavedModel and LiteRT TensorFlow; torch,
    which needs PyTorch, is a file with a class to read and one with its tensors."""
    card: bool = False
    """Write a model card too, or alone: README.md, as Hugging Face has them, with the
    run's figures."""
    out: File = None
    """The file to write (default: in the run's folder)."""

    def __post_init__(self):
        if self.to is None and not self.card:
            raise UsageError(
                f"expected --to FORMAT, one of {', '.join(FORMATS)}, or --card."
            )
        if self.to is not None:
            choose(self.to, FORMATS, "format for --to")
        if self.to != "savedmodel":
            check_file(self.out)

    def __call__(self) -> None:
        run = shipped.run(self.run)
        prepare.prepare_process()
        from kerascnn.export import card, formats

        out = self.out and expanded(self.out)
        beside = out or formats.default(run, self.to or "keras")
        named = out if out and self.to is None else beside.with_name(card.NAME)
        if self.card:
            card.check(named)
        if self.to is not None:
            made = formats.export(run, self.to, out)
            print(
                f"{made.file}: the logits of {made.images} images are within "
                f"{made.difference:.0e} of Keras's."
            )
            print(f"{made.description}: its classes, its input and its origin.")
        if self.card:
            card.write(run, named)
            print(f"{named}: a model card with the run's figures.")
