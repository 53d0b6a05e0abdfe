"""Less time and less memory from the C library, on Linux.

A training step on a CPU takes several hundred megabytes and gives them back. glibc
returns blocks of this size to the system immediately, and the system clears each page
when the next step writes it; in a virtual machine the host may have to find it first.
`prepare` has glibc keep them, on pages of 2 MiB.
https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

import ctypes
import functools
import gc
import os
import sys
from typing import Any

from kerascnn.process import signals

# glibc's malloc.h and Linux's mman.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MADV_DONTNEED, _MADV_HUGEPAGE = 4, 14

# The end of the heap that asks for huge pages: address space, until a step writes it.
_HEAP = 2**31

_keeps = False


@functools.cache
def _library() -> Any:
    """Return the C library with the signatures of what is called; None off glibc."""
    if sys.platform != "linux":
        return None
    name = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[0]
    if name != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = library.malloc_trim.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def prepare() -> str:
    """Have glibc keep what a step gives back, until this process ends; say what holds.

    One heap serves all threads, because a thread's own ends at 64 MiB and glibc maps
    larger blocks anew each time; the heap's end is never given back by itself.
    """
    global _keeps
    library = _library()
    if library is None:
        return "left alone: the C library is not glibc"
    if "GLIBC_TUNABLES" in os.environ:
        return "left alone: GLIBC_TUNABLES is set"
    if not _keeps:
        for parameter, value in (
            (_M_MMAP_MAX, 0),
            (_M_TRIM_THRESHOLD, -1),
            (_M_ARENA_MAX, 1),
        ):
            library.mallopt(parameter, value)
        _keeps = True
        _renew_end(library)
    return "one heap that keeps what a step gives back, on huge pages where it can"


def _renew_end(library: Any) -> None:
    """Give the pages of the heap's end back, and have it ask for huge ones."""
    block = library.malloc(_HEAP)
    if not block:  # a limit on the address space: the end stays as it is
        return
    page = os.sysconf("SC_PAGE_SIZE")
    first = -(-block // page) * page
    size = (block + _HEAP - first) // page * page
    library.madvise(first, size, _MADV_DONTNEED)
    library.madvise(first, size, _MADV_HUGEPAGE)
    library.free(block)


def trim() -> None:
    """Give the free pieces of memory back to the system, where the C library can."""
    library = _library()
    if library is None:
        return
    if not _keeps:
        library.malloc_trim(0)
        return
    # malloc_trim would shorten the heap, and what it grows by later has small pages.
    library.malloc_trim(2**62)
    _renew_end(library)


def trim_between_steps() -> None:
    """Give back what a large net's step has freed, in a process that keeps it.

    XLA allocates aligned blocks, for which glibc looks for some bytes more than it then
    uses, so that a step's block seldom fits its old place: the heap would grow by all
    of it, time and again. Huge pages make new ones cheap. Call it while no step runs.
    """
    if _keeps:
        trim()


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
