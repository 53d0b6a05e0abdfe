"""What a process says of itself."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kerascnn.process import machine

PEAK = """
from kerascnn.process import machine
held = b'x' * 2**28
del held
print(machine.peak_memory() // 2**20)
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


@pytest.mark.parametrize(
    ("chosen", "first", "kept"),
    [
        ({}, "", "0.01"),
        ({"JAX_COMPILATION_CACHE_DIR": "mine"}, "", "0.01"),
        ({"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1"}, "", "1.0"),
        ({}, "jax.config.update(LEAST, 5.0)", "5.0"),
    ],
)
def test_quick_compilations_are_kept_too_unless_the_user_says_otherwise(
    tmp_path, chosen, first, kept
):
    """Together, those that draw a network's weights take four seconds."""
    program = f"""
import jax
from pathlib import Path
from kerascnn.process import caches
LEAST = "jax_persistent_cache_min_compile_time_secs"
{first}
caches.keep_compiled(Path({str(tmp_path)!r}))
print(getattr(jax.config, LEAST), jax.config.jax_compilation_cache_dir)
"""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    found = subprocess.check_output(
        [sys.executable, "-c", program], env=plain | chosen, text=True
    )
    seconds, folder = found.split(maxsplit=1)
    assert seconds == kept
    assert (folder.strip() == "mine") == ("JAX_COMPILATION_CACHE_DIR" in chosen)


def test_the_device_is_one_of_this_process_s_own(monkeypatch):
    jax = pytest.importorskip("jax")
    # Of several processes `jax.devices` begins with those of process 0.
    elsewhere = SimpleNamespace(device_kind="another kind")
    monkeypatch.setattr(jax, "devices", lambda: [elsewhere, *jax.local_devices()])
    assert machine.device("jax") == jax.local_devices()[0].device_kind
