"""Ctrl-C and SIGTERM are heard wherever a command computes."""

import signal
import subprocess
import sys

import pytest

STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]

# The signal comes where Keras swallows whatever is raised.
SWALLOWED = """
import os, signal, sys
from kerascnn.process import signals
signals.stop_quietly()
signal.signal(signal.SIGINT, signals._stop)
from keras.src.utils import python_utils

class Value:
    def __float__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(10**6):
            pass
        return 1.0

python_utils.pythonify_logs({"loss": Value()})
print("went on")
"""

# The signal comes in a step of `kerascnn learns`, whose training goes on for hours.
LEARNS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from kerascnn.process import signals
signals.stop_quietly()
import time
from kerascnn.studies import learns
from kerascnn.cli.commands import main
train = learns.train

def training(*words):
    *others, after_step = words
    def then(step):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.5)
        after_step(step)
    return train(*others, then)

learns.train = training
sys.exit(main(["learns", "fashion_mlp", "--data", "sample"]))
"""


@pytest.mark.parametrize("program", [SWALLOWED, LEARNS], ids=["swallowed", "learns"])
@pytest.mark.parametrize(("number", "code"), STOPS)
@pytest.mark.slow
def test_a_stop_ends_a_computation(program, number, code):
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert "kerascnn: stopped" in done.stderr
    assert "Traceback" not in done.stderr
    assert "went on" not in done.stdout
