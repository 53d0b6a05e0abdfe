"""Functions of images that each device of a mesh computes for its own images."""

import jax
from jax.sharding import PartitionSpec

# The axis of a mesh of devices over which a batch is cut (see `on_each_device`).
BATCH = "batch"

_PART, WHOLE = PartitionSpec(BATCH), PartitionSpec()


def on_each_device(function, images, *others, result=_PART):
    """`function` of images and others; each device of a mesh takes its images."""
    # `images` may be a tuple of arrays, of equally many. Left to itself, XLA would send
    # images from device to device for the loops over blocks. The result is one for each
    # image, or, as `WHOLE`, the same on all.
    if not may_be_cut(images):
        return function(images, *others)
    return jax.shard_map(
        function,
        in_specs=(_PART, *[WHOLE] * len(others)),
        out_specs=result,
        check_vma=False,
    )(images, *others)


def may_be_cut(images):
    """Whether a mesh is set whose automatic axis `BATCH` divides their number."""
    mesh = jax.sharding.get_abstract_mesh()
    number = len(jax.tree.leaves(images)[0])
    return BATCH in mesh.auto_axes and number % mesh.shape[BATCH] == 0
