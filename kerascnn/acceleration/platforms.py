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
            if of_images and batched[0] and not any(jax.tree.leaves(batched[1:])):
                y = choose(x.reshape(-1, *x.shape[2:]), *others)
                return y.reshape(size, -1, *y.shape[1:]), True
            axes = jax.tree.map(lambda each: 0 if each else None, tuple(batched))
            return jax.vmap(elsewhere, axes)(*arrays), True

        return choose(*arrays)

    return lambda *arrays, **constants: compiled(
        *arrays, constants=tuple(constants.items())
    )
