"""Kills, signals, a full disk and damaged files: nothing that was saved is lost.

Each test starts whole processes, as a user does, on a small network with everything
that carries state: BatchNorm, Dropout, L2, augmentation, decay.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kerascnn
from kerascnn.runs import Run
from kerascnn.training import checkpoint

ROOT = str(Path(kerascnn.__file__).parents[1])

SCRIPT = '''
import os, sys, time
from kerascnn import optim, training, transforms
import keras
from keras import layers
from kerascnn.recipe import Course, Recipe

def network():
    image = keras.Input((28, 28, 1))
    decay = optim.weight_decay(5e-4)
    x = layers.Conv2D(4, 3, strides=4, kernel_regularizer=decay)(image)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(layers.ReLU()(x))
    x = layers.Dropout(0.3)(x)
    return keras.Model(image, layers.Dense(10)(x))

class Slowly(keras.callbacks.Callback):
    """Leaves a kill time to fall between two steps."""
    async_safe = True
    def get_config(self):
        return {}
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))

RECIPE = Recipe(
    name="small", dataset="fashion_mnist", network=network,
    transform=lambda: [layers.RandomFlip("horizontal"), transforms.pm1()],
    optimizer=lambda: optim.adam(float(os.environ.get("RATE", "0.01"))), batch_size=50,
    epochs=4, parameters=0, course=Course(source="nowhere"),
    callbacks=lambda: [optim.ExponentialDecay(gamma=0.7), Slowly()],
)
training.main(RECIPE)
'''
OPTIONS = ["--data", "sample", "--limit", "500", "--checkpoint-minutes", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the script and with what JAX has compiled, shared by all tests."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "small.py").write_text(SCRIPT)
    return folder


def start(place, *words, **environment):
    return subprocess.Popen(
        [sys.executable, "small.py", *map(str, words)],
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": ROOT,
            "KERASCNN_CACHE_DIR": str(place / "cache"),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(place, *words, **environment):
    """Run to the end; return the exit code and both outputs."""
    process = start(place, *words, **environment)
    out, error = process.communicate(timeout=240)
    assert "Traceback" not in error, error
    return process.returncode, out, error


@pytest.fixture(scope="module")
def whole(place):
    """The hashes of a run that nothing disturbs, for each engine that is asked for."""
    known = {}

    def of(engine):
        if engine not in known:
            code, _, error = run(
                place, *OPTIONS, "--engine", engine, "--out", f"whole-{engine}"
            )
            assert code == 0, error
            known[engine] = hashes(place / f"whole-{engine}")
        return known[engine]

    return of


def hashes(folder):
    """The weights' hash, and that of weights, optimiser, seeds and callbacks."""
    saved = checkpoint.newest(folder)
    assert saved is not None
    assert (saved.epoch, saved.step) == (4, 0)
    return (
        Run(folder).result["weights_sha256"],
        saved.manifest["files"]["arrays.safetensors"],
        [m["loss"] for m in Run(folder).metrics],
    )


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def kill_often(place, engine, kills, seed):
    """Kill a run at random moments, resume it each time, and let the last one end.

    The moments: while it starts, once in a step, and once within a write, as the
    temporary folder shows.
    """
    draw = random.Random(seed)
    name = f"killed-{engine}-{seed}"
    folder = place / name
    partial = folder / "checkpoints"
    for number in range(kills):
        words = ["--out", name, "--engine", engine]
        if (folder / "config.json").exists():
            words = ["--resume", name]
        process = start(place, *OPTIONS, *words, STEP_SECONDS="0.02")
        match number % 3:
            case 0:  # a step
                saved = set(checkpoint.numbered(folder))
                wait_for(lambda s=saved: set(checkpoint.numbered(folder)) - s, process)
                time.sleep(draw.uniform(0, 0.3))
            case 1:  # a write
                wait_for(lambda: any(partial.glob(".partial-*")), process)
            case 2:  # the start
                time.sleep(draw.uniform(0, 5))
        process.kill()
        process.communicate()
    code, _, error = run(place, *OPTIONS, "--resume", name)
    assert code == 0, error
    return hashes(folder)


def test_a_killed_run_ends_as_one_that_was_not(place, whole):
    assert kill_often(place, "epoch", kills=2, seed=1) == whole("epoch")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["epoch", "fit"])
def test_twenty_kills_change_nothing(place, whole, engine):
    assert kill_often(place, engine, kills=20, seed=2) == whole(engine)
