"""One recipe, trained alike on JAX, TensorFlow and PyTorch, in a process each.

`python -m kerascnn.studies.backends RECIPE STEPS BATCH` trains on the backend in use,
and prints what it found as JSON. Weights and batches come from NumPy. Random transforms
and Dropout are left out: each backend rolls dice of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn import UsageError, processes, text
from kerascnn.process import estimate, prepare, settings
from kerascnn.process.backend import BACKENDS, installed

if TYPE_CHECKING:
    import keras

COLORS = {"jax": "#d95f02", "tensorflow": "#7570b3", "torch": "#1b6ca8"}

# From here on losses count as apart; absolute below 1.
PARTED = 1e-4

# As in an epoch of the comparison with the twin.
BATCHES = 10


@dataclasses.dataclass
class Result:
    """What one backend did: losses with penalties, seconds of a step, peak memory."""

    backend: str
    losses: list[float]
    first: float
    seconds: float
    memory: int | None


def compare(name: str, steps: int, batch: int) -> tuple[list[Result], list[str]]:
    """Train a recipe on each backend; return results, and a line for each missing."""
    there = installed()
    missing = [f"{b} is not installed" for b in BACKENDS if b not in there]
    if len(there) < 2:
        raise UsageError(
            f"only {' '.join(there)} is installed: "
            f"`{text.install('tensorflow', 'torch')}` adds the others."
        )
    results = []
    for backend in there:
        words = [name, str(steps), str(batch)]
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        try:
            with processes.Child(__name__, words, environment) as child:
                while "said" in (found := child.answer()):
                    text.say(found["said"])
                results.append(Result(**found))
        except processes.EndedError as error:
            raise UsageError(f"{name} failed on {backend}: {error.why}") from error
    return results, missing


def partings(results: Sequence[Result]) -> dict[str, int | None]:
    """Return for each pair the first step, from 1, at which the losses are apart."""
    found: dict[str, int | None] = {}
    for a, b in itertools.combinations(results, 2):
        apart = differences(a, b)
        found[f"{a.backend} and {b.backend}"] = next(
            (i + 1 for i, d in enumerate(apart) if not d <= PARTED), None
        )
    return found


def differences(a: Result, b: Result) -> list[float]:
    """Return how far two backends' losses are apart, step by step."""
    pairs = zip(a.losses, b.losses, strict=True)
    return [abs(x - y) / max(1.0, abs(y)) for x, y in pairs]


def draw(name: str, results: Sequence[Result], path: Path) -> None:
    """Draw losses and their differences by step into a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, apart = figure.subplots(1, 2)
    styles = ("-", "--", ":")
    for result, style in zip(results, styles, strict=False):
        steps = range(1, len(result.losses) + 1)
        color = COLORS[result.backend]
        losses.plot(
            steps, result.losses, style, color=color, label=result.backend, lw=2
        )
    for a, b in itertools.combinations(results, 2):
        # A logarithm has no room for exact equality.
        shown = [max(d, 1e-9) for d in differences(a, b)]
        apart.plot(
            range(1, len(shown) + 1), shown, label=f"{a.backend} and {b.backend}"
        )
    apart.axhline(PARTED, color="grey", linestyle=":", label=f"{PARTED:g}")
    losses.set(xlabel="step", ylabel="loss", title=f"{name}: same weights and batches")
    apart.set(xlabel="step", ylabel="difference of the losses", yscale="log")
    losses.legend()
    apart.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def numpy_weights(network: keras.Model) -> None:
    """Give a network initial weights that NumPy draws by its initialisers."""
    from keras import initializers

    dice = np.random.default_rng(0)
    for layer in network.layers:
        for which in ("kernel", "bias"):
            start = getattr(layer, f"{which}_initializer", None)
            variable = getattr(layer, which, None)
            if start is None or variable is None or not variable.trainable:
                continue
            if isinstance(start, initializers.Zeros | initializers.Constant):
                continue  # alike everywhere
            values = drawn(start, variable.shape, dice)
            variable.assign(values.astype("float32"))


def drawn(start: Any, shape: Sequence[int], dice: np.random.Generator) -> np.ndarray:
    """Draw an array of a Keras initialiser's distribution; a normal one not cut off."""
    from keras import initializers

    match start:
        case initializers.VarianceScaling():
            places = math.prod(shape[:-2])
            fan_in, fan_out = places * shape[-2], places * shape[-1]
            fans = {"fan_in": fan_in, "fan_out": fan_out}
            fan = fans.get(start.mode, (fan_in + fan_out) / 2)
            deviation = math.sqrt(start.scale / fan)
            if "normal" in start.distribution:
                return deviation * dice.standard_normal(shape)
            bound = math.sqrt(3) * deviation
            return dice.uniform(-bound, bound, shape)
        case initializers.RandomUniform():
            return dice.uniform(start.minval, start.maxval, shape)
    raise UsageError(
        f"initial weights by {type(start).__name__} can't be drawn alike on all "
        "backends."
    )


@settings.computing()
def train(
    name: str, steps: int, batch: int, say: Callable[[str], None] = text.say
) -> Result:
    """Train a recipe on the backend in use; `say` is told how long that will take."""
    import keras

    from kerascnn import recipe as recipes
    from kerascnn.parity import images
    from kerascnn.process import machine
    from kerascnn.training import build

    recipe = build.without_random(recipes.load(name))
    build.set_seed(0)
    raw = images.of(recipe)
    model, kept = build.build(recipe, raw.images.shape[1:])
    network = next(x for x in kept.layers if isinstance(x, keras.Model))
    numpy_weights(network)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0
    if keras.backend.backend() == "jax":
        from kerascnn.acceleration import accelerate

        model = accelerate(model)
    build.compile_model(model, recipe)
    losses, times = [], []
    many = f"{steps} steps on {keras.backend.backend()}"
    progress = estimate.Estimate(many, steps, say=say)
    for step in range(steps):
        start = time.perf_counter()
        first = step % BATCHES * batch
        chosen = np.arange(first, first + batch) % len(raw)
        logs: Any = model.train_on_batch(
            np.array(raw.images[chosen]), np.array(raw.labels[chosen]), return_dict=True
        )
        losses.append(float(logs["loss"]))
        times.append(time.perf_counter() - start)
        progress.after(step + 1)
    return Result(
        keras.backend.backend(),
        losses,
        times[0],
        statistics.median(times[1:] or times),
        machine.peak_memory(),
    )


def main() -> None:
    """Train as the arguments say."""
    name, steps, batch = sys.argv[1:]
    processes.answers()
    prepare.prepare_process()
    try:
        found = train(
            name, int(steps), int(batch), lambda line: processes.answer({"said": line})
        )
    except UsageError as error:
        sys.exit(str(error))
    processes.answer(dataclasses.asdict(found))


if __name__ == "__main__":
    main()
