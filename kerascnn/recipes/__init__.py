"""The recipes: one whole, runnable file for each case of the course."""

import sys

from kerascnn import check_backend, command_line, memory, recipe
from kerascnn.training import signals


def _check() -> None:
    check_backend()
    # What Python calls itself while it looks for the module that -m names.
    if sys.argv[0] == "-m" and "-m" in sys.orig_argv:
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
        recipe.check_name(module.removeprefix(f"{__name__}."))


# `python -m kerascnn.recipes.NAME` comes by here before it imports Keras, which would
# answer a backend that is not there with a traceback, and before Python looks for NAME.
if code := command_line.run(_check):
    sys.exit(code)
if sys.argv[0] == "-m":
    signals.stop_quietly()
    with signals.held():
        memory.restart()
