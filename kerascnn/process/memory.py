"""Less time and less memory from the C library, on Linux.

A training step on a CPU takes several hundred megabytes and gives them back. glibc
returns blocks of this size to the system immediately, and the system clears each page
when the next step writes it; in a virtual machine the host may have to find it first.
glibc keeps them, on pages of 2 MiB, where tunables say so, which it reads when a
process starts.
https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html
"""

import ctypes
import functools
import gc
import os
import sys
from pathlib import Path

from kerascnn.process import signals

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Where pages are huge, the main thread's blocks from 256 MiB on come from the system:
# the heap would place a step's block some bytes beside its old place, and grow.
_LARGEST_KEPT, _LARGEST_KEPT_BY_LARGE_NETS = 2**28, 2**24
_M_MMAP_THRESHOLD = -3  # glibc's malloc.h


def variables() -> dict[str, str]:
    """Return the environment variables with which a process keeps its memory.

    None where the C library is not glibc, or where the user has chosen.
    """
    if "GLIBC_TUNABLES" in os.environ or os.environ.get("KERASCNN_PREPARE") == "0":
        return {}
    tunables = _tunables()
    return {"GLIBC_TUNABLES": tunables} if tunables else {}


def _tunables() -> str:
    """Return what GLIBC_TUNABLES is to be here; nothing where nothing helps."""
    if sys.platform != "linux":
        return ""
    library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if library != "glibc":
        return ""
    release = tuple(map(int, version.split(".")))
    setting = _HUGE_PAGES.read_text() if _HUGE_PAGES.exists() else ""
    asked = "[madvise]" in setting and release >= (2, 35)
    tunables: dict[str, int] = {}
    if release >= (2, 36):  # which takes any threshold
        tunables["trim_threshold"] = 2**34
        if asked or "[always]" in setting:
            tunables["mmap_threshold"] = _LARGEST_KEPT
        else:
            # A thread's own heap ends at 64 MiB, and glibc maps larger blocks anew,
            # whose small pages cost most: one heap serves all threads.
            tunables |= {"mmap_threshold": 2**33, "arena_max": 1}
    if asked:
        tunables["hugetlb"] = 1
    return ":".join(f"glibc.malloc.{k}={value}" for k, value in tunables.items())


def is_ours(tunables: str) -> bool:
    """Whether this package has chosen these tunables, not the user."""
    return bool(tunables) and tunables == _tunables()


def said() -> str:
    """Say what holds in this process."""
    if (tunables := os.environ.get("GLIBC_TUNABLES")) is not None:
        return f"GLIBC_TUNABLES={tunables}"
    if not _tunables():
        return "left alone: the C library is not glibc, or too old"
    return "left alone: glibc reads GLIBC_TUNABLES when a process starts"


def keep_less() -> None:
    """Have glibc give back each block from 16 MiB on, for a large net's process.

    What an evaluation or a checkpoint has used serves no step, and new huge pages cost
    a long step nothing that shows.
    """
    kept = f"glibc.malloc.mmap_threshold={_LARGEST_KEPT}"
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    if signals.is_program() and kept in tunables:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BY_LARGE_NETS)


def trim() -> None:
    """Give the free pieces of memory back to the system, where the C library can."""
    if os.name == "nt":
        return
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)


@functools.cache
def trim_after_compiling() -> None:
    """Have JAX give back what its compiler needed, each time it has compiled.

    The pieces that the compiler gives back are too small for a step's arrays.
    """
    import jax.monitoring

    def compiled(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and seconds > 1:
            trim()

    jax.monitoring.register_event_duration_secs_listener(compiled)


def forget_compiled() -> None:
    """Have JAX forget what it has compiled, where the command line runs this process.

    The many small functions that draw a network's weights, and what compiling them
    leaves behind, serve no step. A library's user would have to compile theirs again.
    """
    if signals.is_program():
        import jax

        jax.clear_caches()
        gc.collect()
        trim()
