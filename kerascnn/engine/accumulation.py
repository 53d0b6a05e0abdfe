"""The gradient of a batch from those of its parts, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Of weights, other variables and some images: the gradients, and (others, sums).
Of = Callable[[list, list, jax.Array], tuple[list, tuple[list, dict[str, Any]]]]


def gradients(
    of: Of,
    weights: list,
    others: list,
    parts: jax.Array,
    rest: jax.Array,
    nothing: dict[str, Any],
    unroll: bool,
) -> tuple[list, tuple[list, dict[str, Any]]]:
    """Return what `of` returns of a batch, computed in parts.

    Args:
        of: Computes the gradients of the mean loss of some images, and sums over them.
        weights: The trained variables.
        others: The variables that do not train, which each part hands on.
        parts: Indices of images, `(parts, size)`.
        rest: Those of a last, smaller part, which may have none.
        nothing: The sums over no images.
        unroll: Write the loop over the parts out.
    """
    left = len(rest)
    if not left and len(parts) == 1:
        return of(weights, others, parts[0])
    if not len(parts):
        return of(weights, others, rest)

    def add(so_far, chosen):
        # What follows from weights that are the same for all parts, as a kernel's
        # transform, XLA would compute before the loop and keep. Where the loop is
        # unrolled, no part begins before the last one has ended.
        so_far, held, chosen = jax.lax.optimization_barrier((so_far, weights, chosen))
        total, others = so_far
        found, (others, sums) = of(held, others, chosen)
        return (jax.tree.map(jnp.add, total, (found, sums)), others), None

    zeros = jax.tree.map(jnp.zeros_like, weights), nothing
    found, _ = jax.lax.scan(add, (zeros, others), parts, unroll=unroll or 1)
    (total, sums), others = found
    if not left:
        return [each / len(parts) for each in total], (others, sums)
    found, held, rest = jax.lax.optimization_barrier((found, weights, rest))
    (total, sums), others = found
    last, (others, of_rest) = of(held, others, rest)
    size, number = parts.shape[1], parts.size + left
    means = [(size * a + left * b) / number for a, b in zip(total, last, strict=True)]
    return means, (others, jax.tree.map(jnp.add, sums, of_rest))
