"""A batch on several devices of one CPU.

XLA spreads one operation after another over the cores, and after each the cores wait
for the slowest: a fifth of a large net's step. Where JAX takes each core for a device,
each computes its own part of the batch, and they wait only for numbers of all images:
gradients, which are added up, and the means and variances of BatchNorm. They are the
same but for rounding.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import jax
import keras
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kerascnn import cores
from kerascnn.acceleration import BATCH
from kerascnn.training import models

# Multiplications in a forward pass of a batch from which it pays: below, the devices
# wait for each other longer than they gain. Measured on two AVX-512 cores: LeNet-5's
# 0.1 billion take 8 % longer, the strided net's 2.6 billion 12 % less.
WORTH = 1e9

# By itself XLA computes each thing as soon as it can, so that more may run side by
# side, and keeps it until it is needed. Computed as late as possible, a step of
# cifar_vgg_aug takes 100 MB less and no more time.
_FRUGAL = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

# XLA ends a process in which one device has waited for another for 40 seconds, as after
# Ctrl-Z or a laptop's sleep.
_DAY = 24 * 60 * 60
_PATIENCE = {
    "xla_cpu_collective_call_warn_stuck_seconds": _DAY,
    "xla_cpu_collective_call_terminate_timeout_seconds": _DAY,
    "xla_cpu_collective_timeout_seconds": _DAY,
}


def mesh(model: keras.Model, batch_size: int) -> Mesh | None:
    """Return the devices among which a model's batches are to be cut.

    Args:
        model: The model.
        batch_size: Images a step. As many devices are taken as divide it.

    Returns:
        A mesh of one axis, `acceleration.BATCH`; None where one device is as good, and
        on a GPU or a TPU. How many devices a CPU has is settled when the process
        starts: see `cores.as_devices`.
    """
    if jax.default_backend() != "cpu":
        return None
    devices = jax.devices()
    number = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if number == 1 or batch_size * sum(models.multiplications(model)) < WORTH:
        return None
    return Mesh(np.array(devices[:number]), (BATCH,), axis_types=(AxisType.Auto,))


def copied(mesh: Mesh | None, tree: Any) -> Any:
    """Return arrays as each device of a mesh has them whole.

    A NumPy array is not copied for that on a CPU, but where its place in memory is one
    that XLA does not take.
    """
    return jax.device_put(tree, mesh and NamedSharding(mesh, PartitionSpec()))


def cut(mesh: Mesh | None, batches: np.ndarray) -> jax.Array | np.ndarray:
    """Return batches, `(steps, images)`, cut among the devices where they divide them.

    A smaller last batch may not be to be divided: then each device computes it all.
    """
    if mesh is None:
        return batches
    axis = BATCH if batches.shape[1] % mesh.size == 0 else None
    return jax.device_put(batches, NamedSharding(mesh, PartitionSpec(None, axis)))


def own(tree: Any) -> Any:
    """Return a tree of arrays that devices have whole as the first one has them."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def tracing(mesh: Mesh | None) -> AbstractContextManager:
    """Let the layers of `acceleration` know of a mesh, while a function is traced."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def options(mesh: Mesh | None) -> dict[str, Any]:
    """Return the arguments of `jax.jit` for a function of a training.

    On the devices of a mesh, its results are whole on each.
    """
    if jax.default_backend() != "cpu":
        return {}
    if mesh is None:
        return {"compiler_options": _FRUGAL}
    # Where each core is a device, no operation is to be spread over cores.
    alone = {"xla_cpu_multi_thread_eigen": mesh.size < cores.available()}
    return {
        "out_shardings": NamedSharding(mesh, PartitionSpec()),
        "compiler_options": _FRUGAL | _PATIENCE | alone,
    }
