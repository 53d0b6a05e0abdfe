"""One contender of a benchmark: a process that builds its net, then works on command.

`python -m kerascnn.bench.contenders CONTENDER RECIPE BATCH IMAGES TRANSFORM`

`kerascnn@4` is this package on four devices: GPUs, or so many of a CPU's cores.

Ready, it writes a line; then it reads numbers, takes that many steps (or epochs), and
answers each with a line of JSON: seconds, the process's peak memory in bytes, and, of a
step of this package's, the bytes that XLA plans for it.
`bench step --against` starts this module of another commit: what is said above stays.

Processes of their own keep the frameworks' threads and memory apart.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from kerascnn import UsageError, data, processes
from kerascnn.bench.sets import repeated
from kerascnn.process import cores, gpus, machine, prepare, signals
from kerascnn.process.backend import restart_for_memory, spare_tensorflow


def build(
    contender: str,
    name: str,
    batch: int,
    images: int,
    random: bool,
    devices: int | None = None,
) -> Callable[[int], None]:
    """Return what takes a number of steps (or epochs, of so many images)."""
    kind, _, form = contender.partition("-")
    if kind != "torch":
        spare_tensorflow()
        from kerascnn.bench import with_keras

        return with_keras.build(contender, name, batch, images, random, devices)
    from kerascnn import recipe, twins
    from kerascnn.bench import plain_torch

    twin = twins.load(name)
    train = data.load(recipe.outline(name).dataset).train
    if not images:
        return plain_torch.steps(twin, form, repeated(train, batch))
    return plain_torch.epochs(twin, form, repeated(train, images), batch, random)


def main() -> None:
    """Build the contender that the arguments name, then serve standard input."""
    contender, name, batch, images, transform = sys.argv[1:]
    contender, _, number = contender.partition("@")
    devices = int(number) if number else None
    signals.own_process()
    restart_for_memory()
    if devices and not gpus.found():
        cores.only(devices)
    if not contender.startswith("torch"):  # whose process imports neither Keras nor JAX
        prepare.prepared(devices=devices)
    processes.answers()
    try:
        random = transform == "random"
        work = build(contender, name, int(batch), int(images), random, devices)
    except UsageError as error:
        sys.exit(str(error))
    processes.answer(timed(work, 1))  # compiles
    processes.serve(lambda number: timed(work, int(number)))


def timed(work: Callable[[int], None], number: int) -> dict[str, Any]:
    """Do the work; return how long it took, and the memory of process and step."""
    start = time.perf_counter()
    work(number)
    seconds = time.perf_counter() - start
    # Of this package's steps alone, which say it.
    planned = getattr(work, "planned", None)
    return {"seconds": seconds, "memory": peak_memory(), "planned": planned}


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
