"""The command line: `kerascnn COMMAND`, or `python -m kerascnn COMMAND`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from kerascnn.process import signals

# Before the imports that take their time; where this module is the program, not where
# a test imports it.
if __name__ == "__main__" or Path(sys.argv[0]).stem == "kerascnn":
    signals.stop_quietly()

import tyro

from kerascnn import UsageError, __version__, recipe, text
from kerascnn.cli import parsing
from kerascnn.process import memory
from kerascnn.process.backend import check_backend

# Each command imports what it needs when it runs: `list` answers without Keras.

RecipeName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
SetName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SET")]
Archive = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]


@dataclasses.dataclass
class List:
    """Show the recipes rung after rung, with sizes and the course's figures."""

    def __call__(self) -> None:
        from kerascnn.report import ladder

        outlines = []
        for name in recipe.names():
            try:
                outlines.append(recipe.outline(name))
            except UsageError as mistake:  # one's own broken file hides no other
                print(f"left out: {mistake}", file=sys.stderr)
        ladder.show(outlines)


@dataclasses.dataclass
class Show:
    """Show one recipe: what, why, layers, command, the course's figures."""

    recipe: RecipeName
    """Its name; `kerascnn list` shows them all."""

    def __call__(self) -> None:
        recipe.check_name(self.recipe)
        from kerascnn.report import card

        card.show(recipe.load(self.recipe))


@dataclasses.dataclass
class Diff:
    """Show what one recipe changes in another: layer by layer, and in code."""

    old: RecipeName
    """The recipe to start from; `kerascnn list` shows them all."""
    new: RecipeName
    """The recipe to arrive at."""

    def __call__(self) -> None:
        recipe.check_name(self.old)
        recipe.check_name(self.new)
        from kerascnn.report import difference

        difference.show(recipe.load(self.old), recipe.load(self.new))


def run(words: Sequence[str], program: str) -> None:
    """Train one recipe: `kerascnn run RECIPE [options]`."""
    if words and not words[0].startswith("-"):
        recipe.check_name(words[0])
        from kerascnn.cli import run as run_commands

        run_commands.run(recipe.load(words[0]), words[1:], f"{program} {words[0]}")
    elif {"-h", "--help"} & set(words):
        print(f"usage: {program} RECIPE [options]\n\n{run.__doc__}")
        print(f"`{program} RECIPE --help` shows the options.")
    else:
        raise UsageError(f"expected a recipe: `{program} RECIPE [options]`.")


def resume(words: Sequence[str], program: str) -> None:
    """Go on with a run that was stopped: `kerascnn resume RUN [options]`."""
    from kerascnn.cli import run as run_commands

    run_commands.resume(words, program)


@dataclasses.dataclass
class Get:
    """Download a set and prepare it with tensorflow-datasets."""

    name: SetName
    """Its name, such as cifar10."""
    data_dir: Folder = None
    """Where to put it (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)."""

    def __call__(self) -> None:
        from kerascnn.cli import data as data_commands

        data_commands.get(self.name, self.data_dir)


@dataclasses.dataclass
class ListData:
    """Show which sets are on this machine."""

    data_dir: Folder = None
    """Where to look (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)."""

    def __call__(self) -> None:
        from kerascnn.cli import data as data_commands

        data_commands.list_(self.data_dir)


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
        from kerascnn.cli import data as data_commands

        data_commands.import_(self.name, self.path, self.data_dir)


@dataclasses.dataclass
class Check:
    """Find the images of a folder that can't be trained on, all at once."""

    folder: Archive
    """The folder, with train/CLASS/ and test/CLASS/ in it."""

    def __call__(self) -> None:
        from kerascnn.cli import data as data_commands

        data_commands.check(self.folder)


