"""Train a recipe's network and its twin side by side, and compare their losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerascnn.parity import mistakes
from kerascnn.parity.check import Check
from kerascnn.parity.keras_step import Step
from kerascnn.parity.shared_randomness import Rates, branches
from kerascnn.parity.step import (
    Pair,
    compare_step,
    compare_update,
    compare_zeros,
    numpy_outputs,
    paired_gradients,
    take_step,
)
from kerascnn.parity.torch_step import Batch, TorchTrainer

# Of the losses of 100 steps; absolute where the loss is below 1. Each step adds to the
# rounding of the one before.
TRACE = 1e-3
# Keras holds the rate in float32, 7 digits, and multiplies it once an epoch.
RATE = 1e-6
# Networks with so few layers that learn are also compared left to themselves, each
# following its own gradients. Deeper ones part within a few steps, in float32, as
# PyTorch then parts from itself when one weight is moved by its last digit.
SHALLOW = 6


def compare_training(
    pair: Pair, batches: Iterator[Batch], mistake: str | None
) -> Iterator[Check]:
    """Compare a first step in every detail, then the losses of all steps."""
    free = None
    if len(pair.layouts) <= SHALLOW:
        copied = pair.twin.network()
        copied.load_state_dict(pair.torch_trainer.network.state_dict())
        free = TorchTrainer(copied, pair.twin, pair.layouts, pair.torch_trainer.steps)
    rates = Rates(pair.recipe, pair.keras_trainer)
    first, inferred = next(batches), None
    if differs_in_inference(pair.keras_trainer.model):
        images = first.images
        inferred = pair.keras_trainer.infer(images), pair.torch_trainer.infer(images)
    rates.begin(first.epoch)
    zeros = list(compare_zeros(pair, first))
    step = take_step(pair, first, mistake)
    gradients = paired_gradients(pair, step)
    yield from compare_step(pair, first, step, gradients, inferred)
    yield from zeros
    yield from compare_update(pair, gradients, mistake)
    yield from compare_losses(pair, free, rates, (first, step), batches, mistake)


def compare_losses(
    pair: Pair,
    free: TorchTrainer | None,
    rates: Rates,
    first: tuple[Batch, Step],
    batches: Iterator[Batch],
    mistake: str | None,
) -> Iterator[Check]:
    """Compare the losses of many steps; a `free` twin follows its own gradients."""
    # The twin has its own Adam, decay and schedule, and Keras's gradients: its own
    # differ by rounding, and a deep network's training is chaotic, so that within a few
    # steps rounding alone would lead elsewhere.
    torch_trainer, (batch, step) = pair.torch_trainer, first
    losses, free_losses, differences = [], [], []
    while True:
        # JAX computes its step meanwhile.
        torch_trainer.begin(batch.epoch)
        losses.append((step.crossentropy, torch_trainer.loss_alone(batch)))
        differences.append(rates.difference(torch_trainer))
        torch_trainer.follow(paired_gradients(pair, step))
        if free:
            free.begin(batch.epoch)
            outputs = numpy_outputs(pair.watched, step)
            with free.branching(branches(pair.watched, outputs)):
                free_losses.append((step.crossentropy, free.loss(batch)))
            free.step()
        rates.end(float(step.crossentropy))
        following = next(batches, None)
        if following is None:
            break
        batch = following
        rates.begin(batch.epoch)
        step = take_step(pair, batch, mistake)
    if None not in differences:
        yield Check(
            "learning rate",
            f"of {len(losses)} steps",
            max(differences),
            RATE,
            mistakes.MISTAKES["decay_per_step"][0]
            if pair.recipe.callbacks()
            else "another learning rate",
        )
    size = len(batch.images)
    yield trace("trace", losses, size, "each update by Keras's gradients")
    if free:
        yield trace("free trace", free_losses, size, "each by its own gradients")


def trace(part: str, losses: list[tuple[Any, float]], batch: int, note: str) -> Check:
    """Compare the losses of many steps."""
    apart = [abs(float(a) - b) / max(1, abs(b)) for a, b in losses]
    worst = int(np.argmax(apart)) + 1
    beyond = next((i + 1 for i, d in enumerate(apart) if not d <= TRACE), None)
    return Check(
        part,
        f"losses of {len(losses)} steps of {batch} images",
        apart[worst - 1],
        TRACE,
        "the optimiser's averages, the decay or the schedule"
        + (f": the losses part at step {beyond}" if beyond else ""),
        f"{note}; worst at step {worst}; losses {losses[0][1]:.3f} to "
        f"{losses[-1][1]:.3f}",
    )


def differs_in_inference(network: keras.Model) -> bool:
    """Whether a network computes something else in inference than in training."""
    kinds = keras.layers.BatchNormalization | keras.layers.Dropout
    return any(isinstance(layer, kinds) for layer in network.layers)
