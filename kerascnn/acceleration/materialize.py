"""Arrays that XLA computes and stores before anything uses them."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from kerascnn.acceleration.mesh import is_cut_explicitly
from kerascnn.acceleration.platforms import by_platform


def _never(x):
    """False, from the bits of a number of `x` so that XLA cannot know it."""
    x = jax.tree.leaves(x)[0]
    bits = lax.bitcast_convert_type(x.ravel()[0], f"uint{8 * x.dtype.itemsize}")
    return (bits | 1) == 0


# Eagerly, `lax.while_loop` compiles the new functions of each call and keeps them;
# `jax.jit` compiles once for a shape; where it is traced, it leaves nothing behind.
@functools.partial(jax.jit, inline=True)
def stored_on_cpu(x, witness=None):
    """`stored` on a CPU, which asks a number of `witness`, or of `x` itself."""
    if not all(each.size for each in jax.tree.leaves((x, witness))):
        return x
    # A witness is an array that has been computed before: of `x`, XLA would compile all
    # that it is computed from once more, for that one number.
    never = _never(x if witness is None else witness)
    # XLA removes a loop whose turns change nothing, unless a barrier stands in it. It
    # drops barriers later, so that the loop stays, and no code is compiled for a turn.
    return lax.while_loop(
        lambda state: state[0],
        lambda state: (state[0], lax.optimization_barrier(state[1])),
        (never, x),
    )[1]


_stored_by_platform = by_platform(stored_on_cpu, lambda x: x, elementwise=True)


def stored(x):
    """`x`, no booleans, on a CPU computed and stored before anything that uses it."""
    return x if is_cut_explicitly(x) else _stored(x)


@jax.custom_vjp
def _stored(x):
    # XLA fuses chains of elementwise operations and would compute each element of an
    # intermediate result again for each use, six times in the tiles. It drops
    # `lax.optimization_barrier` before it fuses, but it cannot fuse across a loop. This
    # one never turns, a fact that XLA cannot see.
    return _stored_by_platform(x)


_stored.defvjp(lambda x: (_stored(x), None), lambda _, ct: (_stored(ct),))

_after = by_platform(
    lambda x, other: jnp.where(_never(other), -x, x) if other.size else x,
    lambda x, other: x,
    elementwise=True,
)


@jax.custom_vjp
def after(x, other):
    """`x`, on a CPU not before `other`, because XLA sees another array than `x`."""
    return _after(x, other)


after.defvjp(lambda x, other: (after(x, other), None), lambda _, ct: (ct, None))
