"""What a deterministic run needs of its environment, and asks of each backend."""

import sys
from types import SimpleNamespace

import keras
import pytest

from kerascnn import UsageError
from kerascnn.process import determinism

FLAG = "--xla_gpu_deterministic_ops=true"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (None, FLAG),
        ("--xla_a=1 --xla_b", f"--xla_a=1 --xla_b {FLAG}"),
        (f"{FLAG} --xla_a=1", f"{FLAG} --xla_a=1"),  # no restart without end
    ],
)
def test_jax_keeps_the_flags_of_the_user(monkeypatch, flags, expected):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if flags:
        monkeypatch.setenv("XLA_FLAGS", flags)
    assert determinism.variables("jax") == {"XLA_FLAGS": expected}


def test_the_other_backends_variables():
    assert determinism.variables("torch") == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    assert determinism.variables("tensorflow") == {}


@pytest.mark.parametrize(
    ("backend", "name"), [("jax", "XLA_FLAGS"), ("torch", "CUBLAS_WORKSPACE_CONFIG")]
)
def test_an_environment_without_them_is_refused(monkeypatch, backend, name):
    asked = []
    torch = SimpleNamespace(use_deterministic_algorithms=asked.append)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=name):
        determinism.require()
    for key, value in determinism.variables(backend).items():
        monkeypatch.setenv(key, value)
    determinism.require()
    assert asked == [True] * (backend == "torch")


def test_tensorflow_is_asked_for_it(monkeypatch):
    asked = []
    experimental = SimpleNamespace(enable_op_determinism=lambda: asked.append(True))
    tensorflow = SimpleNamespace(config=SimpleNamespace(experimental=experimental))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    determinism.require()
    assert asked == [True]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a flag of JAX")
@pytest.mark.parametrize("flag", ["jax_disable_most_optimizations", "jax_enable_x64"])
def test_a_flag_of_jax_decides_what_a_run_that_goes_on_is_compared_by(flag):
    import jax

    was, found = jax.config.values[flag], []
    try:
        for value in (False, True):
            jax.config.update(flag, value)
            found.append(determinism.settings())
    finally:
        jax.config.update(flag, was)
    assert found[1][flag] is True
    assert not found[0].get(flag, False)
