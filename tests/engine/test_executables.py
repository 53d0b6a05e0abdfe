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

from kerascnn.engine import executables
from kerascnn.engine.executables import Programs


def counted_loads(monkeypatch):
    """An item for each program loaded from bytes; none is kept on disk."""
    loads = []
    monkeypatch.setattr(Programs, "_file", lambda self, lowered: None)
    load = executables.serialize_executable.deserialize_and_load
    monkeypatch.setattr(
        executables.serialize_executable,
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

    monkeypatch.setattr(jax, "jit", lambda function, **_: function())
    monkeypatch.setattr(
        executables.memory, "forget_compiled", lambda: order.append("forgotten")
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
import hashlib, sys
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
from kerascnn.training import programs

folder = Path(sys.argv[1])
jax.config.update("jax_compilation_cache_dir", str(folder))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
found = []
compiled = "/jax/core/compile/backend_compile_duration"
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: found.append("compiled") if event == compiled else None
)
load = programs.serialize_executable.deserialize_and_load
programs.serialize_executable.deserialize_and_load = (
    lambda *arguments, **options: found.append("loaded") or load(*arguments, **options)
)
ones, threes = jnp.ones(3), 3 * jnp.ones(3)

def called(name, function):
    seldom = programs.Programs(function, {}, lambda *_: True)
    jax.clear_caches()
    found.clear()
    values = []
    for _ in range(2):
        values.append(float(np.asarray(seldom({"a": ones, "b": threes}, ones))[0]))
        seldom.put_away()
    print(name, values, *found)

def a(state, x):
    return state["a"] + x

called("first", a)
(kept,) = folder.glob("kerascnn-*")
whole = kept.read_bytes()
called("second", a)
kept.write_bytes(whole[:-1])
called("damaged", a)
kept.write_bytes(hashlib.sha256(b"code").digest() + b"code")
called("refused", a)
called("mended", a)
def f(state, x):
    return state["b"] + x
f.__name__ = f.__qualname__ = "a"
called("other", f)
jax.config.update("jax_enable_compilation_cache", False)
called("off", a)
print(len(list(folder.glob("kerascnn-*"))), *folder.glob("unfinished*"))
"""


def test_a_seldom_program_comes_from_the_disk_in_the_next_process(tmp_path):
    """In its own file: the bytes of one from JAX's cache would lack the machine code.

    What can't be loaded is compiled again and takes the file's place. Two functions
    that differ in nothing but which argument they leave unused have two files.
    """
    done = subprocess.run(
        [sys.executable, "-c", FROM_DISK, str(tmp_path / "cache")],
        env={
            **os.environ,
            "JAX_ENABLE_COMPILATION_CACHE": "1",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "first [2.0, 2.0] compiled loaded",
        "second [2.0, 2.0] loaded loaded",
        "damaged [2.0, 2.0] compiled loaded",
        "refused [2.0, 2.0] loaded compiled loaded",
        "mended [2.0, 2.0] loaded loaded",
        "other [4.0, 4.0] compiled loaded",
        "off [2.0, 2.0] compiled loaded",
        "2",
    ]


def test_what_cant_be_written_is_left(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    executables._write(tmp_path / "folder", b"code")  # can't take its place
    executables._write(tmp_path / "file" / "inside", b"code")
    executables._write(None, b"code")
    assert {file.name for file in tmp_path.iterdir()} == {"file", "folder"}
