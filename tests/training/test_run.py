"""A whole run, as a user starts it, on each backend."""

import dataclasses
import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import kerascnn
from kerascnn import UsageError, api, data, recipe
from kerascnn.cli import commands
from kerascnn.data import batches as batches_module
from kerascnn.engine import choice, fit, stream
from kerascnn.engine import epoch as epoch_module
from kerascnn.process import cores, machine
from kerascnn.runs import Run
from kerascnn.training import build, checkpoint
from kerascnn.training import case as training_case
from kerascnn.training import options as run_options
from kerascnn.training import run as training_run
from kerascnn.training.progress import Progress

ROOT = str(Path(kerascnn.__file__).parents[1])

# Ends as the command does, but says first whether TensorFlow was imported.
RUN = """
import runpy, sys
name = sys.argv.pop(1)
try:
    runpy.run_module("kerascnn.recipes." + name, run_name="__main__")
finally:
    print("tensorflow imported:", "tensorflow" in sys.modules)
"""

# A process that has Keras alone: the working directory is not on its path.
LOAD = """
import sys, json, numpy as np, keras
model = keras.saving.load_model(sys.argv[1])
images = np.load(sys.argv[2])
logits = keras.ops.convert_to_numpy(model(images, training=False))
assert "kerascnn" not in sys.modules
print(json.dumps({"labels": logits.argmax(-1).tolist(), "shape": logits.shape}))
"""


def python(*words, folder, **environment):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_recipe(folder, name, *options, **environment):
    return python(
        *("-c", RUN, name, *options), folder=folder, PYTHONPATH=ROOT, **environment
    )


@pytest.mark.parametrize(
    "backend",
    [
        "jax",
        *(
            pytest.param(name, marks=[pytest.mark.needs(name), pytest.mark.slow])
            for name in ("tensorflow", "torch")
        ),
    ],
)
def test_a_run_on_the_sample_leaves_its_whole_record(tmp_path, backend):
    options = ["--data", "sample", "--epochs", "2", "--seed", "7"]
    done = run_recipe(
        tmp_path, "fashion_mlp", *options, "--out", "run", KERAS_BACKEND=backend
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "result.json",
        "curve.png",
        "model.keras",
        "record.npz",
    }

    config = json.loads((run / "config.json").read_text())
    assert config["recipe"] == "fashion_mlp"
    assert config["overrides"] == ["epochs", "batch_size"]
    assert (config["epochs"], config["batch_size"], config["seed"]) == (2, 64, 7)
    assert config["drop_last"] is True
    assert config["engine"] == ("epoch" if backend == "jax" else "fit")
    assert config["data"]["sample"] is True
    assert config["data"]["train_images"] == 2500
    assert config["data"]["sha256"] == data.load("fashion_mnist", "sample").hash
    assert len(config["fingerprint"]) == 64
    assert config["environment"]["backend"] == backend
    assert config["environment"]["versions"][backend]

    metrics = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    assert [m["epoch"] for m in metrics] == [1, 2]
    assert metrics[1]["crossentropy"] < metrics[0]["crossentropy"]
    assert metrics[0]["learning_rate"] == pytest.approx(1e-3)
    assert config["learning_rate"] == pytest.approx(1e-3)

    assert "epoch 2/2" in done.stdout
    assert "time left" not in done.stdout  # no bar where no terminal is
    assert "bundled sample" in done.stdout
    assert done.stdout.count("kerascnn data get fashion_mnist") == 2  # start and end
    assert "(course, on the full set: ~89%)" in done.stdout
    assert "2 epochs (the recipe's: 20)" in done.stdout
    assert (
        "Settings that fit a sample: 2 epochs in batches of 64; the recipe's own: "
        "--batch-size 1024.\n"
    ) in done.stdout
    told, _, after = done.stdout.partition("begins with compiling")
    assert bool(after) == (backend != "torch")
    assert "epoch 1/2" not in told or backend == "torch"
    if backend != "tensorflow":
        assert "tensorflow imported: False" in done.stdout

    result = json.loads((run / "result.json").read_text())
    assert result["test_accuracy"] == metrics[1]["test_accuracy"]
    assert result["finished"] is True
    test = data.load("fashion_mnist", "sample").test
    np.save(tmp_path / "images.npy", test.images)
    loaded = python(
        "-c",
        LOAD,
        run / "model.keras",
        tmp_path / "images.npy",
        folder=tmp_path,
        KERAS_BACKEND="jax",
        PYTHONPATH="",
    )
    assert loaded.returncode == 0, loaded.stderr
    answer = json.loads(loaded.stdout)
    assert answer["shape"] == [1000, 10]
    accuracy = (np.array(answer["labels"]) == test.labels).mean()
    # Another backend may round a near tie the other way.
    assert accuracy == pytest.approx(result["test_accuracy"], abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["epoch", "fit"])
