"""What XLA has compiled: kept in little memory, some of it from process to process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from kerascnn.process import machine, memory


class Programs:
    """A jitted function, compiled before its first call so that JAX can forget more.

    What JAX keeps of tracing a large net's step, for calls that need another program,
    takes as much memory as the program.

    Args:
        function: A function of dictionaries of arrays, such as a state, and arrays.
        options: Arguments of `jax.jit`.
        is_seldom: Whether arguments are those of calls that come at an epoch's end
            alone: see `put_away`.

    Attributes:
        function: What `jax.jit` returns.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        options: dict[str, Any] | None = None,
        is_seldom: Callable[..., bool] = lambda *_: False,
    ):
        # Where JAX left unused arguments out, two functions might differ in nothing but
        # what they are given, and have one name in `_file`.
        self.options = {"keep_unused": True, **(options or {})}
        self.function = jax.jit(function, **self.options)
        self.is_seldom = is_seldom
        self._loaded: dict[Any, Callable[..., Any]] = {}
        self._bytes: dict[Any, tuple] = {}

    def __call__(self, *arguments: Any) -> Any:
        if jax.config.jax_disable_jit:  # nothing is compiled then
            return self.function(*arguments)
        # In the dictionaries the shapes are always the same; which arrays there are may
        # change: which weights are trained.
        kind = (
            jax.tree.structure(arguments),
            *((a.shape, a.dtype) for a in arguments if not isinstance(a, dict)),
        )
        if kind not in self._loaded:
            if kind in self._bytes:
                self._loaded[kind] = _load(self._bytes[kind], arguments)
            else:
                self._loaded[kind] = self._compiled(kind, arguments)
            memory.trim()
        return self._loaded[kind](*arguments)

    def put_away(self) -> None:
        """Drop the programs that are seldom called until they are called again.

        They are loaded from bytes then, a twentieth of their memory: half a second for
        a training step of `cifar_vgg_aug`, a tenth for its evaluation.
        """
        for kind in self._bytes:
            self._loaded.pop(kind, None)

    def _compiled(self, kind: Any, arguments: tuple) -> Callable[..., Any]:
        lowered = self.function.lower(*arguments)
        memory.forget_compiled()
        if not self.is_seldom(*arguments):
            return lowered.compile()
        file = self._file(lowered)
        trees = lowered.in_tree, lowered.out_tree
        with contextlib.suppress(Exception):  # whatever is wrong with it
            serialized = _read(file), *trees
            program = _load(serialized, arguments)
            self._bytes[kind] = serialized
            return program
        with _without_jaxs_cache():
            program = lowered.compile()
        if code := _as_bytes(program):
            self._bytes[kind] = code, *trees
            _write(file, code)
        return program

    def _file(self, lowered: jax.stages.Lowered) -> Path | None:
        """Where a program's bytes are kept: beside what JAX keeps.

        Loading them runs what is in them: as JAX's, the folder is to be the user's own.
        """
        folder = jax.config.jax_compilation_cache_dir
        is_kept = jax.config.jax_enable_compilation_cache
        if not folder or "://" in folder or not is_kept:
            return None
        parts = (
            *(platform.machine(), machine.processor()),
            machine.processor_flags(),
            *(jax.__version__, jaxlib.__version__, os.environ.get("XLA_FLAGS", "")),
            *(repr(self.options), str(lowered.in_tree), str(lowered.out_tree)),
            lowered.as_text(),
        )
        name = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return Path(folder) / f"kerascnn-{name}"


def _load(serialized: tuple, arguments: tuple) -> Callable[..., Any]:
    devices = sorted(jax.tree.leaves(arguments)[0].devices(), key=lambda d: d.id)
    return serialize_executable.deserialize_and_load(
        *serialized, execution_devices=devices
    )


@contextlib.contextmanager
def _without_jaxs_cache() -> Iterator[None]:
    """Have JAX compile: the bytes of a program from its cache lack the machine code."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it remembers whether it is enabled
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _as_bytes(program: jax.stages.Compiled) -> bytes:
    """Return what to load a program from; nothing where it can't be bytes.

    So it is with one that calls back into Python, and with some of JAX's options.
    """
    refusals = AttributeError, TypeError, ValueError, pickle.PicklingError
    try:
        return serialize_executable.serialize(program)[0]
    except (*refusals, NotImplementedError):
        return b""


def _read(file: Path | None) -> bytes:
    """Return what `_write` has kept; raises an error where there is nothing whole."""
    if file is None:
        raise FileNotFoundError
    kept = file.read_bytes()
    digest, code = kept[:32], kept[32:]
    if hashlib.sha256(code).digest() != digest:
        raise ValueError(f"{file} is damaged")
    return code


def _write(file: Path | None, code: bytes) -> None:
    """Keep a program's bytes where that can be done: all or nothing."""
    if file is None:
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=file.parent, prefix="unfinished-")
        try:
            with os.fdopen(number, "wb") as unfinished:
                unfinished.write(hashlib.sha256(code).digest() + code)
            Path(name).replace(file)
        except OSError:
            Path(name).unlink()
