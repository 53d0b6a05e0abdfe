"""One contender of a benchmark: a process that builds its net, then works on command.

    python -m kerascnn.bench.contenders CONTENDER RECIPE BATCH IMAGES TRANSFORM

Ready, it writes a line; then it reads numbers, takes that many steps (or epochs), and
answers each with a line of JSON: seconds, and the process's peak memory in bytes.
Processes of their own keep the frameworks' threads and memory apart, and only the one
that was asked works.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import keras
import numpy as np

from kerascnn import data, memory, spare_tensorflow
from kerascnn import recipe as recipes
from kerascnn.data import Split
from kerascnn.training import environment, models, trainer
from kerascnn.training.plan import Plan

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe

# Takes a number of steps (or epochs) and returns when they are done.
Work = Callable[[int], None]


class SameBatch(keras.utils.PyDataset):
    """One batch, over and over: what `fit` costs without any loading of data."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, steps: int):
        super().__init__()
        self.batch, self.steps = (images, labels), steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batch


def kerascnn_steps(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> Work:
    """Steps of this package's engine on JAX, on scaled images."""
    import jax

    from kerascnn.acceleration import accelerate
    from kerascnn.training import devices, epoch, guard

    model = accelerate(recipe.network())
    trainer.compile_model(model, recipe)
    model.optimizer.build(model.trainable_variables)
    counter = guard.index(model.optimizer)
    mesh = devices.mesh(model, len(labels))
    if mesh is not None:
        memory.keep_less()
    step = epoch.training_function(model, mesh)
    state = devices.copied(mesh, epoch.read_state(model))
    images, labels = devices.copied(mesh, (images, labels))
    chosen = devices.cut(mesh, np.arange(len(labels), dtype=np.int32)[None])

    def work(number: int) -> None:
        nonlocal state
        for _ in range(number):
            guard.check(state["optimizer"][counter])  # waits, as the engine does
            state = step(state, images, labels, chosen)
        jax.block_until_ready(state)

    return work


def keras_steps(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> Work:
    """Steps of stock Keras's `fit` on the backend in use, on scaled images."""
    model = recipe.network()
    trainer.compile_model(model, recipe)
    return lambda number: model.fit(
        SameBatch(images, labels, number), epochs=1, shuffle=False, verbose=0
    )


def torch_steps(
    recipe: Recipe, images: np.ndarray, labels: np.ndarray, form: str
) -> Work:
    """Steps of plain PyTorch, on scaled images."""
    import torch

    from kerascnn.bench import plain_torch

    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return plain_torch.Trainer(
        recipe, batch, torch.from_numpy(labels).long(), form
    ).steps


def keras_epochs(recipe: Recipe, train: Split, plan: Plan, engine: str) -> Work:
    """Epochs from raw images, by one of this package's engines or stock `fit`."""
    model, _ = models.build(recipe, train.images.shape[1:])
    if engine == "epoch":
        from kerascnn.acceleration import accelerate
        from kerascnn.training import epoch as module

        model = accelerate(model)
    else:
        from kerascnn.training import fit as module
    trainer.compile_model(model, recipe)
    # The smallest test set there is: its evaluation is not what is timed.
    test = Split(train.images[:1], train.labels[:1])
    begun = 0

    def work(number: int) -> None:
        nonlocal begun
        begun += number
        chosen = dataclasses.replace(plan, epochs=begun, initial_epoch=begun - number)
        module.fit(model, train, test, chosen)

    return work


def torch_epochs(recipe: Recipe, train: Split, plan: Plan, form: str) -> Work:
    """Epochs of plain PyTorch with the set in memory as one tensor."""
    import torch

    from kerascnn.bench import plain_torch

    transform = plain_torch.transform(recipe.transform())
    images = torch.from_numpy(np.array(train.images))
    labels = torch.from_numpy(np.array(train.labels)).long()
    whole = plan.steps(len(labels)) * plan.batch_size
    engine = plain_torch.Trainer(recipe, images[:1], labels[:1], form)
    images, labels = images.to(engine.device), labels.to(engine.device)

    def work(number: int) -> None:
        for _ in range(number):
            order = torch.randperm(len(labels), device=engine.device)[:whole]
            for chosen in order.split(plan.batch_size):
                batch = engine.arranged(transform(images[chosen]))
                loss = engine.step(batch, labels[chosen])
        loss.item()

    return work


def repeated(split: Split, images: int) -> Split:
    """Return so many images of a set, again and again if it has fewer.

    The work is the same.
    """
    chosen = np.arange(images) % len(split)
    return Split(split.images[chosen], split.labels[chosen])


def build(
    contender: str, recipe: Recipe, batch: int, images: int, random: bool
) -> Work:
    """Build a contender's net.

    Args:
        contender: `kerascnn`, `keras-BACKEND`, or `torch-FORM`.
        recipe: Whose net, optimiser and transform to take.
        batch: Images a step.
        images: Images an epoch; 0 to take steps on one scaled batch instead.
        random: Whether epochs draw the recipe's random transforms.
    """
    kind, _, rest = contender.partition("-")
    if kind == "kerascnn":
        memory.trim_after_compiling()
    train = data.load(recipe.dataset).train
    if not random:
        fixed = [layer for layer in recipe.transform() if not models.is_random(layer)]
        recipe = dataclasses.replace(recipe, transform=lambda: fixed)
    if images:
        train = repeated(train, images)
        plan = Plan(epochs=1, batch_size=batch, seed=0, drop_last=True)
        if kind == "torch":
            return torch_epochs(recipe, train, plan, rest)
        engine = "epoch" if kind == "kerascnn" else "fit"
        return keras_epochs(recipe, train, plan, engine)
    first = repeated(train, batch)
    scaled = first.images
    for layer in recipe.transform():
        if not models.is_random(layer):
            scaled = keras.ops.convert_to_numpy(layer(scaled))
    labels = first.labels
    if kind == "torch":
        return torch_steps(recipe, scaled, labels, rest)
    steps = kerascnn_steps if kind == "kerascnn" else keras_steps
    return steps(recipe, scaled, labels)


def main() -> None:
    """Build the contender that the arguments name, then serve standard input."""
    memory.restart()
    contender, name, batch, images, transform = sys.argv[1:]
    # Anything that a framework prints must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    spare_tensorflow()
    trainer.set_seed(0)
    random = transform == "random"
    work = build(contender, recipes.load(name), int(batch), int(images), random)
    answer(answers, work, 1)  # compiles
    for line in sys.stdin:
        answer(answers, work, int(line))


def answer(answers: TextIO, work: Work, number: int) -> None:
    """Do the work and write how long it took, with the process's peak memory."""
    start = time.perf_counter()
    work(number)
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "memory": peak_memory()}
    print(json.dumps(result), file=answers, flush=True)


def peak_memory() -> int | None:
    """Return the most bytes held: the GPU's where there is one, else the process's."""
    if keras.backend.backend() == "jax":
        import jax

        statistics = jax.devices()[0].memory_stats() or {}
        return statistics.get("peak_bytes_in_use") or environment.peak_memory()
    if keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    return environment.peak_memory()


if __name__ == "__main__":
    main()
