"""What a training is said to take, beside what it takes."""

import json
import os
import statistics
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from keras import layers

from kerascnn import optim, recipe
from kerascnn.data import Split
from kerascnn.engine.plan import Plan
from kerascnn.runs import Run
from kerascnn.training import costs, worker
from kerascnn.training.options import Overrides

footprint = pytest.importorskip("kerascnn.engine.footprint")

on_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="XLA's analysis is JAX's"
)
# By what factors a real run may differ from what was predicted of it: it writes
# checkpoints and records, and other programs are at work on the machine.
MEMORY, TIME = 1.5, 2.0


@given(
    st.integers(1, 300),
    st.integers(1, 5000),
    st.floats(0, 1e4),
    st.floats(0.01, 50),
    st.floats(0, 2e5),
)
@example(start=3, most=3, fixed=0.0, an_image=2.0, room=4.0)
def test_the_largest_batch_is_the_one_found_by_trying_all(
    start, most, fixed, an_image, room
):
    start = min(start, most)
    taken = lambda batch: fixed + an_image * batch  # noqa: E731
    found = footprint.largest_batch(taken, room, start, most)
    sizes = [start]
    while sizes[0] > 1:
        sizes.insert(0, sizes[0] // 2)
    while 2 * sizes[-1] <= most:
        sizes.append(2 * sizes[-1])
    fitting = [size for size in sizes if taken(size) <= room]
    assert found == (max(fitting) if fitting else None)


def test_few_sizes_are_compiled_to_find_the_largest_batch():
    asked = []

    def taken(batch):
        asked.append(batch)
        return 1e6 + 1000 * batch

    assert footprint.largest_batch(taken, 2e7, 32, 100_000) == 2**14
    assert len(asked) <= 4


def split(images):
    return Split(np.zeros((images, 8, 8, 1), "uint8"), np.zeros(images, "int32"))


@on_jax
def test_what_lies_between_two_steps_is_counted_by_hand():
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    model = keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))
    model.compile(optim.adam(1e-3), "sparse_categorical_crossentropy")
    found = footprint.footprint(model, (split(500), split(70)), 50, "off")
    weights = 64 * 10 + 10
    # Each with the two means of Adam; images and labels; some scalars.
    numbers = 3 * 4 * weights + 570 * (64 + 4) + 50 * 4
    assert found.devices == 1
    assert numbers <= found.held <= numbers + 200
    smaller = footprint.footprint(model, (split(500), split(70)), 25, "off")
    assert found.step > smaller.step >= 25 * 64 * 4  # the scaled images, float32
    streamed = footprint.footprint(
        model, (split(500), split(70)), 50, "off", streamed=True
    )
    # Of both sets two batches, on the device in place of 500 and 70 images.
    assert found.held - streamed.held == (570 - 4 * 50) * (64 + 4)


@on_jax
@pytest.mark.parametrize("devices", [1, 2])
def test_the_memory_is_that_of_the_devices_that_are_asked_for(devices):
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    model = keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))
    model.compile(optim.adam(1e-3), "sparse_categorical_crossentropy")
    words = (model, (split(40),), 10, "off")
    assert footprint.footprint(*words, devices=devices).devices == devices


@pytest.mark.parametrize(
    "other", [{"devices": 2}, {"freeze": ("conv*",)}, {"remat": True}]
)
def test_a_training_of_other_cost_is_measured_by_itself(other):
    def key(options):
        names = {"devices": options.devices, "rematerialize": options.remat}
        plan = Plan(epochs=1, batch_size=8, seed=0, **names)
        small = types.SimpleNamespace(shape=(8, 8, 1))
        return costs.key("f", options, small, split(16), plan)

    plain, changed = Overrides(record="off"), Overrides(record="off", **other)
    assert key(changed) != key(plain) == key(Overrides(record="off"))


def test_the_process_that_measures_has_the_devices_of_the_run(monkeypatch):
    given = []

    class Child:
        process = types.SimpleNamespace(terminate=lambda: None)

        def __init__(self, module, words, environment):
            given.append(Overrides(**json.loads(words[1])))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, question):
            return question

    monkeypatch.setattr(worker.processes, "Child", Child)
    options = Overrides(devices=3, workers=2, accumulate=2)
    assert worker.ask("seconds", "fashion_mlp", options) == "seconds"
    assert given == [options]


@pytest.mark.parametrize(("drop_last", "steps"), [(False, 10.5), (True, 10)])
def test_a_training_is_the_sum_of_its_parts(drop_last, steps):
    found = costs.Costs(build=3, compiling=20, step=2, tested=0.01, between=0.5)
    plan = Plan(epochs=4, batch_size=100, seed=0, drop_last=drop_last)
    epoch = 2 * steps + 0.01 * 300 + 0.5
    assert found.epoch(plan, 1050, 300) == pytest.approx(epoch)
    assert found.whole(plan, 1050, 300) == pytest.approx(3 + 20 + 4 * epoch)


def test_a_training_is_measured_once_and_an_unreadable_line_is_passed_over(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KERASCNN_CACHE_DIR", str(tmp_path))
    mlp = recipe.load("fashion_mlp")
    options = Overrides(data="sample", limit=300, record="off")
    first, plan, (train, test) = costs.measured(mlp, options)
    assert capsys.readouterr().out == ""
    assert (len(train), len(test)) == (300, 300)
    assert min(first.build, first.step, first.tested) > 0
    file = tmp_path / "costs.jsonl"
    file.write_bytes(b"\xff{\n[]\n{}\n" + file.read_bytes())
    monkeypatch.setattr(costs, "_measured", lambda *_: pytest.fail("measured"))
    again, *_ = costs.measured(mlp, options)
    assert again == first
    # Another batch is another training.
    other = Overrides(
        data="sample", limit=300, record="off", batch_size=plan.batch_size // 2
    )
    with pytest.raises(pytest.fail.Exception):
        costs.measured(mlp, other)


def trained(folder, name, *words):
    """Train in a process of its own, as a user does."""
    command = [sys.executable, "-m", "kerascnn", "run", name, "--data", "sample"]
    command += ["--out", str(folder), "--no-report", *words]
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    return Run(folder)


@on_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion_mlp", "fashion_lenet", "cifar_vgg"])
def test_predicted_memory_and_time_are_those_of_a_run(name, tmp_path, monkeypatch):
    monkeypatch.setenv("KERASCNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("KERASCNN_RECORD", raising=False)
    options = Overrides(data="sample")
    seconds = worker.ask("seconds", name, options)
    memory = worker.ask("memory", name, options)
    assert json.dumps(memory)
    run = trained(tmp_path / "run", name, "--epochs", "6")
    peak = run.result["peak_memory_bytes"]
    assert 1 / MEMORY < memory["bytes"] / peak < MEMORY
    later = [each["seconds"] for each in run.metrics[1:]]  # the first compiles
    step = statistics.median(later) / (2500 / memory["batch_size"])
    assert 1 / TIME < seconds["step"] / step < TIME
