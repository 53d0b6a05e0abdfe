"""A batch on several devices: GPUs, or the cores of one CPU.

Each device computes its own part of a batch, and they wait for each other only for
numbers of all images: gradients, which are added up, and the means and variances of
BatchNorm. The numbers are one device's but for rounding, and what is drawn of an image
is the same however many devices there are. On one device of a CPU XLA spreads one
operation after another over the cores, and after each the cores wait for the slowest:
hence each core is a device.

A batch that the devices do not divide is filled up with images that do not count.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kerascnn import UsageError, acceleration, transforms
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
    *(acceleration.Conv2D, acceleration.MaxPooling2D, acceleration.Activation),
    *(keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Resizing),
    *(keras.layers.Dense, keras.layers.Flatten, keras.layers.ZeroPadding2D),
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D),
    *(keras.layers.GlobalMaxPooling2D, keras.layers.GlobalAveragePooling2D),
    *(keras.layers.Activation, keras.layers.Add, keras.layers.Concatenate),
}

# Layers that do so too, once BatchNorm is told which images count. What they draw of an
# image is a function of its place in the batch, and not of the batch's size.
_FILLED_UP = {
    *_SINGLY,
    *(acceleration.BatchNormalization, acceleration.Dropout, keras.layers.Dropout),
    *(keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D),
    *(keras.layers.Conv2DTranspose, keras.layers.UpSampling2D, keras.layers.Cropping2D),
    *(keras.layers.LayerNormalization, keras.layers.GroupNormalization),
    *(keras.layers.Multiply, keras.layers.Average, keras.layers.Maximum),
    *(keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.PReLU),
    *(keras.layers.Reshape, keras.layers.Permute, keras.layers.Normalization),
    *(keras.layers.RandomFlip, keras.layers.GaussianNoise, keras.layers.CenterCrop),
    *(transforms.RandomCrop, transforms.RandomAlternatingFlip),
    *(transforms.RandomErasing, transforms.RandomRotation),
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


def mesh(
    model: keras.Model, batch_size: int, devices: int | None = None
) -> Mesh | None:
    """Return the devices that share a model's batches; None where one is as good.

    `devices` is how many of each process are asked for; left out, a CPU's share a batch
    where that pays, and as many as shorten a step: 5 for 9 images where there are 8,
    because with either number some device has two. Where a layer may look at several
    images at once, as many devices are taken as divide a batch. How many devices a CPU
    has is settled when the process starts: see `cores.as_devices`.
    """
    if jax.config.jax_disable_jit:
        return None
    every = _local_first(devices)
    several = jax.process_count() > 1
    alone = devices is None and jax.default_backend() == "cpu" and not several
    if alone and batch_size * sum(counts.multiplications(model)) < WORTH:
        return None
    number = len(every)
    if not is_filled_up(model):
        number = max(n for n in range(1, number + 1) if batch_size % n == 0)
    elif not several:
        number = -(-batch_size // -(-batch_size // number))
    if several and number < len(every):
        raise UsageError(
            f"{len(every)} devices of {jax.process_count()} processes do not divide a "
            f"batch of {batch_size}, and {unknown_layer(model)} may look at several "
            "images at once, so the batch can't be filled up: choose a --batch-size "
            f"that they divide, such as {-(-batch_size // len(every)) * len(every)}."
        )
    if number == 1:
        return None
    return Mesh(np.array(every[:number]), (BATCH,), axis_types=(AxisType.Auto,))


def _local_first(devices: int | None) -> list[Any]:
    """Return so many devices of each process, by the processes' order."""
    every = jax.devices()
    if devices is None:
        return every
    found: list[Any] = []
    for process in range(jax.process_count()):
        own = [each for each in every if each.process_index == process]
        if devices > len(own):
            where = f"in process {process}" if jax.process_count() > 1 else "here"
            raise UsageError(
                f"--devices {devices}: there are {len(own)} {where} ({_kinds(own)})."
            )
        found += own[:devices]
    return found


def available(devices: int | None = None) -> int:
    """Return how many devices could share a batch."""
    return len(_local_first(devices))


