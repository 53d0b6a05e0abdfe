"""The recipes: one whole, runnable file for each case of the course."""

import sys

from kerascnn import check_backend, command_line, memory
from kerascnn.training import signals

# `python -m kerascnn.recipes.NAME` comes by here before it imports Keras, which would
# answer a backend that is not there with a traceback.
if code := command_line.run(check_backend):
    sys.exit(code)
# What Python calls itself while it looks for the module that -m names.
if sys.argv[0] == "-m":
    signals.stop_quietly()
    with signals.held():
        memory.restart()
