"""A whole run, as a user starts it, on each backend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kerascnn
from kerascnn import data

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


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_a_run_on_the_sample_leaves_its_whole_record(tmp_path, backend):
    options = ["--data", "sample", "--epochs", "2", "--seed", "7"]
    done = run_recipe(
        tmp_path, "fashion_mlp", *options, "--out", "run", KERAS_BACKEND=backend
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "result.json",
        "curve.png",
        "model.keras",
    }

    config = json.loads((run / "config.json").read_text())
    assert config["recipe"] == "fashion_mlp"
    assert config["overrides"] == ["epochs"]
    assert (config["epochs"], config["batch_size"], config["seed"]) == (2, 1024, 7)
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

    assert "epoch 2/2" in done.stdout
    assert "time left" not in done.stdout  # no bar where no terminal is
    assert "bundled sample" in done.stdout
    assert done.stdout.count("kerascnn data get fashion_mnist") == 2  # start and end
    assert "course 89.0%" in done.stdout
    if backend != "tensorflow":
        assert "tensorflow imported: False" in done.stdout

    result = json.loads((run / "result.json").read_text())
    assert result["test_accuracy"] == metrics[1]["test_accuracy"]
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


def test_the_same_seed_gives_the_same_weights(tmp_path):
    options = ["--data", "sample", "--epochs", "1", "--limit", "1100"]
    weights = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        done = run_recipe(
            tmp_path, "fashion_mlp", *options, "--seed", seed, "--out", name
        )
        assert done.returncode == 0, done.stderr
        weights.append((tmp_path / name / "metrics.jsonl").read_text())
    losses = [json.loads(text)["loss"] for text in weights]
    assert losses[0] == losses[1] != losses[2]


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


def test_a_batch_larger_than_the_set_is_a_clear_mistake(tmp_path):
    options = ["--data", "sample", "--limit", "100"]
    done = run_recipe(tmp_path, "fashion_mlp", *options)
    assert done.returncode == 2
    assert "--batch-size" in done.stderr
    assert not (tmp_path / "runs").exists()
