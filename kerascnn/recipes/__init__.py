"""The recipes: one whole, runnable file for each case of the course."""

import re
import sys

from kerascnn.process.backend import check_backend
from kerascnn.cli import parsing
from kerascnn.process import memory
from kerascnn import recipe
from kerascnn.process import signals


def _started() -> str:
    """The name after `python -m kerascnn.recipes.`, where that starts this process."""
    # What Python calls itself while it looks for the module that -m names.
    if sys.argv[0] != "-m":
        return ""
    command = " ".join(sys.orig_argv[1:])
    found = re.search(rf"(?:^| )-\w*m ?{re.escape(__name__)}\.(\S+)", command)
    return found[1] if found else ""


def _check() -> None:
    check_backend()
    if _name:
        recipe.check_name(_name)


# `python -m kerascnn.recipes.NAME` comes by here before it imports Keras, which would
# answer a backend that is not there with a traceback, and before Python looks for NAME.
_name = _started()
if code := parsing.run(_check):
    sys.exit(code)
if _name:
    signals.stop_quietly()
    with signals.held():
        memory.restart()
