"""What XLA has compiled, kept in little memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from kerascnn.process import memory


class Executables:
    """A jitted function, compiled before its first call so that JAX can forget more."""

    # What JAX keeps of tracing a large net's step, for calls of other shapes, takes as
    # much memory as the executable.

    def __init__(
        self, function: Callable[..., Any], options: dict[str, Any] | None = None
    ):
        self.function = jax.jit(function, **(options or {}))
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        if jax.config.jax_disable_jit:  # nothing is compiled then
            return self.function(*arguments)
        # In the dictionaries the shapes are always the same; which arrays there are may
        # change: which weights are trained.
        kind = (
            jax.tree.structure(arguments),
            *((a.shape, a.dtype) for a in arguments if not isinstance(a, dict)),
        )
        if kind not in self._compiled:
            lowered = self.function.lower(*arguments)
            memory.forget_compiled()
            self._compiled[kind] = lowered.compile()
            memory.trim()
        return self._compiled[kind](*arguments)