def _kinds(devices: list[Any]) -> str:
    """Return what kind of devices these are, in words."""
    return ", ".join(sorted({each.device_kind for each in devices}))


def unknown_layer(model: keras.Model) -> str | None:
    """Name a layer that is not known to compute each image by itself, if any."""
    for each in getattr(model, "operations", model.layers):
        if acceleration.is_graph(each):
            if (found := unknown_layer(each)) is not None:
                return found
        elif not (
            type(each) in _FILLED_UP
            and each.activity_regularizer is None
            and _is_keras_own(getattr(each, "activation", keras.activations.linear))
        ):
            return f"{type(each).__name__} {each.name!r}"
    return None


def is_filled_up(model: keras.Model) -> bool:
    """Whether a model's batches may hold images that do not count."""
    # Without this setting of JAX, what is drawn depends on how much is drawn.
    return jax.config.jax_threefry_partitionable and unknown_layer(model) is None


def free_on_device() -> int | None:
    """Return the bytes that are free on JAX's first device; `None` on a CPU."""
    room = jax.local_devices()[0].memory_stats()
    return room and room["bytes_limit"] - room["bytes_in_use"]


def used_on_device() -> int | None:
    """Return the bytes in use on JAX's first device; `None` on a CPU."""
    room = jax.local_devices()[0].memory_stats()
    return room and room["bytes_in_use"]


def sharing_memory(mesh: Mesh | None) -> int:
    """Return how many devices of a mesh compute in one memory: a host's CPU's."""
    on_cpu = mesh is not None and jax.default_backend() == "cpu"
    return len(mesh.local_devices) if mesh is not None and on_cpu else 1


def copied(mesh: Mesh | None, tree: Any) -> Any:
    """Return arrays as each device of a mesh has them whole."""
    sharding = mesh and NamedSharding(mesh, PartitionSpec())
    if sharding is None or sharding.is_fully_addressable:
        # A CPU copies no NumPy array for it whose place in memory XLA takes.
        return jax.device_put(tree, sharding)

    def shared(array: Any) -> jax.Array:
        # Every process has the same values: none is sent to another.
        own = [jax.device_put(array, each) for each in mesh.local_devices]
        return jax.make_array_from_single_device_arrays(np.shape(array), sharding, own)

    return jax.tree.map(shared, tree)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FilledUp:
    """Batches, `(steps, images, ...)`, of which the first `number` images count."""

    array: Any
    number: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype


Batches = jax.Array | np.ndarray | FilledUp


def cut(mesh: Mesh | None, batches: np.ndarray, fill: bool = True) -> Batches:
    """Return batches, `(steps, images, ...)`, cut among devices, filled up if need be.

    Without `fill`, of a batch that they do not divide each device computes all.
    """
    if mesh is None:
        return batches
    number = batches.shape[1]
    missing = -number % mesh.size
    if missing and fill:
        room = [(0, 0)] * batches.ndim
        room[1] = 0, missing
        batches = np.pad(batches, room, mode="edge")
    axis = BATCH if fill or not missing else None
    sharding = NamedSharding(mesh, PartitionSpec(None, axis))
    if sharding.is_fully_addressable:
        array = jax.device_put(batches, sharding)
    else:
        array = jax.make_array_from_callback(
            batches.shape, sharding, lambda index: batches[index]
        )
    return FilledUp(array, number) if missing and fill else array


def of_arguments(batches: Batches) -> tuple[Any, int]:
    """Return a compiled function's batches, and how many images of each count."""
    if isinstance(batches, FilledUp):
        return batches.array, batches.number
    return batches, batches.shape[1]


class Images(NamedTuple):
    """Indices of a batch's images or of its parts', and which of them count.

    Attributes:
        indices: int32 `(images,)` or `(parts, images)`.
        counted: bool of the same shape; None where all count.
        number: How many count, of parts in the mean.
    """

    indices: jax.Array
    counted: jax.Array | None
    number: float

    @property
    def size(self) -> int:
        """Images of a part, those included that do not count."""
        return self.indices.shape[-1]


