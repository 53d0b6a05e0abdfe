"""The command line of a recipe: `python -m kerascnn.recipes.NAME [options]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kerascnn import check_backend, command_line

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe
    from kerascnn.training.overrides import Overrides


def main(recipe: Recipe, arguments: Sequence[str] | None = None) -> None:
    """Train a recipe from the command line, then exit the process.

    Args:
        recipe: The recipe.
        arguments: The options; by default the process's own.

    Raises:
        SystemExit: Always; code 0 after a finished run, 2 after a user's mistake.
    """
    words = sys.argv[1:] if arguments is None else arguments
    sys.exit(command_line.run(lambda: run(recipe, words, recipe.command)))


def run(recipe: Recipe, words: Sequence[str], program: str) -> None:
    """Train a recipe as command-line options say.

    Args:
        recipe: The recipe.
        words: The options.
        program: How the user called it, for the help.

    Raises:
        UsageError: An option does not fit, or the data are not to be had.
    """
    from kerascnn.training.overrides import Overrides
    from kerascnn.training.trainer import train

    overrides = command_line.parse(Overrides, words, program)
    use_backend(overrides)
    train(recipe, overrides)


def use_backend(overrides: Overrides) -> None:
    """Start the process again where `--backend` names another backend than this one's.

    Keras chooses its backend once, when it is imported.

    Raises:
        UsageError: The backend is not installed.
    """
    wanted = overrides.backend
    if wanted is None or wanted == os.environ["KERAS_BACKEND"]:
        return
    check_backend(wanted, "--backend")
    sys.stdout.flush()
    os.execve(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**os.environ, "KERAS_BACKEND": wanted},
    )
