"""The gradient of a batch from those of its parts, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kerascnn.engine.placement import Images

# Of weights, other variables and some images: the gradients, and (others, sums).
Of = Callable[[list, list, Images], tuple[list, tuple[list, dict[str, Any]]]]


def gradients(
    of: Of,
    weights: list,
    others: list,
    parts: Images,
    rest: Images,
    nothing: dict[str, Any],
    unroll: bool,
) -> tuple[list, tuple[list, dict[str, Any]]]:
    """Return what `of` returns of a batch, computed in parts.

    Args:
        of: Computes the gradients of the sum of some images' losses, divided by their
            `number`, and sums over them.
        weights: The trained variables.
        others: The variables that do not train, which each part hands on.
        parts: Images, `(parts, size)`.
        rest: Those of a last, smaller part, which may have none.
        nothing: The sums over no images.
        unroll: Write the loop over the parts out.
    """
    number, left = len(parts.indices), rest.size
    if not left and number == 1:
        first = jax.tree.map(lambda each: each[0], (parts.indices, parts.counted))
        return of(weights, others, Images(*first, parts.number))
    if not number:
        return of(weights, others, rest)

    def add(so_far, chosen):
        # What follows from weights that are the same for all parts, as a kernel's
        # transform, XLA would compute before the loop and keep. Where the loop is
        # unrolled, no part begins before the last one has ended.
        so_far, held, chosen = jax.lax.optimization_barrier((so_far, weights, chosen))
        total, others = so_far
        found, (others, sums) = of(held, others, Images(*chosen, parts.number))
        return (jax.tree.map(jnp.add, total, (found, sums)), others), None

    zeros = jax.tree.map(jnp.zeros_like, weights), nothing
    each = parts.indices, parts.counted
    found, _ = jax.lax.scan(add, (zeros, others), each, unroll=unroll or 1)
    (total, sums), others = found
    if not left:
        return [each / number for each in total], (others, sums)
    found, held, chosen = jax.lax.optimization_barrier((found, weights, rest[:2]))
    (total, sums), others = found
    last, (others, of_rest) = of(held, others, Images(*chosen, rest.number))
    size, images = parts.number, parts.number * number + rest.number
    means = [
        (size * a + rest.number * b) / images for a, b in zip(total, last, strict=True)
    ]
    return means, (others, jax.tree.map(jnp.add, sums, of_rest))
