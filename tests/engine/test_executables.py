"""Executables: what is kept of them, where, and what they compute."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("executables are JAX's", allow_module_level=True)

import jax

from kerascnn.engine import executables
from kerascnn.engine.executables import Executables


def test_what_tracing_leaves_is_forgotten_before_an_executable_is_compiled(monkeypatch):
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
    function = Executables(Jitted)
    images = np.zeros((3, 2), np.uint8)
    assert function({}, images) == function({}, images) == 3
    assert order == ["traced", "forgotten", "compiled"]
    # What is of another kind needs another executable.
    for state, others in (({}, images[:1]), ({}, images / 2), ({"a": 1}, images)):
        function(state, others)
    assert order == 4 * ["traced", "forgotten", "compiled"]
