"""What a process says of itself."""

import subprocess
import sys

import pytest

PEAK = """
from kerascnn.training import environment
held = b'x' * 2**28
del held
print(environment.peak_memory() // 2**20)
"""

STARTS_ANOTHER = f"""
import subprocess, sys
held = b"x" * 2**29
subprocess.run([sys.executable, "-c", {PEAK!r}], check=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Python does not tell")
def test_peak_memory_is_what_this_process_has_held():
    """Not less, once it is given back; on Linux, not what its parent holds either."""

    def peak(program):
        words = [sys.executable, "-c", program]
        return int(subprocess.check_output(words, text=True))

    assert 256 <= peak(PEAK) < 400
    if sys.platform == "linux":
        assert 256 <= peak(STARTS_ANOTHER) < 400
