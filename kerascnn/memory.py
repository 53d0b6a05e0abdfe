"""Less time and less memory from the C library, on Linux.

A training step on a CPU takes several hundred megabytes from the system and gives them
back. The system clears each page when it is first written, which costs a quarter of the
step of `cifar_vgg_aug`. With pages of 2 MiB instead of 4 KiB it is 400 interruptions
instead of 190,000; the C library asks for them if a tunable is set when the process
starts. https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html
"""

import functools
import os
import sys
from pathlib import Path

from kerascnn import command_line

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def variables() -> dict[str, str]:
    """Return the environment variables that a process needs to get huge pages.

    Returns:
        Names and values; none where the C library is not glibc 2.35 or later, where
        the system gives such pages always or never, or where the user has set
        `GLIBC_TUNABLES`: an empty one turns this off.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return {}
    library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if library != "glibc" or tuple(map(int, version.split("."))) < (2, 35):
        return {}
    if not _SETTING.exists() or "[madvise]" not in _SETTING.read_text():
        return {}
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def restart() -> None:
    """Start this process again with these variables, if it needs any.

    For the start of a program, before anything heavy is imported.
    """
    if needed := variables():
        command_line.restart(needed)


@functools.cache
def trim_after_compiling() -> None:
    """Have JAX give back what its compiler needed, each time it has compiled.

    Compiling the step of `cifar_vgg_aug` takes 600 MB, of which the C library would
    keep 450 to itself while the step takes its own.
    """
    import ctypes

    import jax.monitoring

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name != "nt" else None

    def compiled(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and seconds > 1:
            trim(0)

    if trim:
        jax.monitoring.register_event_duration_secs_listener(compiled)
