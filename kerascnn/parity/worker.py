"""Comparisons as plain values; many at once, in processes of their own.

`python -m kerascnn.parity.worker NUMBER OF ACCELERATE STEPS` reads names of recipes and
answers each with a line of JSON. The process keeps to its share of the cores, because
two frameworks' threads on the same cores wait for each other.
"""

from __future__ import annotations

import dataclasses
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kerascnn import UsageError, processes
from kerascnn import recipe as recipes
from kerascnn.process import cores, prepare, settings

# The processes share a GPU's memory.
SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def share_cores(number: int, of: int) -> None:
    """Prepare this process, with its share of the cores, before JAX starts threads."""
    cores.share(number, of)
    prepare.prepare_process()
    import torch

    # PyTorch and Keras work in turns and partly at once.
    torch.set_num_threads(max(1, cores.available() // 2))


@settings.computing()
def result(
    name: str,
    accelerate: bool,
    mistake: str | None,
    steps: int | None,
    after_step: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Compare one recipe with its twin; return plain values for JSON."""
    import keras

    from kerascnn.parity import batches, compare

    recipe = recipes.load(name)
    start = time.perf_counter()
    checks = [
        dataclasses.asdict(check) | {"passed": check.passed}
        for check in compare.compare(recipe, accelerate, mistake, steps, after_step)
    ]
    for check in checks:
        difference = float(check["difference"])
        # JSON has neither infinity nor NaN.
        check["difference"] = difference if math.isfinite(difference) else None
    much = batches.size(recipe.parameters)
    keras.utils.clear_session()
    return {
        "recipe": name,
        "backend": keras.backend.backend(),
        "accelerate": accelerate,
        "break": mistake,
        "passed": all(check["passed"] for check in checks),
        "seconds": round(time.perf_counter() - start, 1),
        "steps": steps or much.steps,
        "batch": much.batch,
        "first": next((check for check in checks if not check["passed"]), None),
        "checks": checks,
    }


def answer(name: str, accelerate: bool, steps: int | None) -> dict[str, Any]:
    """Return what `result` does, a user's `mistake`, or why a recipe is `left_out`."""
    from kerascnn import twins

    try:
        return result(name, accelerate, None, steps)
    except twins.NoTwinError as error:
        return {"recipe": name, "left_out": str(error)}
    except UsageError as error:
        return {"recipe": name, "passed": False, "mistake": str(error)}


def results(
    names: Sequence[str], jobs: int, accelerate: bool, steps: int | None
) -> Iterator[dict[str, Any]]:
    """Compare many recipes, some at once; yield what `answer` returns, as it comes."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    ended = threading.Event()
    children: list[processes.Child] = []
    environment = {**SHARED_GPU, **os.environ}

    def serve(number: int) -> None:
        words = [str(number), str(jobs), str(int(accelerate)), str(steps or 0)]
        child = None
        while not ended.is_set():
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            if child is None:
                child = processes.Child("kerascnn.parity.worker", words, environment)
                children.append(child)
            try:
                answers.put(child.ask(name))
            except processes.EndedError as error:
                # Another process goes on with the other recipes.
                child = None
                mistake = f"the comparison of {name} {error}"
                answers.put({"recipe": name, "passed": False, "mistake": mistake})

    try:
        for number in range(jobs):
            threading.Thread(target=serve, args=(number,), daemon=True).start()
        for _ in names:
            yield answers.get()
    finally:
        ended.set()
        for child in children:
            child.close()


def main() -> None:
    """Serve standard input."""
    number, of, accelerate, steps = map(int, sys.argv[1:])
    processes.answers()
    share_cores(number, of)
    processes.serve(lambda name: answer(name, bool(accelerate), steps or None))


if __name__ == "__main__":
    main()
