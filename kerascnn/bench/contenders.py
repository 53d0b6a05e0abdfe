"""One contender of a benchmark: a process that builds its net, then works on command.

    python -m kerascnn.bench.contenders CONTENDER RECIPE BATCH IMAGES TRANSFORM

Ready, it writes a line; then it reads numbers, takes that many steps (or epochs), and
answers each with a line of JSON: seconds, and the process's peak memory in bytes.
`bench step --against` starts this module of another commit: what is said above stays.
Processes of their own keep the frameworks' threads and memory apart, each imports its
own framework alone, and only the one that was asked works.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from kerascnn import UsageError, data, processes
from kerascnn.bench.sets import repeated
from kerascnn.process import machine, memory
from kerascnn.process.backend import spare_tensorflow


def build(
    contender: str, name: str, batch: int, images: int, random: bool
) -> Callable[[int], None]:
    """Build a contender's net.

    Args:
        contender: `kerascnn`, `keras-BACKEND`, or `torch-FORM`.
        name: The recipe whose net, optimiser and transform to take.
        batch: Images a step.
        images: Images an epoch; 0 to take steps on one scaled batch instead.
        random: Whether epochs draw the recipe's random transforms.

    Returns:
        What takes a number of steps (or epochs) and returns when they are done.

    Raises:
        UsageError: It can't be built from this recipe.
    """
    kind, _, form = contender.partition("-")
    if kind != "torch":
        spare_tensorflow()
        from kerascnn.bench import with_keras

        return with_keras.build(contender, name, batch, images, random)
    from kerascnn.bench import description, plain_torch

    described = description.of(name, batch, images, random)
    if not images:
        return plain_torch.steps(described, form)
    train = repeated(data.load(described.dataset).train, images)
    return plain_torch.epochs(described, form, train, batch)


def main() -> None:
    """Build the contender that the arguments name, then serve standard input."""
    memory.restart()
    contender, name, batch, images, transform = sys.argv[1:]
    answers = io.TextIOWrapper(processes.answers())
    try:
        random = transform == "random"
        work = build(contender, name, int(batch), int(images), random)
    except UsageError as error:
        sys.exit(str(error))
    answer(answers, work, 1)  # compiles
    for line in sys.stdin:
        answer(answers, work, int(line))


def answer(answers: TextIO, work: Callable[[int], None], number: int) -> None:
    """Do the work and write how long it took, with the process's peak memory."""
    start = time.perf_counter()
    work(number)
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "memory": peak_memory()}
    print(json.dumps(result), file=answers, flush=True)


def peak_memory() -> int | None:
    """Return the most bytes held: the GPU's where there is one, else the process's."""
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        statistics = jax.devices()[0].memory_stats() or {}
        return statistics.get("peak_bytes_in_use") or machine.peak_memory()
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    return machine.peak_memory()


if __name__ == "__main__":
    main()
