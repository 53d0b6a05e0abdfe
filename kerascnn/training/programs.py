"""What XLA has compiled: kept in little memory, some of it from process to process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable

from kerascnn import memory
from kerascnn.training import environment

# How the machine code in a program's bytes begins: on Linux and on macOS.
_MACHINE_CODE = b"\x7fELF", b"\xcf\xfa\xed\xfe"


class Programs:
    """A jitted function, compiled before its first call so that JAX can forget more.

    What JAX keeps of tracing a large net's step, for calls that need another program,
    takes as much memory as the program.

    Args:
        function: A function of a state, a dictionary, and arrays.
        options: Arguments of `jax.jit`.
        is_seldom: Whether arguments are those of a call that comes once an epoch, or at
            its end alone.

    Attributes:
        function: What `jax.jit` returns.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        options: dict[str, Any] | None = None,
        is_seldom: Callable[..., bool] = lambda *_: False,
    ):
        self.options = options or {}
        self.function = jax.jit(function, **self.options)
        self.is_seldom = is_seldom
        self._loaded: dict[Any, Callable[..., Any]] = {}
        self._bytes: dict[Any, tuple] = {}

    def __call__(self, *arguments: Any) -> Any:
        # Of one model's state only the parts may change: which weights are trained.
        kind = (
            jax.tree.structure(arguments),
            *((a.shape, a.dtype) for a in arguments if not isinstance(a, dict)),
        )
        if kind not in self._loaded:
            self._loaded[kind] = self._ready(kind, arguments)
            memory.trim()
        return self._loaded[kind](*arguments)

    def put_away(self) -> None:
        """Drop the programs that are seldom called until they are called again.

        They are loaded from bytes then, a twentieth of their memory: half a second for
        a training step of `cifar_vgg_aug`, a tenth for its evaluation.
        """
        for kind in self._bytes:
            self._loaded.pop(kind, None)

    def _ready(self, kind: Any, arguments: tuple) -> Callable[..., Any]:
        if kind not in self._bytes:
            lowered = self.function.lower(*arguments)
            memory.forget_compiled()
            if not self.is_seldom(*arguments):
                return lowered.compile()
            file = self._file(lowered)
            code = _read(file)
            program = None if code else lowered.compile()
            if program and (code := _as_bytes(program)):
                _write(file, code)
            if code:
                self._bytes[kind] = code, lowered.in_tree, lowered.out_tree
            if program:
                return program
        devices = sorted(jax.tree.leaves(arguments)[0].devices(), key=lambda d: d.id)
        return serialize_executable.deserialize_and_load(
            *self._bytes[kind], execution_devices=devices
        )

    def _file(self, lowered: jax.stages.Lowered) -> Path | None:
        """Where the program's bytes are kept: beside what JAX keeps.

        JAX's own cache is asked too, but a program from there can't be bytes again.
        """
        folder = jax.config.jax_compilation_cache_dir
        if not folder or not jax.config.jax_enable_compilation_cache:
            return None
        here = environment.processor(), os.environ.get("XLA_FLAGS", "")
        versions = jax.__version__, jaxlib.__version__
        parts = *here, *versions, repr(self.options), lowered.as_text()
        name = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return Path(folder) / f"kerascnn-{name}"


def _as_bytes(program: jax.stages.Compiled) -> bytes:
    """Return what to load a program from; nothing where it can't be bytes.

    So it is with one that calls back into Python, with some of JAX's options, and with
    one that was itself loaded: its bytes would lack the machine code.
    """
    refusals = AttributeError, TypeError, ValueError, pickle.PicklingError
    try:
        code, _, _ = serialize_executable.serialize(program)
    except (*refusals, NotImplementedError):
        return b""
    return code if any(begin in code for begin in _MACHINE_CODE) else b""


def _read(file: Path | None) -> bytes:
    try:
        kept = file.read_bytes() if file else b""
    except OSError:
        return b""
    digest, code = kept[:32], kept[32:]
    return code if hashlib.sha256(code).digest() == digest else b""


def _write(file: Path | None, code: bytes) -> None:
    """Keep a program's bytes where that can be done; half a file has no name."""
    if not file:
        return
    part = file.with_name(f"{file.name}-{os.getpid()}")
    try:
        part.write_bytes(hashlib.sha256(code).digest() + code)
        part.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
