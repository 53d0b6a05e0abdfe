"""Functions that a CPU computes in another way than all other platforms."""

import functools

import jax
from jax import lax


def by_platform(fast, stock, of_images=False, elementwise=False):
    """A function that a CPU computes as `fast`, everything else as `stock`.

    Eager calls compile once for a shape, because `jax.jit` traces both. Under
    `jax.vmap`, `stock` is vectorised, on a CPU too, but `of_images` makes one call with
    a larger batch of a vectorised call with one kernel. `elementwise` says that the
    result is the first argument.
    """

    @functools.partial(jax.jit, static_argnames="constants", inline=True)
    def compiled(*arrays, constants):
        on_cpu, elsewhere = (
            functools.partial(function, **dict(constants)) for function in (fast, stock)
        )

        @jax.custom_batching.custom_vmap
        def choose(*arrays):
            return lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere)

        @choose.def_vmap
        def vectorised(size, batched, *arrays):
            x, *others = arrays
            if elementwise:
                return x, batched[0]
            one_call = of_images and not any(jax.tree.leaves(batched[1:]))
            if one_call and all(jax.tree.leaves(batched[0])):
                x = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), x)
                y = choose(x, *others)
                y = jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), y)
            else:
                axes = jax.tree.map(lambda each: 0 if each else None, tuple(batched))
                y = jax.vmap(elsewhere, axes)(*arrays)
            return y, jax.tree.map(lambda _: True, y)

        return choose(*arrays)

    return lambda *arrays, **constants: compiled(
        *arrays, constants=tuple(constants.items())
    )
