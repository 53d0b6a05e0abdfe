"""Several processes train one run: as one does, and none is left waiting."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from PIL import Image

import kerascnn
from kerascnn.process import watch
from kerascnn.runs import Run

if keras.backend.backend() != "jax":
    pytest.skip("several processes are JAX's", allow_module_level=True)

# A batch of 20 is 7, 7 and 6 images of three processes; the last one has 16.
SHORT = {"data": "sample", "limit": 96, "batch_size": 20, "epochs": 2}


# BatchNorm, random crop, flip and Dropout.
SMALL = """
import keras
from keras import layers
from kerascnn import transforms
from kerascnn.recipe import Course, Recipe

def network():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(image)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.MaxPooling2D(2)(layers.Activation("relu")(x))
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10)(x))

RECIPE = Recipe(
    name="small", dataset="cifar10", network=network,
    transform=lambda: [
        transforms.RandomCrop(padding=2),
        layers.RandomFlip("horizontal"),
        transforms.unit(),
    ],
    optimizer=lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    batch_size=20, epochs=2, parameters=0, course=Course(source="nowhere"),
)
"""


def words(options):
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    return [str(word) for pair in pairs for word in pair]


class Group:
    """Processes of one run on this machine, each with one device."""

    def __init__(self, number, *command, environment=None):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        variables = {"JAX_PLATFORMS": "cpu", "KERASCNN_REPORT": "0"}
        # Bits do not matter here, and XLA compiles faster.
        variables |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "KERASCNN_RECORD": "off"}
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "kerascnn", *command, "--devices", "1"),
                    *("--coordinator", f"127.0.0.1:{port}"),
                    *("--num-processes", str(number), "--process-id", str(place)),
                ],
                env=os.environ | variables | (environment or {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for place in range(number)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def ended(self, seconds=400):
        """Each process's exit code, output and errors, all within some time."""
        end = time.monotonic() + seconds
        found = []
        for process in self.processes:
            out, err = process.communicate(timeout=max(end - time.monotonic(), 1))
            found.append((process.returncode, out, err))
        return found

    def wait_for(self, run, epochs, seconds=400):
        end = time.monotonic() + seconds
        while not (run / "metrics.jsonl").exists() or len(Run(run).metrics) < epochs:
            assert time.monotonic() < end
            assert all(process.poll() is None for process in self.processes), (
                self.ended()
            )
            time.sleep(0.1)


