"""The folder of this package's caches, and what JAX keeps in it."""

from __future__ import annotations

import os
import platform
import re
import sys
import warnings
from pathlib import Path

from kerascnn.process import machine
from kerascnn.text import expanded


def cache_directory(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the folder: KERASCNN_CACHE_DIR, or else in the platform's for caches."""
    chosen = cache_dir or os.environ.get("KERASCNN_CACHE_DIR")
    if chosen:
        return expanded(chosen).absolute()
    if sys.platform == "win32":
        parent = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        parent = "~/Library/Caches"
    else:
        parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(parent).absolute() / "kerascnn"


def keep_compiled(folder: Path) -> str:
    """Let JAX keep what it compiles; return the folder where it does."""
    # A folder for each kind of processor, because code compiled for one may not run on
    # another that shares the disk.
    import jax

    # Where it can't be kept, the data's own line says so already.
    warnings.filterwarnings(
        "ignore", "Error (reading|writing) persistent compilation cache", UserWarning
    )
    if jax.config.jax_compilation_cache_dir is None:
        kind = f"{machine.processor()} {platform.machine()}"
        kind = re.sub(r"\W+", "-", kind).strip("-")
        jax.config.update("jax_compilation_cache_dir", str(folder / kind))
    least = "jax_persistent_cache_min_compile_time_secs"
    if least.upper() not in os.environ and getattr(jax.config, least) == 1:  # JAX's own
        # What draws the initial weights, too: each is quick, all together slow.
        jax.config.update(least, 0.01)
    return jax.config.jax_compilation_cache_dir
