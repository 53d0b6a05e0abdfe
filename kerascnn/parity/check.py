"""One compared quantity, and how far apart the two values may be."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

# Float32 has 7 digits; a layer's sums of thousands of terms lose one or two of them.
FORWARD = 1e-5


# Beyond the tolerance, `step.roundings` measures how far rounding alone leads. Two
# programs' roundings may add up, so `ROUNDING` times the largest is allowed, and
# `CEILING` at most, because BatchNorm divides a feature that hardly varies by its
# deviation, and the rounding with it.
ROUNDING = 4.0
CEILING = 1e-2


@dataclasses.dataclass(frozen=True)
class Check:
    """One quantity, compared."""

    part: str
    name: str
    difference: float
    tolerance: float
    reason: str
    note: str = ""
    usual: float | None = None  # the tolerance, where rounding has raised it

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return bool(self.difference <= self.tolerance)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value of the twin."""
    if ours.shape != theirs.shape:
        return math.inf
    if theirs.dtype.kind != "f":
        ours, theirs = ours.astype("float64"), theirs.astype("float64")
    # float32 serves: the difference of two numbers that are near has no rounding.
    largest = max(abs(float(theirs.min())), abs(float(theirs.max())))
    apart = ours - theirs
    furthest = max(abs(float(apart.min())), abs(float(apart.max())))
    return furthest / (largest or 1.0)


def checked(
    part: str,
    name: str,
    values: tuple[np.ndarray, np.ndarray, float | None],
    tolerance: float,
    reason: str,
) -> Check:
    """Compare Keras's array, PyTorch's, and what rounding leads to, where known."""
    ours, theirs, own = values
    difference, note, usual = relative(ours, theirs), "", None
    if own is not None and difference > tolerance:
        raised = max(tolerance, min(CEILING, ROUNDING * own))
        if raised > tolerance:
            usual, tolerance = tolerance, raised
        note = f"rounding alone leads {own:.0e} from float64"
    return Check(part, name, difference, tolerance, reason, note, usual)