def check(found, expected):
    """Two runs' weights and metrics, whose sums were added up in other orders."""
    pairs = zip(found.model().weights, expected.model().weights, strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(found.metrics, expected.metrics, strict=True):
        for name in ("loss", "accuracy", "test_loss", "test_accuracy"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)


@pytest.mark.parametrize(
    ("number", "recipe"),
    [
        (2, "fashion_mlp"),
        pytest.param(4, "fashion_mlp", marks=pytest.mark.slow),
        pytest.param(3, "small", marks=pytest.mark.slow),
    ],
)
def test_several_processes_train_as_one(number, recipe, tmp_path):
    if recipe == "small":
        (tmp_path / "small.py").write_text(SMALL)
        recipe = str(tmp_path / "small.py")
    command = ["run", recipe, *words({**SHORT, "out": tmp_path / "several"})]
    with Group(number, *command) as group:
        ended = group.ended()
    assert [code for code, *_ in ended] == [0] * number, ended
    assert f"Batches of 20 on {number} devices of {number} processes" in ended[0][1]
    # The others say nothing from when they have met.
    said = {out + err for _, out, err in ended[1:]}
    assert said == {"Loading Keras and JAX ...\n"}
    run = Run(tmp_path / "several")
    assert run.config["placement"] == {
        "processes": number,
        "devices": number,
        "batch_size": 20,
        "images_per_device": -(-20 // number),
        "filled_up": True,
    }
    own = {"record": "off", "report": False, "devices": 1, "out": tmp_path / "one"}
    check(run, kerascnn.train(recipe, **SHORT, **own))


@pytest.mark.slow
@pytest.mark.needs("grain")
def test_several_processes_read_a_stream_in_shares(tmp_path):
    place = tmp_path / "pictures"
    draw = np.random.default_rng(0)
    for number in range(40):
        folder = place / ("train" if number < 30 else "test") / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (28, 28), "uint8")
        Image.fromarray(pixels).save(folder / f"{number}.png")
    # Batches of 7, the last one of 2 images: no parts of equal size.
    short = {"dataset": str(place), "batch_size": 7, "epochs": 2, "engine": "stream"}
    command = ["run", "fashion_mlp", *words({**short, "out": tmp_path / "several"})]
    with Group(3, *command, "--workers", "1") as group:
        ended = group.ended()
    assert [code for code, *_ in ended] == [0] * 3, ended
    own = {"record": "off", "report": False, "devices": 1, "out": tmp_path / "one"}
    one = kerascnn.train("fashion_mlp", **short, **own, workers=0)
    check(Run(tmp_path / "several"), one)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_process_killed_ten_times_loses_nothing(tmp_path):
    draw = random.Random(0)
    short = {**SHORT, "epochs": 400, "checkpoint_minutes": 0}
    folders = tmp_path / "whole", tmp_path / "killed"
    begin, again = (
        ["run", "fashion_mlp", *words({**short, "out": f})] for f in folders
    )
    with Group(2, *begin) as group:
        assert [code for code, *_ in group.ended(900)] == [0, 0]
    for _ in range(10):
        run = Run(folders[1])
        done = len(run.metrics) if (run.folder / "metrics.jsonl").exists() else 0
        with Group(2, *again) as group:
            group.wait_for(run.folder, done + 1)
            time.sleep(draw.uniform(0, 0.3))
            killed = draw.randrange(2)
            group.processes[killed].send_signal(signal.SIGKILL)
            assert group.ended(60)[1 - killed][0] == watch.EXIT_CODE
        again = ["resume", str(run.folder)]
    with Group(2, *again) as group:
        assert [code for code, *_ in group.ended(900)] == [0, 0]
    whole, run = map(Run, folders)
    assert run.result["weights_sha256"] == whole.result["weights_sha256"]
    assert [m["loss"] for m in run.metrics] == [m["loss"] for m in whole.metrics]


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "resumed"), [(0, 1), (1, 3)])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(
    killed, resumed, tmp_path
):
    short = {**SHORT, "epochs": 12, "checkpoint_minutes": 0}
    folder = tmp_path / "run"
    command = ["run", "fashion_mlp", *words({**short, "out": folder})]
    with Group(2, *command) as group:
        group.wait_for(folder, 2)
        group.processes[killed].send_signal(signal.SIGKILL)
        began = time.monotonic()
        code, _, err = group.ended(60)[1 - killed]
        assert time.monotonic() - began < 60
    assert code == watch.EXIT_CODE
    assert err.splitlines()[-1].startswith(f"kerascnn: process {killed} (")
    assert "has died" in err.splitlines()[-1]
    assert not Run(folder).finished
    with Group(resumed, "resume", str(folder)) as group:
        ended = group.ended()
    assert [code for code, *_ in ended] == [0] * resumed, ended
    assert f"had 2 devices and goes on with {resumed}" in ended[0][2]
    assert Run(folder).config["resumed"][-1]["devices"] == resumed
    own = {"record": "off", "report": False, "devices": 1, "out": tmp_path / "one"}
    check(Run(folder), kerascnn.train("fashion_mlp", **short, **own))


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_stops_all_at_the_same_step(asked, tmp_path):
    folder = tmp_path / "run"
    options = {**SHORT, "epochs": 500, "out": folder}
    with Group(2, "run", "fashion_mlp", *words(options)) as group:
        group.wait_for(folder, 2)
        group.processes[asked].send_signal(signal.SIGUSR1)
        group.wait_for(folder, len(Run(folder).metrics) + 3)
        group.processes[asked].send_signal(signal.SIGTERM)
        ended = group.ended(120)
    assert [code for code, *_ in ended] == [143, 143], ended
    assert f"kerascnn resume {folder}" in ended[0][2]
    saved = sorted((folder / "checkpoints").iterdir())
    manifest = json.loads((saved[-1] / "manifest.json").read_text())
    assert manifest["epoch"] >= 2
