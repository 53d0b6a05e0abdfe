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
    """Keep this process to its share of its cores, where the system can do that.

    Args:
        number: Which share, counted from 0.
        of: How many shares. Where there are more than cores, some change nothing.
    """
    if of > 1 and hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))[number::of]
        if mine:
            os.sched_setaffinity(0, mine)


def as_devices() -> None:
    """Have JAX take each of this process's cores, up to four, for a device.

    For the start of a program, before JAX computes. Each device has a copy of the
    weights: hence no more of them. The user's own `JAX_NUM_CPU_DEVICES` stays.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        number = min(available(), 4)
        os.environ["JAX_NUM_CPU_DEVICES"] = str(number)
        if jax := sys.modules.get("jax"):  # which has read the environment
            jax.config.update("jax_num_cpu_devices", number)
