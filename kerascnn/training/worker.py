"""A process that says what a training will take, before it is begun, or trains.

`python -m kerascnn.training.worker RECIPE OPTIONS`

The options are a run's, as JSON. The process reads questions, a word a line, and
answers each with a line of JSON: `seconds`, `memory`, `largest` (the memory, with the
largest batch that fits), `train` (the accuracy of the run, which is trained). Without
arguments it answers `machine`: what Keras computes on.

A process of its own, because what is measured must not change the training that comes
after it, and because one on another backend, or that has no memory left, ends alone.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError, processes, text
from kerascnn.process import prepare, signals
from kerascnn.process.backend import restart_for_memory
from kerascnn.training import resume
from kerascnn.training.options import Overrides

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe

# Seconds between two looks at whether a process is to go on.
_LOOK = 0.5


def ask(
    question: str,
    recipe: str | Path = "",
    overrides: Overrides | None = None,
    environment: Mapping[str, str] | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> Any:
    """Start a process, ask it one thing and return the answer.

    `goes_on` is asked now and then; where it returns False, the process is stopped, a
    run in it saves itself, and the answer is `None`.

    Raises:
        UsageError: The process ended without an answer; the message says why.
    """
    words, own = [], overrides or Overrides()
    if recipe:
        places = {name: getattr(own, name) for name in ("out", "resume")}
        given = {name: str(place) for name, place in places.items() if place}
        options = resume.record(own) | given | {"devices": own.devices}
        words = [str(recipe), json.dumps(options)]
    variables = {**os.environ, **(environment or {})}
    child = processes.Child("kerascnn.training.worker", words, variables)
    with child, concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(child.ask, question)
        try:
            while not concurrent.futures.wait([answer], timeout=_LOOK).done:
                if not goes_on():
                    return None
            return answer.result()
        except processes.EndedError as error:
            raise UsageError(text.printable(error.why)) from error
        finally:
            child.process.terminate()  # the pool waits for an answer, or for the end


def main() -> None:
    """Answer what standard input asks of the training that the arguments name."""
    signals.own_process()
    restart_for_memory()
    processes.answers()
    try:
        processes.serve(_training(*sys.argv[1:]) if sys.argv[1:] else _machine)
    except (UsageError, MemoryError) as error:
        sys.exit(text.one_line(error))


def _training(name: str, words: str) -> Any:
    options = Overrides(**json.loads(words))
    prepare.prepared(options.cache_dir, options.devices)
    from kerascnn import recipe as recipes
    from kerascnn.training import costs

    recipe = recipes.load(name)

    def answer(question: str) -> Any:
        if question == "seconds":
            found, plan, (train, test) = costs.measured(recipe, options)
            sizes = plan, len(train), len(test)
            return {
                "step": found.step,
                "epoch": found.epoch(*sizes),
                "epochs": plan.epochs,
                "compiling": found.compiling,
                "whole": found.whole(*sizes),
                "batch_size": plan.batch_size,
                "images": len(train),
            }
        if question == "train":
            return _trained(recipe, options)
        return costs.memory(recipe, options, largest=question == "largest")

    return answer


def _trained(recipe: Recipe, options: Overrides) -> dict[str, Any]:
    """Train a run, or go on with one, and return its accuracy."""
    from kerascnn.engine.finite import NotFiniteError
    from kerascnn.runs import evaluated
    from kerascnn.training import run

    try:
        done = run.train(recipe, options, ())
    except NotFiniteError as error:
        return {"failed": text.one_line(error)}
    return {"accuracy": evaluated(done.result, "accuracy")}


def _machine(question: str) -> dict[str, Any]:
    """Return what Keras computes on, and what it has been told of its settings."""
    prepare.prepared()
    import keras

    from kerascnn.process import machine, settings

    with settings.computing():
        device = machine.device()
    return {
        "backend": keras.backend.backend(),
        "device": device,
        "devices": _devices(),
        "settings": settings.others(),
        "memory": machine.held_memory(),
    }


def _devices() -> int:
    if os.environ["KERAS_BACKEND"] == "jax":
        return sys.modules["jax"].device_count()
    if os.environ["KERAS_BACKEND"] == "torch":
        return max(1, sys.modules["torch"].cuda.device_count())
    gpus = sys.modules["tensorflow"].config.list_physical_devices("GPU")
    return max(1, len(gpus))


if __name__ == "__main__":
    main()
