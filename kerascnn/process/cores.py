"""The processor's cores, and a process's share of them."""

from __future__ import annotations

import os
import sys


def available() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share(number: int, of: int) -> None:
    """Keep this process to its share of its cores, where the system can do that."""
    if of > 1 and hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))[number::of]
        if mine:
            os.sched_setaffinity(0, mine)


def only(number: int) -> None:
    """Keep this process to so many of its cores, where it has them and that can be."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def jax_has_begun() -> bool:
    """Whether JAX has its devices, after which it refuses another number of them."""
    if (jax := sys.modules.get("jax")) is None:
        return False
    name, number = "jax_num_cpu_devices", jax.config.jax_num_cpu_devices
    try:
        jax.config.update(name, number + 2)
    except RuntimeError:
        return True
    jax.config.update(name, number)
    return False


def as_devices(wanted: int | None = None) -> str:
    """Have JAX take each core, up to four, for a device, or as many as are wanted.

    It returns, in words, what holds.
    """
    # Each device has a copy of the weights: hence no more of them.
    if wanted and not jax_has_begun():
        import jax

        jax.config.update("jax_num_cpu_devices", wanted)
        return f"{wanted} of JAX: --devices"
    if number := os.environ.get("JAX_NUM_CPU_DEVICES"):
        return f"{number}: JAX_NUM_CPU_DEVICES is set"
    if jax_has_begun():
        return f"{sys.modules['jax'].device_count()}: too late, JAX has begun"
    import jax

    if jax.config.jax_num_cpu_devices > 0:
        return f"{jax.config.jax_num_cpu_devices}: jax.config says so"
    number = min(available(), 4)
    jax.config.update("jax_num_cpu_devices", number)
    return f"{number} of JAX: one a core"
