"""Arrays that XLA computes and stores before anything uses them, and primitives."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def _never(x):
    """False, from the bits of a number of `x` so that XLA cannot know it."""
    bits = lax.bitcast_convert_type(x.ravel()[0], f"uint{8 * x.dtype.itemsize}")
    return (bits | 1) == 0


def after(x, other):
    """`x`, as XLA sees it another array, which it cannot have before `other`."""
    return jnp.where(_never(other), -x, x)


# Eagerly, `lax.while_loop` compiles the new functions of each call and keeps them;
# `jax.jit` compiles once for a shape; where it is traced, it leaves nothing behind.
@functools.partial(jax.jit, inline=True)
def stored_on_cpu(x, witness=None):
    """`stored` on a CPU, which asks a number of `witness`, or of `x` itself.

    A witness is an array that has been computed before: of `x`, XLA would compile all
    that it is computed from once more, for that one number.
    """
    never = _never(x if witness is None else witness)
    return lax.while_loop(
        lambda state: state[0], lambda state: (state[0], -state[1]), (never, x)
    )[1]


def stored(x):
    """`x`, on a CPU computed and stored before anything that uses it.

    XLA fuses chains of elementwise operations and would compute each element of an
    intermediate result again for each use, six times in the tiles. It drops
    `lax.optimization_barrier` before it fuses, but it cannot fuse across a loop. This
    one never turns, a fact that XLA cannot see.

    Args:
        x: Numbers, of any shape and any type but booleans.
    """
    return _store.bind(x)


_store = Primitive("store")

_store.def_impl(lambda x: x)

_store.def_abstract_eval(lambda x: x)

ad.deflinear2(_store, lambda ct, _: [_store.bind(ct)])

batching.defvectorized(_store)

mlir.register_lowering(_store, lambda _, x: [x])

mlir.register_lowering(
    _store, mlir.lower_fun(stored_on_cpu, multiple_results=False), platform="cpu"
)


def new_primitive(name, shape, fast, stock):
    """A primitive without derivatives, vectorised as `stock` is.

    For the arguments see `convolution._bilinear_primitive`.
    """
    primitive = Primitive(name)

    @functools.cache
    def compiled(**parameters):
        # Not `bind`, which without `jax.jit`, under `jax.disable_jit`, comes back here.
        return jax.jit(
            functools.partial(
                lax.platform_dependent,
                cpu=functools.partial(fast, **parameters),
                default=functools.partial(stock, **parameters),
            )
        )

    @primitive.def_impl
    def evaluate(*arguments, **parameters):
        return compiled(**parameters)(*arguments)

    @primitive.def_abstract_eval
    def abstract(*arguments, **parameters):
        return jax.core.ShapedArray(shape(*arguments, **parameters), arguments[0].dtype)

    def batch(arguments, axes, **parameters):
        return jax.vmap(functools.partial(stock, **parameters), axes)(*arguments), 0

    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(stock, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(fast, multiple_results=False), platform="cpu"
    )
    return primitive
