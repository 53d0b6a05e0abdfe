"""A batch on several devices of one CPU.

XLA spreads one operation after another over the cores, and after each the cores wait
for the slowest. Where JAX takes each core for a device, each computes its own part of
the batch, and they wait only for numbers of all images: gradients, which are added up,
and the means and variances of BatchNorm. The numbers are the same but for rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import keras
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kerascnn import acceleration
from kerascnn.acceleration import BATCH
from kerascnn.engine import counts
from kerascnn.process import cores

# Multiplications in a forward pass of a batch from which it pays: below, the devices
# wait for each other longer than they gain (`kerascnn bench step fashion_lenet`, and
# `fashion_stride`, with JAX_NUM_CPU_DEVICES=1 and without).
WORTH = 1e9

# Bytes of results, kept for the way back, above which a part of a device's images is
# halved again. In two halves it is computed anyway: a step's memory comes new from the
# system, which clears it, and the less of it, the less time (`kerascnn bench step`).
AT_ONCE = 64e6

# Layers that compute a result for each image from this image alone.
_SINGLY = {
    *(acceleration.Conv2D, acceleration.MaxPooling2D),
    *(keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Resizing),
    *(keras.layers.Dense, keras.layers.Flatten, keras.layers.ZeroPadding2D),
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D),
    *(keras.layers.GlobalMaxPooling2D, keras.layers.GlobalAveragePooling2D),
    *(keras.layers.Activation, keras.layers.Add, keras.layers.Concatenate),
}

# By itself XLA computes each thing as soon as it can, so that more may run side by
# side, and keeps it until it is needed. With this scheduler XLA computes each thing as
# late as possible, so that fewer arrays live at once.
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
    """Return the devices that share a model's batches; None where one is as good.

    As many devices are taken as divide a batch. How many a CPU has is settled when the
    process starts: see `cores.as_devices`.
    """
    if jax.default_backend() != "cpu" or jax.config.jax_disable_jit:
        return None
    devices = jax.devices()
    number = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if number == 1 or batch_size * sum(counts.multiplications(model)) < WORTH:
        return None
    return Mesh(np.array(devices[:number]), (BATCH,), axis_types=(AxisType.Auto,))


def free_on_device() -> int | None:
    """Return the bytes that are free on JAX's first device; `None` on a CPU."""
    room = jax.devices()[0].memory_stats()
    return room and room["bytes_limit"] - room["bytes_in_use"]


def used_on_device() -> int | None:
    """Return the bytes in use on JAX's first device; `None` on a CPU."""
    room = jax.devices()[0].memory_stats()
    return room and room["bytes_in_use"]


def sharing_memory(mesh: Mesh | None) -> int:
    """Return how many devices of a mesh compute in one memory: those of a CPU."""
    on_cpu = mesh is not None and jax.default_backend() == "cpu"
    return mesh.size if mesh is not None and on_cpu else 1


def copied(mesh: Mesh | None, tree: Any) -> Any:
    """Return arrays as each device of a mesh has them whole."""
    # A CPU copies no NumPy array for it whose place in memory XLA takes.
    return jax.device_put(tree, mesh and NamedSharding(mesh, PartitionSpec()))


def cut(mesh: Mesh | None, batches: np.ndarray) -> jax.Array | np.ndarray:
    """Return batches, `(steps, images)`, cut among devices that divide them."""
    # Of a smaller last batch, each device may have to compute all.
    if mesh is None:
        return batches
    axis = BATCH if batches.shape[1] % mesh.size == 0 else None
    return jax.device_put(batches, NamedSharding(mesh, PartitionSpec(None, axis)))


def in_parts(mesh: Mesh | None, model: keras.Model, chosen: jax.Array) -> jax.Array:
    """Return a batch's indices, `(images,)`, as those of its parts, `(parts, images)`.

    The gradient of a batch's mean loss is the mean of its parts' gradients. Computed
    one after the other, the parts share the memory that the way back takes.

    There is one part where there is no mesh or its devices don't share the images
    evenly; where not every layer is known to compute each image by itself, in float32
    and as fast inside a loop; where a variable does not train, as those of BatchNorm
    and of random layers; where the images can't be halved; and where a part would keep
    less than twice the bytes of the weights, for whose gradients it takes one more
    array to add to.
    """
    parts = 1
    if mesh is not None and len(chosen) % mesh.size == 0 and _is_computed_singly(model):
        images = len(chosen) // mesh.size
        kept = 4 * images * sum(counts.results(model))
        enough = 2 * 4 * model.count_params()
        while (
            (parts == 1 or kept / parts > AT_ONCE)
            and images % (2 * parts) == 0
            and kept / (2 * parts) >= enough
        ):
            parts *= 2
    if parts == 1:
        return chosen[None]
    # Each device's images are one after the other.
    return chosen.reshape(mesh.size, parts, -1).swapaxes(0, 1).reshape(parts, -1)


def pieces(
    mesh: Mesh | None, chosen: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
    """Return a batch's indices as pieces, `(pieces, size)`, and what is left over.

    Where devices share batch and pieces, each has its part of every piece.
    """
    devices = mesh.size if mesh is not None else 1
    if len(chosen) % devices or size % devices:
        devices = 1
    whole = len(chosen) // size
    # Each device's images are one after the other.
    own = chosen.reshape(devices, -1)
    cut = whole * size // devices
    full = own[:, :cut].reshape(devices, whole, size // devices).swapaxes(0, 1)
    return full.reshape(whole, size), own[:, cut:].reshape(-1)


def is_fast_in_a_loop(model: keras.Model) -> bool:
    """Whether every layer takes as long inside a compiled loop as outside."""
    return jax.default_backend() != "cpu" or all(
        is_fast_in_a_loop(each)
        if acceleration.is_graph(each)
        else acceleration.is_fast_in_a_loop(each)
        for each in getattr(model, "operations", model.layers)
        if isinstance(each, keras.layers.Layer)
    )


def _is_computed_singly(model: keras.Model) -> bool:
    """Whether each image is known to be computed by itself, and as fast in a loop."""
    operations = getattr(model, "operations", model.layers)  # Sequential has layers
    return not model.non_trainable_variables and all(
        _is_computed_singly(each)
        if acceleration.is_graph(each)
        else type(each) in _SINGLY
        and each.activity_regularizer is None
        and _is_keras_own(getattr(each, "activation", keras.activations.linear))
        and (not each.variables or each.dtype_policy.name == "float32")
        and acceleration.is_fast_in_a_loop(each)
        for each in operations
    )


def _is_keras_own(activation: Callable) -> bool:
    name = getattr(activation, "__name__", "")
    return getattr(keras.activations, name, None) is activation


def own(tree: Any) -> Any:
    """Return a tree of arrays that devices have whole as the first one has them."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def tracing(mesh: Mesh | None) -> AbstractContextManager:
    """Let the layers of `acceleration` know of a mesh, while a function is traced."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def options(mesh: Mesh | None) -> dict[str, Any]:
    """Return `jax.jit`'s arguments for a function whose results each device has."""
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
