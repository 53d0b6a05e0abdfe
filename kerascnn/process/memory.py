"""Less time and less memory from the C library, on Linux.

A training step on a CPU takes several hundred megabytes and gives them back. The C
library returns blocks of this size to the system immediately, and the system clears
each page when it is first written again; in a virtual machine the host may have to find
it first. That was a quarter to a half of the step of `cifar_vgg_aug`. Two things help,
by tunables that the C library reads when the process starts: it keeps what a step gives
back for the next step, and asks for pages of 2 MiB instead of 4 KiB. With such pages it
keeps less: what a thread gives back in blocks over 64 MiB goes to the system.
https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html
"""

import functools
import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from kerascnn.process import backend, cores, postponed

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Blocks up to 8 GiB come from the heap, which gives back only what is more than 16 GiB
# at its end.
_KEEP = {
    "glibc.malloc.mmap_threshold": 2**33,
    "glibc.malloc.trim_threshold": 2**34,
}
# One heap for all threads: a thread's own ends at 64 MiB, and larger blocks come from
# the system, whose small pages cost most. Where pages are huge, it is the one heap that
# costs: two devices wait for each other there and find their memory in ever other
# places, which took an eighth to a fifth of the steps of large nets, and 100 MB more.
_ONE_HEAP = {"glibc.malloc.arena_max": 1}
# Where pages are huge, the main thread's blocks from 256 MiB on come from the system
# too: a step's memory, once given back to the heap, may miss its old place by some
# bytes, so that the heap grew by the whole of it, time and again.
_LARGEST_KEPT = {"glibc.malloc.mmap_threshold": 2**28}
# `keep_less` has smaller blocks given back.
_LARGEST_KEPT_BY_LARGE_NETS = 2**24
_M_MMAP_THRESHOLD = -3  # malloc.h
_HUGE_PAGES = {"glibc.malloc.hugetlb": 1}


def variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables with which a process keeps its memory.

    Args:
        environment: The variables that it has; by default this process's.

    Returns:
        Names and values; none where the C library is not glibc, or where the user has
        set `GLIBC_TUNABLES`: an empty one turns this off. Memory is kept by glibc 2.36
        and later, which takes any threshold; huge pages are asked for, by 2.35 and
        later, where the system leaves the choice.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in environment:
        return {}
    library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if library != "glibc":
        return {}
    release = tuple(map(int, version.split(".")))
    tunables = dict(_KEEP) if release >= (2, 36) else {}
    setting = _SETTING.read_text() if _SETTING.exists() else ""
    asked = "[madvise]" in setting and release >= (2, 35)
    if tunables:
        huge = asked or "[always]" in setting
        tunables |= _LARGEST_KEPT if huge else _ONE_HEAP
    if asked:
        tunables |= _HUGE_PAGES
    words = [f"{name}={value}" for name, value in tunables.items()]
    return {"GLIBC_TUNABLES": ":".join(words)} if words else {}


_is_program = False


def restart() -> None:
    """Start this process again with these variables, if it needs any.

    For the start of a program, before anything heavy is imported; its cores are
    devices from then on (`cores.as_devices`), and Keras will not import matplotlib and
    scipy before it uses them (`postponed`).
    """
    global _is_program
    _is_program = True
    cores.as_devices()
    if needed := variables():
        backend.restart(needed)
    postponed.postpone()


def keep_less() -> None:
    """Have the C library give back each block from 16 MiB on, where pages are huge.

    For large nets, in a program that began with `restart`, and until it ends. What an
    evaluation or a checkpoint has used serves no step: a training of `cifar_vgg_aug`
    takes 80 MB less. New pages cost its long steps nothing that could be measured;
    LeNet-5's, in batches of 512, would take a tenth longer.
    """
    ((name, size),) = _LARGEST_KEPT.items()
    if _is_program and f"{name}={size}" in os.environ.get("GLIBC_TUNABLES", ""):
        import ctypes

        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BY_LARGE_NETS)


@functools.cache
def trim_after_compiling() -> None:
    """Have JAX give back what its compiler needed, each time it has compiled.

    The pieces that the compiler gives back are too small for a step's arrays: without
    this, the most that a process training `cifar_vgg_aug` holds is 2.1 instead of 1.6
    GB.
    """
    import jax.monitoring

    def compiled(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and seconds > 1:
            trim()

    jax.monitoring.register_event_duration_secs_listener(compiled)


def forget_compiled() -> None:
    """Have JAX forget what it has compiled, in a program that began with `restart`.

    The many small functions that have drawn a network's weights, and what compiling
    them left behind, take 100 MB where `cifar_vgg_bn` is trained. In another process
    this does nothing: its owner's functions would have to be compiled again.
    """
    if _is_program:
        import jax

        jax.clear_caches()
        gc.collect()
        trim()


def trim() -> None:
    """Give the free pieces of memory back to the system, where the C library can.

    The next step takes what it needs anew, so this is for now and then: at the end of
    an epoch, for what an evaluation has left and places that a step no longer fits
    into, and after a checkpoint, whose thread has freed what serves no other.
    """
    import ctypes

    if os.name == "nt":
        return
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)
