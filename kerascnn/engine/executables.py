"""What XLA has compiled, kept in little memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from kerascnn.process import memory


class Planned(NamedTuple):
    """The bytes that XLA plans for a call, on each device.

    `held` are the arguments, there already; `besides` is what the call takes until its
    end: temporary arrays, and results that do not lie where arguments lay.
    """

    held: int
    besides: int


class Executables:
    """A jitted function, compiled before its first call so that JAX can forget more."""

    # What JAX keeps of tracing a large net's step, for calls of other shapes, takes as
    # much memory as the executable.

    def __init__(
        self, function: Callable[..., Any], options: dict[str, Any] | None = None
    ):
        self.function = jax.jit(function, **(options or {}))
        self._compiled: dict[Any, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        if jax.config.jax_disable_jit:  # nothing is compiled then
            return self.function(*arguments)
        return self._compiled_for(arguments)(*arguments)

    def planned(self, *arguments: Any) -> Planned | None:
        """Return what a call will take; the call itself then compiles nothing."""
        if jax.config.jax_disable_jit:
            return None
        sizes = self._compiled_for(arguments).memory_analysis()
        if sizes is None:  # a backend that does not tell
            return None
        new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        return Planned(
            sizes.argument_size_in_bytes, sizes.temp_size_in_bytes + max(0, new)
        )

    def _compiled_for(self, arguments: tuple[Any, ...]) -> Any:
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
        return self._compiled[kind]
