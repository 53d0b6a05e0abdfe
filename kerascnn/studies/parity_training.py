"""Statistical parity: train recipe and twin, and compare their final accuracies.

The same data, epochs and order of images; initial weights and random transforms from
dice of their own. The twin trains as the lecture's code does: its Adam decays every
parameter, and it has torchvision's transforms, as NumPy rules.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from kerascnn import data, describe, twins
from kerascnn import recipe as recipes
from kerascnn.bench.plain_torch import Trainer
from kerascnn.data import DataSet, Split
from kerascnn.engine.plan import SAMPLE_EPOCHS
from kerascnn.process import estimate, machine
from kerascnn.process.signals import Interrupted
from kerascnn.recipe import Recipe
from kerascnn.report import intervals as intervals_module
from kerascnn.report import records
from kerascnn.training import build, options
from kerascnn.training import run as training_run
from kerascnn.twins.twin import Twin

_WORDS = {"recipe": "the recipe", "twin": "its PyTorch twin"}


def compare(
    name: str,
    seeds: int,
    epochs: int | None,
    limit: int | None,
    choice: Literal["auto", "full", "sample"],
    data_dir: Path | None,
    accelerate: bool,
    add: bool = False,
) -> dict[str, Any]:
    """Train a recipe and its twin from several seeds; compare final test accuracies."""
    recipe, twin = recipes.load(name), twins.load(name)
    size = build.image_size(recipe)
    dataset = data.load(recipe.dataset, choice, data_dir, image_size=size)
    if dataset.notice:
        print(dataset.notice, flush=True)
    dataset = dataclasses.replace(
        dataset,
        train=data.limited(dataset.train, limit),
        test=data.limited(dataset.test, limit),
    )
    if epochs is None:
        epochs = recipe.epochs
        if dataset.sample:
            epochs = min(epochs, SAMPLE_EPOCHS)
    case = None
    if add:
        records.check(dataset.sample or limit is not None)
        case = {
            "recipe": name,
            "fingerprint": describe.fingerprint(describe.describe(recipe)),
            "epochs": epochs,
            "twin": twin.fingerprint(),
            "data": dataset.hash,
        }
    overrides = options.Overrides(
        epochs=epochs,
        batch_size=recipe.batch_size,  # the twin's too, on a sample as well
        limit=limit,
        data=choice,
        data_dir=data_dir,
        accelerate=accelerate,
    )

    def train_one(side: str, seed: int) -> float:
        if side == "recipe":
            return train_recipe(recipe, dataclasses.replace(overrides, seed=seed))
        return train(twin, dataset, epochs, seed)

    classes = len(dataset.classes)
    accuracies = _train_all(train_one, seeds, case, classes)
    intervals = {
        side: intervals_module.interval(intervals_module.learned(found, classes))
        for side, found in accuracies.items()
    }
    outcome, verdict = intervals_module.judge(accuracies, classes)
    return {
        "recipe": name,
        "seeds": seeds,
        "epochs": epochs,
        "sample": dataset.sample,
        "train_images": len(dataset.train),
        "accuracies": accuracies,
        "intervals": intervals,
        "outcome": outcome,
        "passed": outcome == "overlap",
        "verdict": f"{name}: {verdict}",
    }


def _train_all(
    train_one: Callable[[str, int], float],
    seeds: int,
    case: dict[str, Any] | None,
    classes: int,
) -> dict[str, list[float]]:
    """Train recipe and twin from each seed; with a case, keep a record of each."""
    accuracies: dict[str, list[float]] = {"recipe": [], "twin": []}
    known = records.trained(case) if case else {"recipe": {}, "twin": {}}
    every = list(itertools.product(range(seeds), accuracies))
    to_do = [(seed, side) for seed, side in every if seed not in known[side]]
    whole = estimate.Estimate(f"all {len(to_do)} trainings", len(to_do))
    whole.after(0)
    for seed, side in every:
        whose = f"seed {seed}: {_WORDS[side]}"
        if seed in known[side]:
            accuracies[side].append(known[side][seed])
            print(f"{whose}, trained before: {known[side][seed]:.2%}", flush=True)
            continue
        print(whose, flush=True)
        began = time.perf_counter()
        try:
            accuracy = train_one(side, seed)
        except KeyboardInterrupt as stop:
            raise Interrupted(
                getattr(stop, "exit_code", 128 + signal.SIGINT) - 128,
                "stopped; once more, it does not repeat the trainings that had ended."
                if case
                else "stopped; with --add, trainings that end would not be repeated.",
            ) from None
        accuracies[side].append(accuracy)
        ended = to_do.index((seed, side)) + 1
        if ended % 2 == 0:  # one of recipe and twin
            whole.after(ended)
        if case:  # each at once: what took an hour is not to be lost
            framework = "torch" if side == "twin" else None
            record = {
                "side": side,
                "seed": seed,
                "test_accuracy": accuracy,
                "classes": classes,
                "seconds": round(time.perf_counter() - began, 1),
                "environment": machine.for_record(framework),
            }
            records.add("trainings", case | record)
    return accuracies


def train_recipe(recipe: Recipe, overrides: options.Overrides) -> float:
    """Train a recipe as `kerascnn run` does; return its accuracy on the test set."""
    # A run that an error ends stays where the error says that it is.
    out = Path(tempfile.mkdtemp()) / "run"
    try:
        run = training_run.train(recipe, dataclasses.replace(overrides, out=out))
        accuracy = float(run.result["test_accuracy"])
    except KeyboardInterrupt:
        shutil.rmtree(out.parent, ignore_errors=True)
        raise
    shutil.rmtree(out.parent, ignore_errors=True)
    return accuracy


def train(
    twin: Twin,
    dataset: DataSet,
    epochs: int,
    seed: int,
) -> float:
    """Train a twin as its lecture does; return its final test accuracy."""
    torch.manual_seed(seed)
    dice = np.random.default_rng([seed, 1])
    # Channels last is PyTorch's fast layout on a CPU, and changes no result.
    size, images = twin.batch_size, len(dataset.train)
    end = images - images % size if twin.drop_last else images
    accuracy, done = 0.0, 0
    steps = epochs * len(range(0, end, size))
    trainer = Trainer(twin, "channels_last", steps)
    if twin.adapt:
        twin.adapt(trainer.model, twin.transformed(dataset.train.images[:1000]))
    scheduler = twin.scheduler(trainer.optimizer)
    progress = estimate.Estimate(f"{epochs} epochs of {steps // epochs} steps", steps)
    for epoch in range(epochs):
        start = time.perf_counter()
        trainer.model.train()
        order, total = data.order(seed, epoch, images), 0.0
        for first in range(0, end, size):
            chosen = order[first : first + size]
            batch = channels_first(twin.transformed(dataset.train.images[chosen], dice))
            labels = torch.from_numpy(dataset.train.labels[chosen]).long()
            loss = trainer.step(trainer.arranged(batch), labels.to(trainer.device))
            total += loss.item() * len(chosen)
            done += 1
            progress.after(done)
        if scheduler:
            scheduler.step()
        accuracy = evaluate(twin, trainer, dataset.test)
        print(
            f"epoch {epoch + 1}/{epochs}  loss {total / max(1, end):.4f}"
            f"  test accuracy {accuracy:6.2%}  {time.perf_counter() - start:.1f} s",
            flush=True,
        )
    return accuracy


def channels_first(images: np.ndarray) -> torch.Tensor:
    """Return a view of images, which the network takes without copying."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def evaluate(twin: Twin, trainer: Trainer, test: Split) -> float:
    """Return a network's accuracy on a test set."""
    trainer.model.eval()
    right = 0
    with torch.no_grad():
        for first in range(0, len(test), 500):
            batch = channels_first(twin.transformed(test.images[first : first + 500]))
            labels = test.labels[first : first + 500]
            found = trainer.model(trainer.arranged(batch)).argmax(1).cpu().numpy()
            right += int((found == labels).sum())
    return right / len(test)