def test_the_same_seed_gives_the_same_weights(tmp_path, engine):
    """Ten steps, with the order of the images and the first weights drawn from it.

    The first run has a process of its own.
    """
    options = ["--data", "sample", "--epochs", "2", "--batch-size", "256"]
    options += ["--limit", "1280", "--engine", engine]
    weights = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        words = [*options, "--seed", seed, "--out", str(tmp_path / name)]
        if name == "a":
            done = run_recipe(tmp_path, "fashion_mlp", *words)
            assert done.returncode == 0, done.stderr
        else:
            assert commands.main(["run", "fashion_mlp", *words]) == 0
        result = json.loads((tmp_path / name / "result.json").read_text())
        weights.append(result["weights_sha256"])
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.slow
@pytest.mark.needs("torch")
def test_backend_option_starts_the_process_again(tmp_path):
    options = ["--data", "sample", "--epochs", "1", "--backend", "torch"]
    done = python(
        *("-m", "kerascnn", "run", "fashion_mlp", *options, "--out", "run"),
        folder=tmp_path,
        PYTHONPATH=ROOT,
        KERAS_BACKEND="jax",
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["environment"]["backend"] == "torch"


def test_a_batch_larger_than_the_set_is_made_smaller_and_said(tmp_path, capsys):
    options = ["--data", "sample", "--limit", "100", "--batch-size", "1024"]
    out = tmp_path / "run"
    words = [*options, "--epochs", "1", "--out", str(out)]
    assert commands.main(["run", "fashion_mlp", *words]) == 0
    assert (
        "A batch of 1,024 is larger than the training set: batches of 100, one step"
        in (capsys.readouterr().out)
    )
    assert json.loads((out / "config.json").read_text())["batch_size"] == 100


@pytest.mark.parametrize("there", [1, 2])
def test_more_devices_than_cores_are_said(tmp_path, capsys, monkeypatch, there):
    if keras.backend.backend() != "jax" or machine.device() != "cpu":
        pytest.skip("cores are devices of JAX on a CPU")
    if len(keras.distribution.list_devices()) < 2:
        pytest.skip("JAX has one device")
    monkeypatch.setattr(cores, "available", lambda: there)
    words = ["--data", "sample", "--limit", "2", "--epochs", "1", "--devices", "2"]
    options = [*words, "--record", "off", "--no-report", "--out", str(tmp_path / "run")]

    def fit(*_, **__):
        raise UsageError("enough")

    monkeypatch.setattr(epoch_module, "fit", fit)
    assert commands.main(["run", "fashion_mlp", *options]) == 2
    said = capsys.readouterr().out
    assert "Batches of 2 on 2 devices: 1 image each." in said
    assert ("--devices 2 are more than this process's 1 core" in said) is (there == 1)


RECIPE = """
import keras
from kerascnn import optim, transforms
from kerascnn.recipe import Course, Recipe

def network():
    image = keras.Input({shape})
    x = keras.layers.Flatten()(image)
    return keras.Model(image, keras.layers.Dense({units})(x))

RECIPE = Recipe(
    name="mine", dataset="fashion_mnist", network=network,
    transform=lambda: [transforms.pm1()], optimizer=lambda: optim.adam(1e-3),
    batch_size=256, epochs=1, parameters=0, course=Course(source="nowhere"),
)
"""


@pytest.mark.parametrize(
    ("shape", "units", "message"),
    [
        ((28, 28, 1), 5, "5 logits, and fashion_mnist has 10 classes"),
        ((32, 32, 3), 10, "does not take the images of fashion_mnist"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(shape, units, message):
    namespace = {"__name__": "mine"}
    exec(RECIPE.format(shape=shape, units=units), namespace)
    with pytest.raises(UsageError, match=message):
        training_run.train(namespace["RECIPE"], run_options.Overrides(data="sample"))


def test_any_folder_of_images_trains_resized(tmp_path, capsys):
    """Black and white squares of all sizes, told apart after a few steps."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 5)):
        for name, brightness in (("black", 20), ("white", 230)):
            folder = tmp_path / "squares" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(20, 60, 2)
                noise = rng.integers(-20, 20, (height, width, 3)) + brightness
                Image.fromarray(noise.astype("uint8")).save(folder / f"{i}.png")
    namespace = {"__name__": "mine"}
    exec(RECIPE.format(shape=(16, 12, 3), units=10), namespace)
    resizing = keras.layers.Resizing(16, 12, crop_to_aspect_ratio=True, antialias=True)
    pm1 = namespace["RECIPE"].transform
    mine = dataclasses.replace(
        namespace["RECIPE"], batch_size=16, transform=lambda: [resizing, *pm1()]
    )
    out = tmp_path / "run"
    overrides = run_options.Overrides(
        dataset=str(tmp_path / "squares"), epochs=6, learning_rate=0.01, out=out
    )
    run = training_run.train(mine, overrides)
    printed = capsys.readouterr().out
    assert "rebuilt for images of 16 x 12 x 3 and 2 classes" in printed
    assert f"80 training and 10 test images, from {tmp_path / 'squares'}" in printed
    assert run.result["test_accuracy"] == 1
    assert run.config["overrides"] == ["epochs", "learning_rate", "dataset"]
    assert run.config["data"]["classes"] == ["black", "white"]


def test_settings_can_be_chosen_on_a_part_of_the_training_set(tmp_path, capsys):
    """A fifth of each class is held out; no test image is looked at."""
    overrides = run_options.Overrides(
        data="sample", epochs=1, seed=5, validation=0.2, out=tmp_path / "run"
    )
    run = api.completed(recipe.load("fashion_mlp"), overrides)
    assert run.config["overrides"] == ["epochs", "validation", "batch_size"]
    assert run.config["validation"] == 0.2
    assert run.config["data"]["train_images"] == 2000
    assert run.config["data"]["validation_images"] == 500
    assert "test_images" not in run.config["data"]
    train = data.load("fashion_mnist", "sample").train
    _, held_out = data.split(train, 0.2, seed=5)
    assert np.bincount(held_out.labels).tolist() == [50] * 10
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    hits = keras.ops.convert_to_numpy(model(held_out.images)).argmax(-1)
    assert (hits == held_out.labels).mean() == pytest.approx(
        run.result["validation_accuracy"]
    )
    assert "test_accuracy" not in run.result
    assert {"validation_loss", "validation_accuracy"} <= run.metrics[0].keys()
    printed = capsys.readouterr().out
    assert "validation accuracy" in printed
    assert "(on 20% of the training set, held out)" in printed
    assert "test accuracy" not in printed
    assert "2,000 training and 500 validation images" in printed
    assert "ourse:" not in printed


def test_another_backend_than_the_running_one_is_refused():
    overrides = run_options.Overrides(backend="tensorflow", data="sample")
    with pytest.raises(UsageError, match="KERAS_BACKEND"):
        training_run.train(recipe.load("fashion_mlp"), overrides)


def test_ctrl_c_keeps_the_epochs_that_were_trained(tmp_path, monkeypatch):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    mine = dataclasses.replace(
        recipe.load("fashion_mlp"), callbacks=lambda: [Interrupt()]
    )
    overrides = run_options.Overrides(data="sample", limit=1024, out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        training_run.train(mine, overrides)
    run = Run(tmp_path / "run")
    assert [m["epoch"] for m in run.metrics] == [1, 2]
    assert run.result["finished"] is False
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    images = data.load("fashion_mnist", "sample").test.images[:1024]
    hits = keras.ops.convert_to_numpy(model(images)).argmax(-1)
    labels = data.load("fashion_mnist", "sample").test.labels[:1024]
    assert (hits == labels).mean() == pytest.approx(run.result["test_accuracy"])


def test_what_ends_the_first_epoch_is_what_is_raised(tmp_path):
    """No metrics are there yet, and that must not hide why."""

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise KeyboardInterrupt

    mine = dataclasses.replace(
        recipe.load("fashion_mlp"), callbacks=lambda: [Interrupt()]
    )
    overrides = run_options.Overrides(data="sample", limit=1024, out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        training_run.train(mine, overrides)
    run = tmp_path / "run"
    assert {p.name for p in run.iterdir()} == {"config.json", "checkpoints"}
    assert not list((run / "checkpoints").iterdir())


def test_a_disk_that_fills_up_is_one_clear_line(tmp_path):
    run = Run.create("fashion_mlp", tmp_path / "run")
    with (
        pytest.raises(UsageError, match=r"model\.keras can't be written \(No space"),
        run.writing("model.keras"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_engines_are_chosen_by_backend_callbacks_and_memory(monkeypatch, capsys):
    mlp = recipe.load("fashion_mlp")
    sample = data.load("fashion_mnist", "sample")
    splits = sample.train, sample.test
    assert choice.choose_engine("auto", mlp, *splits) is epoch_module
    assert choice.choose_engine("fit", mlp, *splits) is fit

    batches = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 0)
    picky = dataclasses.replace(mlp, callbacks=lambda: [batches])
    assert choice.choose_engine("auto", picky, *splits) is fit
    assert "LambdaCallback has a hook for batches" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"LambdaCallback has one: .* --engine fit"):
        choice.choose_engine("epoch", picky, *splits)

    monkeypatch.setattr(epoch_module, "fits", lambda *splits: False)
    for installed, engine in ((True, stream), (False, fit)):
        monkeypatch.setattr(
            batches_module, "is_installed", lambda found=installed: found
        )
        assert choice.choose_engine("auto", mlp, *splits) is engine
        assert "memory" in capsys.readouterr().out

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert choice.choose_engine("auto", mlp, *splits) is fit
    with pytest.raises(UsageError, match="--engine epoch needs JAX"):
        choice.choose_engine("epoch", mlp, *splits)


@pytest.mark.slow
def test_what_jax_compiled_is_kept_for_the_next_start(tmp_path, monkeypatch):
    """The second run finds the training step that the first one compiled.

    Only what takes a while to compile is kept; for smaller functions that is a matter
    of luck, so the step alone is looked at.
    """
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # the tests' own
    cache = tmp_path / "cache"
    options = ["--data", "sample", "--limit", "1024", "--epochs", "1"]
    kept = []
    for name in ("a", "b"):
        done = run_recipe(
            *(tmp_path, "fashion_mlp", *options, "--out", name),
            KERASCNN_CACHE_DIR=str(cache),
        )
        assert done.returncode == 0, done.stderr
        kept.append(
            sorted(p.name for p in (cache / "compiled").rglob("jit_steps-*-cache"))
        )
    assert kept[0] == kept[1]
    assert kept[0]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"accelerate": False}, id="plain"),
        pytest.param({"accelerate": True}, id="fast"),
        pytest.param({"engine": "fit"}, id="fit"),
    ],
)
@pytest.mark.slow
def test_half_precision_scales_the_loss(tmp_path, options, monkeypatch):
    """Else gradients below 6e-8 would be zero in float16."""
    models, compiled = [], build.compiled

    def noted(*arguments):
        models.append(compiled(*arguments))
        return models[-1]

    monkeypatch.setattr(build, "compiled", noted)
    run = training_run.train(
        recipe.load("fashion_lenet"),
        run_options.Overrides(
            precision="mixed_float16",
            data="sample",
            limit=500,
            epochs=2,
            batch_size=50,
            out=tmp_path / "run",
            **options,
        ),
    )
    ((model, _),) = models
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    losses = [m["loss"] for m in run.metrics]
    assert losses[1] < losses[0] < math.log(10) + 0.5
    assert run.result["steps_left_out"] == 0


@pytest.mark.parametrize("name", ["fashion_mlp", "fashion_lenet"])
def test_images_of_other_channels_are_a_line(tmp_path, name):
    """Keras takes them to build, and breaks in the first step."""
    coloured = dataclasses.replace(recipe.load(name), dataset="cifar10")
    expected = (
        rf"{name}'s network does not take .*, \(32, 32, 3\): it takes \(28, 28, 1"
    )
    with pytest.raises(UsageError, match=expected):
        training_run.train(
            coloured, run_options.Overrides(data="sample", out=tmp_path / "run")
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("backend", "said"), [("jax", [True, False]), ("torch", [False, False])]
)
def test_an_epoch_says_where_its_seconds_include_compiling(
    monkeypatch, capsys, backend, said
):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    progress = Progress(epochs=2, steps=1)
    logs = {"loss": 1.0, "accuracy": 0.5, "val_accuracy": 0.5}
    progress.on_train_begin()
    for epoch_number in range(2):
        progress.on_epoch_begin(epoch_number)
        progress.on_epoch_end(epoch_number, logs)
    lines = capsys.readouterr().out.splitlines()
    # Where no terminal is, a line says so before the first epoch.
    before = [line for line in lines if "begins with compiling" in line]
    assert before == lines[: said[0]]
    printed = lines[len(before) :]
    assert ["compiling included" in line for line in printed] == said


@pytest.mark.parametrize("name", ["fashion_mlp", "cifar_vgg_aug", "imagenet_vgg16"])
@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("given", [{}, {"batch_size": 100}, {"epochs": 3}])
def test_a_sample_is_trained_on_in_settings_that_fit_it(name, sample, given):
    """By the rule in words: half the recipe's batch until an epoch has 32 steps."""
    chosen = recipe.load(name)
    dataset = data.load("cifar10", "sample")
    dataset = dataclasses.replace(dataset, sample=sample)
    overrides = run_options.Overrides(**given)
    plan = training_case.plan_of(chosen, overrides, dataset)
    batch_size = chosen.batch_size
    while sample and batch_size * 32 > len(dataset.train):
        batch_size //= 2
    epochs = min(chosen.epochs, 16) if sample else chosen.epochs
    wanted = {"epochs": epochs, "batch_size": batch_size} | given
    assert (plan.epochs, plan.batch_size) == (wanted["epochs"], wanted["batch_size"])
    told = training_case.fitted(chosen, overrides, plan)
    own = {"epochs": chosen.epochs, "batch-size": chosen.batch_size}
    differ = (epochs != chosen.epochs, batch_size != chosen.batch_size)
    expected = {
        option: value
        for (option, value), other in zip(own.items(), differ, strict=True)
        if other and option.replace("-", "_") not in given
    }
    assert told == expected


@pytest.mark.parametrize("validation", [None, 0.2])
def test_a_finished_run_keeps_the_last_checkpoint_and_the_best(tmp_path, validation):
    options = run_options.Overrides(
        epochs=3,
        batch_size=50,
        limit=200,
        data="sample",
        validation=validation,
        checkpoint_minutes=0,
        out=tmp_path / "run",
    )
    run = training_run.train(recipe.load("fashion_mlp"), options)
    kept = {"00003-0000000"}
    if validation:
        best = min(run.metrics, key=lambda record: record["validation_loss"])
        kept.add(f"{best['epoch']:05}-0000000")
    assert {path.name for path in checkpoint.numbered(run.folder)} == kept
    # A lost result is written once more, and is the same.
    before = run.result["weights_sha256"]
    (run.folder / "result.json").unlink()
    again = training_run.train(
        recipe.load("fashion_mlp"), run_options.Overrides(resume=run.folder)
    )
    assert again.result["weights_sha256"] == before
