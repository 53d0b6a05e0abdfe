"""The one door by which this package sets up the process that computes."""

from __future__ import annotations

import os
import sys

from kerascnn.process import backend, caches, cores, memory

_done: dict[str, str] = {}


def prepare_process() -> dict[str, str]:
    """Set this process up for training on a CPU; a second call changes nothing.

    Call it before Keras and JAX compute: what comes too late is left, and said. The
    command line calls it by itself. `KERASCNN_PREPARE=0` in the environment turns it
    off. It concerns:

    - `memory`: whether glibc keeps what a step gives back, on huge pages. glibc reads
      this when a process starts, so that the command line alone starts again for it;
    - `devices`: each core, up to four, is one of JAX's devices;
    - `compile cache`: JAX keeps what it compiles in this package's cache folder;
    - `TensorFlow`: Keras does not import it where another backend computes.

    Returns:
        What was done of each, or why not; a run's `config.json` has it as `process`.

    Example:
        >>> import kerascnn
        >>> kerascnn.prepare_process()["devices"]
        '2 of JAX: one a core'
    """
    return prepared()


def prepared(
    cache_dir: str | os.PathLike | None = None, devices: int | None = None
) -> dict[str, str]:
    """Do what `prepare_process` says, with another folder, and so many CPU devices."""
    if not _done:
        if os.environ.get("KERASCNN_PREPARE") == "0":
            return {"KERASCNN_PREPARE": "0: nothing is set up"}
        _done["memory"] = memory.said()
        if os.environ["KERAS_BACKEND"] == "jax":
            _done["devices"] = cores.as_devices(devices)
            memory.trim_after_compiling()
            folder = caches.cache_directory(cache_dir) / "compiled"
            _done["compile cache"] = caches.keep_compiled(folder)
        _done["TensorFlow"] = _without_tensorflow()
    return dict(_done)


def done() -> dict[str, str]:
    """Return what `prepare_process` has done in this process."""
    return dict(_done)


def _without_tensorflow() -> str:
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        return "the backend"
    if "tensorflow" in sys.modules:
        return "too late: imported already"
    backend.spare_tensorflow()
    return "hidden from Keras"