@dataclasses.dataclass
class Statistics:
    """Compute mean and deviation of a training set's pixels, for `standard`."""

    name: SetName
    """Its name, such as cifar10, or a folder of images of one size."""
    data: Literal["auto", "full", "sample"] = "auto"
    """Which images, as `kerascnn run` has it."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""

    def __call__(self) -> None:
        from kerascnn.cli import data as data_commands

        data_commands.statistics(self.name, self.data, self.data_dir)


def data(words: Sequence[str], program: str) -> None:
    """Get, list, import, check and measure data sets."""
    commands = {
        "get": Get,
        "list": ListData,
        "import": Import,
        "check": Check,
        "statistics": Statistics,
    }
    _dispatch(commands, words, program)


def bench(words: Sequence[str], program: str) -> None:
    """Time training: this package beside stock Keras and plain PyTorch."""
    from kerascnn.cli import bench as bench_commands

    commands = {
        "step": bench_commands.Step,
        "epoch": bench_commands.Epoch,
        "scale": bench_commands.Scale,
        "checkpoints": bench_commands.Checkpoints,
    }
    _dispatch(commands, words, program)


def cookbook(words: Sequence[str], program: str) -> None:
    """Render recipes/ (--check: is it stale?); `add RUN...` takes runs in."""
    from kerascnn.report.cookbook import Add, Cookbook

    if words[:1] == ["add"]:
        parsing.parse(Add, words[1:], f"{program} add")()
    elif {"-h", "--help"} & set(words):
        print(f"usage: {program} [--check]\n       {program} add RUN...\n")
        print(f"{cookbook.__doc__}\n`{program} add --help` says which runs it takes.")
    else:
        parsing.parse(Cookbook, words, program)()


def parity(words: Sequence[str], program: str) -> None:
    """Compare recipes with the lectures' PyTorch networks, layer by layer."""
    from kerascnn.cli import parity as parity_commands

    parsing.parse(parity_commands.Parity, words, program)()


def backends(words: Sequence[str], program: str) -> None:
    """Train one recipe alike on JAX, TensorFlow and PyTorch; see where they part."""
    from kerascnn.cli import parity as parity_commands

    parsing.parse(parity_commands.Backends, words, program)()


def learns(words: Sequence[str], program: str) -> None:
    """Does a network learn at all? Its first steps, over several seeds."""
    from kerascnn.studies.learns import Learns

    parsing.parse(Learns, words, program)()


COMMANDS = {
    "list": List,
    "show": Show,
    "diff": Diff,
    "run": run,
    "resume": resume,
    "learns": learns,
    "data": data,
    "bench": bench,
    "cookbook": cookbook,
    "parity": parity,
    "backends": backends,
}
# The commands that compute long enough for what becomes of freed memory to matter.
COMPUTING = ("run", "resume", "learns", "bench", "parity", "backends")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after `kerascnn`; by default the process's own.

    Returns:
        The exit code: 0, 1 where a comparison fails, 2 after a user's mistake, 3 where
        a run's numbers went wrong, 130 after Ctrl-C, 141 where nobody reads on, 143
        after SIGTERM.
    """
    words = sys.argv[1:] if arguments is None else arguments

    def program() -> None:
        parsing.check_words(words)
        if arguments is None and words and words[0] in COMPUTING:
            with signals.held():
                memory.restart()
        _main(words)

    return parsing.run(program)


def _main(words: Sequence[str]) -> None:
    if list(words) == ["--version"]:
        print(f"kerascnn {__version__}")
        return
    check_backend()
    _dispatch(COMMANDS, words, "kerascnn")


def _dispatch(commands: dict[str, Any], words: Sequence[str], program: str) -> None:
    """Run the command that the first word names: a dataclass or a function of words."""
    if not words:
        raise UsageError(f"expected a command: {', '.join(commands)}.")
    if words[0] in ("-h", "--help"):
        print(f"usage: {program} COMMAND ...\n")
        for name, command in commands.items():
            print(f"  {name:10} {(command.__doc__ or '').splitlines()[0]}")
        return
    name = text.choose(words[0], commands, "command")
    command, program = commands[name], f"{program} {name}"
    if dataclasses.is_dataclass(command):
        parsing.parse(command, words[1:], program)()
    else:
        command(words[1:], program)


if __name__ == "__main__":
    sys.exit(main())
