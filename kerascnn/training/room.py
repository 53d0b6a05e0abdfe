"""Whether the memory holds a training: said before the first step, and refused."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import keras

from kerascnn import UsageError
from kerascnn.engine import fit
from kerascnn.process import machine, memory
from kerascnn.text import show, size, warn

if TYPE_CHECKING:
    from kerascnn.training.case import Case

# A run that takes more says so, and one that takes more than this part of what is free.
LARGE, PART = 2e9, 0.5
_BYTES = 4  # of a float32
_STREAM = "--engine stream, which holds a few batches of the images"
# Each device of a CPU has weights and gradients of its own.
_ONE_DEVICE = "--devices 1"


class DoesNotFitError(UsageError):
    """A training that was not begun, because the memory would not hold it."""


def check(case: Case) -> None:
    """Refuse a training of which what it surely takes is not free; compiles nothing.

    For each device the gradients; and a copy of weights and images for each that has
    none yet: a CPU's first device computes with those of the process.
    """
    if (free := _free()) is None:
        return
    devices, images, copies = 1, 0, 0
    if keras.backend.backend() == "jax":
        from kerascnn.engine import placement

        devices = placement.sharing_memory(fit.mesh_of(case.model, case.plan))
        copies = devices - (placement.free_on_device() is None)
        images = _images(case)
    weights = _BYTES * case.model.count_params()
    least = devices * _gradients(case) + (devices - 1) * weights + copies * images
    if least > free:
        ways = [_STREAM, "--limit N, fewer images"] * (copies * images > least / 2)
        ways += [_ONE_DEVICE] * (devices > 1)
        _refuse(
            case,
            f"weights, gradients and images alone take {size(least)} more than the "
            f"{size(_held())} that the process holds, and {size(free)} are free"
            f"{_bound()}",
            _listed(ways),
        )


def _images(case: Case) -> int:
    """Return the bytes of images on each device; where batches come one by one, 0."""
    from kerascnn.engine import stream

    splits = () if case.engine in (fit, stream) else (case.train, case.test)
    return sum(each.images.nbytes for each in splits)


def admission(case: Case) -> Callable[[int], None]:
    """Return what the engine tells the bytes of a compiled step before it is called.

    Raises:
        DoesNotFitError: They are not free.
    """
    return functools.partial(_admit, case)


def _admit(case: Case, step: int) -> None:
    if (free := _free()) is None:
        return
    held = _held()
    batch = case.plan.batch_size
    whole = f"{size(held + step)} of memory in batches of {batch}"
    parts = f"{size(step)} for a step besides the {size(held)} that it holds"
    if step > free:
        said = f"it takes {whole} ({parts}), and {size(free)} are free{_bound()}"
        _refuse(case, said, _advice(case, step, free))
    elif held + step > LARGE or step > PART * free:
        show(f"{case.recipe.name} takes {whole}: {parts}; {size(free)} are free.")


def _refuse(case: Case, said: str, advice: str) -> None:
    name = case.recipe.name
    if case.overrides.force:
        warn(f"{name} may not fit the memory: {said}. --force trains it all the same.")
        return
    raise DoesNotFitError(
        f"{name} does not fit the memory: {said}. {advice}; --force trains it all the "
        "same."
    )


def _advice(case: Case, step: int, free: int) -> str:
    """Say what would fit, by a step's bytes: gradients, and the same for each image."""
    from kerascnn.engine import placement

    batch, fixed = case.plan.batch_size, _gradients(case)
    sharing = placement.sharing_memory(fit.mesh_of(case.model, case.plan))
    fixed = min(step, fixed * sharing)
    smaller = batch
    while smaller > 1 and fixed + (step - fixed) * smaller / batch > free:
        smaller //= 2
    ways = []
    if smaller < batch and fixed < free:
        ways.append(f"--batch-size {smaller}")
        parts = case.plan.accumulate * -(-batch // smaller)
        if batch % parts == 0:
            ways.append(f"--accumulate {parts}, the same batch in parts")
    if not case.plan.rematerialize:
        ways.append("--remat, which computes activations again")
    if _images(case) >= step - free:
        ways.append(_STREAM)
    if sharing > 1:
        ways.append(_ONE_DEVICE)
    return _listed(ways)


def _listed(ways: list[str]) -> str:
    """Say what would take less memory."""
    if not ways:
        return "A smaller network or a machine with more memory would do"
    *others, last = ways
    return f"Try {', '.join(others)} or {last}" if others else f"Try {last}"


def _gradients(case: Case) -> int:
    trained = case.model.trainable_variables
    return sum(_BYTES * math.prod(variable.shape) for variable in trained)


def _free() -> int | None:
    """Return the bytes that are free where the training computes, if any can say."""
    if keras.backend.backend() == "jax":
        from kerascnn.engine import placement

        if (free := placement.free_on_device()) is not None:
            return free
    elif machine.device() != "cpu":
        return None
    memory.trim()
    return machine.free_memory()


def _bound() -> str:
    """Name the user's own bound, where it holds: on a CPU."""
    words = os.environ.get("KERASCNN_MEMORY")
    return f" (KERASCNN_MEMORY={words})" if words and machine.device() == "cpu" else ""


def _held() -> int:
    """Return the bytes that the process holds where it computes."""
    if keras.backend.backend() == "jax":
        from kerascnn.engine import placement

        if (used := placement.used_on_device()) is not None:
            return used
    return machine.held_memory() or 0
