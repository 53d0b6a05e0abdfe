"""The commands `kerascnn run` and `resume`, and `python -m kerascnn.recipes.NAME`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kerascnn import MISSED_BACKEND, UsageError, api, runs
from kerascnn import recipe as recipes
from kerascnn.cli import parsing, seeds
from kerascnn.data import loading
from kerascnn.prediction import shipped
from kerascnn.process import determinism, hosts, prepare, signals
from kerascnn.process.backend import (
    check_backend,
    restart_for_memory,
    use_backend,
)
from kerascnn.training import resume as resuming

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe
    from kerascnn.training.options import Command, Overrides


def main(recipe: Recipe, arguments: Sequence[str] | None = None) -> None:
    """Train a recipe, then exit the process with the code of `commands.main`."""
    given = sys.argv[1:] if arguments is None else arguments
    words, quiet = parsing.told(given)

    def program() -> None:
        if arguments is None:
            signals.stop_quietly()
            restart_for_memory()
        check_backend()
        run(recipe, words, recipe.command)

    sys.exit(hosts.ended(parsing.run(program, quiet)))


def run(recipe: Recipe | str | Path, words: Sequence[str], program: str) -> None:
    """Train a recipe, loaded or by its name or file, as command-line options say."""
    from kerascnn.training.options import Command

    example = f"{program} --epochs 2 --data sample"
    options = parsing.parse(Command, words, program, [example])
    overrides, given = options.overrides, _names(words)
    # What can be refused is, before Keras and its backend take seconds to be imported.
    if options.seeds is not None and hosts.wanted(*_group(overrides)):
        raise UsageError("--seeds trains with one process: leave it out.")
    if overrides.resume is None:
        _check(options)
        own = overrides
    else:
        own = resuming.options(runs.Run(overrides.resume), overrides, given)
    use_environment(own)
    prepare.prepared(own.cache_dir, overrides.devices)
    if isinstance(recipe, str | Path):
        recipe = recipes.load(recipe)
    if options.seeds is not None:
        seeds.train(recipe, options, given)
    else:
        api.completed(recipe, overrides, given)


def _check(options: Command) -> None:
    """Raise `UsageError` for a set, weights or a folder that can't be used."""
    if options.dataset is not None:
        places = options.dataset, options.data, options.data_dir
        loading.check(*places, options.skip_bad)
    if options.weights is not None:
        shipped.check_weights(options.weights)
    if options.out is not None and options.seeds is None:
        runs.check_new(options.out)


def _group(overrides: Overrides) -> tuple[str | None, int | None, int | None]:
    return overrides.coordinator, overrides.num_processes, overrides.process_id


def _names(words: Sequence[str]) -> set[str]:
    """Return the names of the options that command-line words give."""
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    return {
        option.removeprefix("--").removeprefix("no-").replace("-", "_")
        for option in options
    }


def named(words: Sequence[str], program: str) -> None:
    """Train one recipe: `kerascnn run RECIPE [options]`."""
    if words and not words[0].startswith("-"):
        recipes.check(words[0])
        run(words[0], words[1:], f"{program} {shlex.quote(words[0])}")
    elif {"-h", "--help"} & set(words):
        print(f"usage: {program} RECIPE [options]\n\n{named.__doc__}")
        print("RECIPE is a recipe's name, or the path of a file of your own.")
        print(f"`{program} RECIPE --help` shows the options.")
    else:
        raise UsageError(f"expected a recipe: `{program} RECIPE [options]`.")


def resume(words: Sequence[str], program: str) -> None:
    """Go on with a run that was stopped, or train a finished one on with --epochs N."""
    if words and not words[0].startswith("-"):
        recipe = resuming.name_of(runs.Run(Path(words[0])))
        run(recipe, ["--resume", *words], program)
    elif {"-h", "--help"} & set(words):
        print(f"usage: {program} RUN [options]\n\n{resume.__doc__}")
        print("RUN is the run's folder. Its own options hold, and --force, --on-nan,")
        print("--checkpoint-minutes, --workers, --devices, --data-dir, --cache-dir and")
        print("the processes (--coordinator ...) can be given anew.")
        print("A finished run trains on to N epochs in all; how it had ended is kept.")
    else:
        raise UsageError(f"expected the folder of a run: `{program} RUN`.")


def use_environment(overrides: Overrides) -> None:
    """Start the process again where its options need another environment."""
    # Keras chooses its backend once, when it is imported, and XLA reads its flags once,
    # when JAX begins.
    # A file of the user's may import Keras before this package.
    wanted = overrides.backend or MISSED_BACKEND
    backend = wanted or os.environ["KERAS_BACKEND"]
    use_backend(
        wanted,
        determinism.variables(backend) if overrides.deterministic else {},
    )
