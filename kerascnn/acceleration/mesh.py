"""Functions of images that each device of a mesh computes for its own images."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

# The axis of a mesh of devices over which a batch is cut (see `on_each_device`).
BATCH = "batch"

_PART, WHOLE = PartitionSpec(BATCH), PartitionSpec()


def alike(*trees):
    """Arrays that vary over each axis of a `shard_map` that one of them varies over.

    JAX makes those of its own operations alike, and so knows to add up the derivative
    by an array that all devices share. Outside of `shard_map` nothing changes.
    """
    leaves = jax.tree.leaves(trees)
    if not jax.sharding.get_abstract_mesh().manual_axes or len(leaves) < 2:
        return trees
    zeros = (jnp.zeros_like(each, shape=()) for each in leaves)
    zero = functools.reduce(jnp.add, zeros)
    return jax.tree.map(lambda each: each + zero.astype(each.dtype), trees)


def is_cut_explicitly(*trees):
    """Whether an array's type says how a mesh of explicit axes cuts it.

    Then JAX asks each operation how it cuts its result, which loops over blocks cannot
    say: the stock operations are used.
    """
    specs = (jax.typeof(each).sharding.spec for each in jax.tree.leaves(trees))
    return any(axis is not None for spec in specs for axis in spec)


def on_each_device(function, images, *others, result=_PART):
    """`function` of images and others; each device of a mesh takes its images."""
    # `images` may be a tuple of arrays, of equally many. Left to itself, XLA would send
    # images from device to device for the loops over blocks. The result is one for each
    # image, or, as `WHOLE`, the same on all.
    images, *others = alike(images, *others)
    if not may_be_cut(images):
        return function(images, *others)
    return jax.shard_map(
        function,
        in_specs=(_PART, *[WHOLE] * len(others)),
        out_specs=result,
        check_vma=False,
    )(images, *others)


def may_be_cut(images):
    """Whether a mesh is set whose automatic axis `BATCH` divides their number.

    A number that is symbolic, as in an export, is not divided.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # Inside of a `shard_map` that checks which arrays vary, none that does not may be.
    if BATCH not in mesh.auto_axes or mesh.manual_axes:
        return False
    number = jax.tree.leaves(images)[0].shape[0]
    return isinstance(number, int) and number % mesh.shape[BATCH] == 0
