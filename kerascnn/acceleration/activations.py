"""Activations that keep less for their derivative."""

import jax
import jax.numpy as jnp

from kerascnn.acceleration.materialize import after
from kerascnn.acceleration.mesh import is_cut_explicitly, on_each_device


@jax.custom_vjp
def _silu(x):
    return jax.nn.silu(x)


def _silu_backward(x, g):
    # XLA would keep the sigmoid as well: of another array, as far as XLA can see, it
    # must be computed again (`kerascnn bench ablation --only silu`).
    x = after(x, g)
    sigmoid = jax.nn.sigmoid(x)
    return (g * (sigmoid * (1 + x * (1 - sigmoid))),)


_silu.defvjp(lambda x: (_silu(x), x), _silu_backward)


def fast_silu(x):
    """SiLU, `x * sigmoid(x)`; its derivatives of any order keep `x` alone on a CPU."""
    x = jnp.asarray(x)
    return jax.nn.silu(x) if is_cut_explicitly(x) else on_each_device(_silu, x)