def on_mesh(
    mesh: Mesh | None, model: keras.Model, forward: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a forward pass of a batch that a mesh's devices share, under `tracing`.

    A batch that they do not divide is filled up, and the outputs of what fills it are
    left out; where it can't be filled up, each device computes all.
    """
    if mesh is None:
        return forward

    def of_images(images: jax.Array, training: bool) -> jax.Array:
        number = len(images)
        if number % mesh.size and not is_filled_up(model):
            return forward(images, training=training)
        chosen = _shared(mesh, jnp.arange(number))
        with acceleration.counted.only(chosen.counted):
            return forward(images[chosen.indices], training=training)[:number]

    return of_images


def in_parts(
    mesh: Mesh | None, model: keras.Model, chosen: jax.Array, number: int | None = None
) -> Images:
    """Return a batch's indices, `(images,)`, as those of its parts, `(parts, images)`.

    The gradient of a batch's mean loss is the mean of its parts' gradients. Computed
    one after the other, the parts share the memory that the way back takes. The first
    `number` images count.

    There is one part on an accelerator; where there is no mesh or its devices don't
    share the images evenly; where not every layer is known to compute each image by
    itself, in float32 and as fast inside a loop; where a variable does not train, as
    those of BatchNorm and of random layers; where the images can't be halved; and where
    a part would keep less than twice the bytes of the weights, for whose gradients it
    takes one more array to add to.
    """
    number = len(chosen) if number is None else number
    counted = None if number == len(chosen) else jnp.arange(len(chosen)) < number
    parts = 1
    even = mesh is not None and len(chosen) % mesh.size == 0
    if even and jax.default_backend() == "cpu" and _is_computed_singly(model):
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
        return Images(chosen[None], None if counted is None else counted[None], number)

    # Each device's images are one after the other.
    def parted(array: jax.Array) -> jax.Array:
        return array.reshape(mesh.size, parts, -1).swapaxes(0, 1).reshape(parts, -1)

    counted = None if counted is None else parted(counted)
    return Images(parted(chosen), counted, number / parts)


def pieces(
    mesh: Mesh | None, chosen: jax.Array, size: int, number: int | None = None
) -> tuple[Images, Images]:
    """Return a batch's indices as pieces, `(pieces, size)`, and what is left over.

    A piece holds the same images however many devices share it, because what is drawn
    of an image follows from its place in the piece. The first `number` images count.
    """
    number = len(chosen) if number is None else number
    whole = number // size
    full = chosen[: whole * size].reshape(whole, size)
    return _shared(mesh, full), _shared(mesh, chosen[whole * size : number])


def _shared(mesh: Mesh | None, indices: jax.Array) -> Images:
    """Return indices cut among devices, filled up where these do not divide them."""
    number = indices.shape[-1]
    missing = -number % mesh.size if mesh is not None and indices.size else 0
    if missing:
        before = [(0, 0)] * (indices.ndim - 1)
        indices = jnp.pad(indices, [*before, (0, missing)], mode="edge")
    if mesh is not None and indices.size:
        spec = PartitionSpec(*[None] * (indices.ndim - 1), BATCH)
        indices = jax.lax.with_sharding_constraint(indices, NamedSharding(mesh, spec))
    if not missing:
        return Images(indices, None, number)
    counted = jnp.arange(number + missing) < number
    return Images(indices, jnp.broadcast_to(counted, indices.shape), number)


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
    whole = {}
    if mesh is not None:
        whole = {"out_shardings": NamedSharding(mesh, PartitionSpec())}
    if jax.default_backend() != "cpu":
        return whole
    if mesh is None:
        return {"compiler_options": _FRUGAL}
    # Where each core is a device, no operation is to be spread over cores.
    alone = {"xla_cpu_multi_thread_eigen": _here(mesh) < cores.available()}
    return whole | {"compiler_options": _FRUGAL | _PATIENCE | alone}


def _here(mesh: Mesh) -> int:
    """Return how many of a mesh's devices are this process's."""
    return len(mesh.local_devices)
