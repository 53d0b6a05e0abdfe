"""Which examples, and in which order: `order` and `split`, functions of a seed."""

from __future__ import annotations

import numpy as np

from kerascnn import UsageError
from kerascnn.data.arrays import Split

# `split` draws from the same generator as `order`, at an epoch no training reaches.
_SPLIT_EPOCH = 2**64 - 1


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order in which the n examples of a training set are shown in one epoch.

    It depends on the seed and the epoch alone, not on a global random state: every
    engine and backend shows the same examples, and a resumed run goes on where the
    interrupted one would have. Philox 4x64-10: Salmon et al., "Parallel random numbers:
    as easy as 1, 2, 3" (2011).
    """
    for name, value in (("seed", seed), ("epoch", epoch)):
        if not 0 <= value < 2**64:
            raise UsageError(
                f"{name}={value} is outside 0 ... 2**64 - 1: pass a number in range."
            )
    # NumPy promises the raw words of a bit generator for ever, but not what
    # Generator.permutation makes of them. The stable sort settles equal words the
    # same way on every machine.
    key = np.array([seed, epoch], dtype=np.uint64)
    words = np.random.Philox(key=key).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def split(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Take a class-balanced validation set out of a training set; return both.

    Whatever is chosen by looking at results is chosen on this validation set: the test
    set chooses nothing. Both keep the original order; their arrays are read-only
    copies.
    """
    if not 0 < fraction < 1:
        raise UsageError(
            f"a share of {fraction} leaves nothing to train or to validate on: "
            "pass a number between 0 and 1, such as 0.1."
        )
    shuffled = order(seed, _SPLIT_EPOCH, len(split))
    labels = split.labels[shuffled]
    chosen = np.zeros(len(split), dtype=bool)
    for label in np.unique(labels):
        members = shuffled[labels == label]
        chosen[members[: round(fraction * len(members))]] = True
    if chosen.all() or not chosen.any():
        raise UsageError(
            f"a share of {fraction} of {len(split)} images leaves one part empty: "
            "pass one that gives each part at least one image of a class."
        )
    return split.part(np.flatnonzero(~chosen)), split.part(np.flatnonzero(chosen))


def limited(split: Split, limit: int | None) -> Split:
    """Return the first images of a split; all of them without a limit."""
    return split if limit is None else split.part(slice(limit))
