"""Compiled programs: what is kept of them, where, and what they compute."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("programs are JAX's", allow_module_level=True)

import jax

from kerascnn.training import programs
from kerascnn.training.programs import Programs


def counted_loads(monkeypatch):
    loads = []
    load = programs.serialize_executable.deserialize_and_load
    monkeypatch.setattr(
        programs.serialize_executable,
        "deserialize_and_load",
        lambda *arguments, **options: loads.append(1) or load(*arguments, **options),
    )
    return loads


def test_what_tracing_leaves_is_forgotten_before_a_program_is_compiled(monkeypatch):
    order = []

    class Jitted:
        def lower(self, *arguments):
            order.append("traced")
            return self

        def compile(self):
            order.append("compiled")
            return lambda state, images: len(images)

    monkeypatch.setattr(jax, "jit", lambda function: function())
    monkeypatch.setattr(
        programs.memory, "forget_compiled", lambda: order.append("forgotten")
    )
    function = Programs(Jitted)
    images = np.zeros((3, 2), np.uint8)
    assert function({}, images) == function({}, images) == 3
    assert order == ["traced", "forgotten", "compiled"]
    # What is of another kind needs another program.
    for state, others in (({}, images[:1]), ({}, images / 2), ({"a": 1}, images)):
        function(state, others)
    assert order == 4 * ["traced", "forgotten", "compiled"]


@pytest.mark.parametrize("calls_back", [False, True])
def test_a_program_that_is_seldom_called_is_put_away(monkeypatch, calls_back):
    """But where it calls back into Python, which bytes can't say."""
    loads = counted_loads(monkeypatch)

    def add(state, array):
        if calls_back:
            array = jax.pure_callback(lambda a: a, jax.typeof(array), array)
        return {"sum": state["sum"] + array.sum()}

    add = Programs(add, is_seldom=lambda state, array: len(array) < 3)
    state = {"sum": jax.numpy.zeros(())}
    for images in (3, 2, 2, 3, 2, 2):
        state = add(state, jax.numpy.ones(images))
        if images == 3:
            add.put_away()
    assert float(state["sum"]) == 14
    assert len(loads) == (0 if calls_back else 1)
    assert len(add._loaded) == 2


FROM_DISK = """
import sys
from pathlib import Path
import jax
from kerascnn.training import programs

folder = Path(sys.argv[1])
jax.config.update("jax_compilation_cache_dir", str(folder))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
found = []
jax.monitoring.register_event_listener(
    lambda event, **_: found.append("JAX's") if event.endswith("/cache_hits") else None
)
load = programs.serialize_executable.deserialize_and_load
programs.serialize_executable.deserialize_and_load = (
    lambda *arguments, **options: found.append("ours") or load(*arguments, **options)
)

def called():
    found.clear()
    twice = programs.Programs(lambda state, x: (2 * x).sort(), {}, lambda *_: True)
    values = []
    for _ in range(2):
        values += twice({}, jax.numpy.arange(3.0)).tolist()
        twice.put_away()
    print(values == 2 * [0, 2, 4], *found)

called()  # compiled
called()
(kept,) = folder.glob("kerascnn-*")
kept.write_bytes(kept.read_bytes()[:-1])
called()
"""


def test_a_seldom_program_comes_from_the_disk_in_the_next_process(tmp_path):
    """A program from JAX's own cache, made bytes, would lack the machine code."""
    folder = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", FROM_DISK, str(folder)],
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, damaged = done.stdout.splitlines()
    assert first == "True ours"  # compiled, put away, and loaded
    assert second == "True ours ours"
    assert damaged == "True JAX's"  # which stays loaded
    assert len(list(folder.glob("kerascnn-*"))) == 1


def test_nothing_is_kept_where_it_cant_be_written(tmp_path, monkeypatch):
    programs._write(tmp_path / "none" / "file", b"code")
    assert not programs._read(tmp_path / "none" / "file")
    (tmp_path / "folder").mkdir()
    programs._write(tmp_path / "folder", b"code")  # can't take its place
    programs._write(tmp_path / "file", b"code")
    assert programs._read(tmp_path / "file") == b"code"
    assert {file.name for file in tmp_path.iterdir()} == {"file", "folder"}
