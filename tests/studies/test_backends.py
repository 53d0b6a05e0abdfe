"""One recipe on three backends: where their losses part, and that all conform."""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from kerascnn import UsageError
from kerascnn import recipe as recipes
from kerascnn.cli.commands import main
from kerascnn.process import estimate
from kerascnn.studies import backends
from kerascnn.studies.backends import Result
from kerascnn.without_weights import without_weights

# A net of half a gigabyte, which takes as long as all others.
LARGEST = ("imagenet_vgg16",)
# optax runs on JAX alone.
BY_OPTAX = tuple(name for name in recipes.names() if "speedrun" in name)
NAMES = [name for name in recipes.names() if name not in LARGEST + BY_OPTAX]
QUICK = ("fashion_down_resize", "cifar_edges")


def result(backend, losses):
    return Result(backend, losses, first=1.0, seconds=0.01, memory=2**20)


def test_losses_part_at_the_first_step_beyond():
    jax, tensorflow = result("jax", [2.0, 2.0, 2.0]), result("tensorflow", [2, 2.1, 2])
    torch = result("torch", [2.00001, 2.0, float("nan")])
    assert backends.partings([jax, tensorflow, torch]) == {
        "jax and tensorflow": 2,
        "jax and torch": 3,
        "tensorflow and torch": 2,
    }
    # Relative above 1, absolute below.
    assert backends.differences(result("a", [20.0, 0.3]), result("b", [10, 0.2])) == [
        pytest.approx(1.0),
        pytest.approx(0.1),
    ]


def test_what_a_backend_says_of_its_time_is_passed_on(capsys, monkeypatch):
    answers = [{"said": "5 steps on jax: about 3 min more."}]
    answers += [dataclasses.asdict(result("jax", [1.0]))]

    class Child:
        def __init__(self, *words):
            self.left = list(answers)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def answer(self):
            return self.left.pop(0)

    monkeypatch.setattr(backends.processes, "Child", Child)
    monkeypatch.setattr(backends, "installed", lambda: list(backends.BACKENDS))
    results, missing = backends.compare("fashion_mlp", 5, 8)
    assert (len(results), missing) == (3, [])
    assert capsys.readouterr().err == "5 steps on jax: about 3 min more.\n" * 3


def test_a_backend_says_how_long_it_will_take(monkeypatch):
    monkeypatch.setattr(estimate, "LOOK", 0.0)
    monkeypatch.setattr(estimate, "WORTH", 0.0)
    said = []
    backends.train("fashion_mlp", 4, 8, said.append)
    (line,) = said
    assert line.startswith(f"4 steps on {os.environ['KERAS_BACKEND']}: about ")


def weights_of(name):
    """What `numpy_weights` would assign, without drawing Keras's own first."""
    network = without_weights(recipes.load(name).network)
    assigned = {}
    for layer in network.layers:
        for which in ("kernel", "bias"):
            variable = getattr(layer, which, None)
            if variable is not None:
                variable.assign = functools.partial(assigned.__setitem__, variable.path)
    backends.numpy_weights(network)
    return assigned


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("fashion_mlp", (2 / 784) ** 0.5),  # He, uniform
        ("cifar_he_12", (2 / 27) ** 0.5),  # He, normal
        ("cifar_relu_12", (2 / (27 + 9 * 64)) ** 0.5),  # Glorot
        ("fashion_lenet_fc", (1 / 9 / 3) ** 0.5),  # PyTorch's default
    ],
)
def test_weights_are_the_recipe_s_drawn_by_numpy(name, deviation):
    drawn = [weights_of(name) for _ in range(2)]
    for one, other in zip(*(d.values() for d in drawn), strict=True):
        np.testing.assert_array_equal(one, other)
    kernel = next(iter(drawn[0].values()))
    # At least 288 draws: four standard errors of the deviation are 17 %.
    assert kernel.std() == pytest.approx(deviation, rel=0.17)


@pytest.mark.slow
@pytest.mark.needs("tensorflow")
@pytest.mark.needs("torch")
def test_command_compares_and_draws(tmp_path, capsys):
    picture = tmp_path / "losses.png"
    words = ["fashion_mlp", "--steps", "3", "--batch-size", "4", "--json"]
    assert main(["backends", *words, "--out", str(picture)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [r["backend"] for r in shown["results"]] == list(backends.BACKENDS)
    assert set(shown["parting"].values()) == {None}
    losses = np.array([r["losses"] for r in shown["results"]])
    assert losses.shape == (3, 3)
    # Four images, one step and its update: float32's rounding.
    np.testing.assert_allclose(losses[1:], losses[[0, 0]], rtol=1e-5)
    assert (losses[:, 1] != losses[:, 0]).all()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_losses_are_printed_whatever_they_are_and_wherever_the_figure_goes(
    monkeypatch, capsys
):
    results = [result("jax", [2.0, float("nan")]), result("torch", [2.0, 3.0])]
    monkeypatch.setattr(backends, "compare", lambda *_: (results, []))

    def draw(*_):
        raise UsageError("the figure can't be written.")

    monkeypatch.setattr(backends, "draw", draw)
    assert main(["backends", "fashion_mlp", "--json"]) == 2
    shown = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert shown["results"][0]["losses"] == [2.0, None]
    assert main(["backends", "fashion_mlp"]) == 2
    printed = capsys.readouterr()
    assert "jax" in printed.out
    assert "the figure can't be written." in printed.err


def test_one_backend_alone_is_a_mistake(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "jax" or None)
    with pytest.raises(UsageError, match="only jax is installed"):
        backends.compare("fashion_mlp", 1, 1)


CONFORM = """
import json, pathlib, sys
import keras, numpy as np
from kerascnn import recipe as recipes
from kerascnn.parity import images
from kerascnn.process import estimate
from kerascnn.studies import backends
from kerascnn.training import build

folder, mode, *names = sys.argv[1:]
result = {}
for name in names:
    path = pathlib.Path(folder) / name
    recipe = recipes.load(name)
    raw = images.of(recipe)
    # Not larger than imagenet_vgg16 makes them: resized, one value in 10,000 is halfway
    # between two levels of grey, and goes either way. (Each backend's resizing is
    # compared with torchvision's by kerascnn parity.)
    batch, labels = np.array(raw.images[:4, :224, :224]), np.array(raw.labels[:4])
    if mode == "train":
        build.set_seed(0)
        model, kept = build.build(recipe, batch.shape[1:])
        backends.numpy_weights(kept.layers[-1])
        build.compile_model(model, recipe)
        loss = model.train_on_batch(batch, labels, return_dict=True)["loss"]
        assert np.isfinite(loss)
        kept.save(path.with_suffix(".keras"))
        np.save(path.with_suffix(".npy"), kept.predict_on_batch(batch))
    else:
        loaded = keras.saving.load_model(path.with_suffix(".keras"))
        expected = np.load(path.with_suffix(".npy"))
        apart = np.abs(loaded.predict_on_batch(batch) - expected).max()
        result[name] = float(apart / max(np.abs(expected).max(), 1e-6))
    keras.utils.clear_session()
print(json.dumps(result))
"""


def conform(backend, *words):
    done = subprocess.run(
        [sys.executable, "-c", CONFORM, *words],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.needs("tensorflow")
@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("trained_on", "loaded_on"),
    [
        ("jax", ["torch"]),
        ("jax", ["tensorflow"]),
        ("tensorflow", ["jax", "torch"]),
        ("torch", ["jax", "tensorflow"]),
    ],
)
@pytest.mark.parametrize(
    "names", [QUICK, NAMES, LARGEST], ids=["quick", "all", "largest"]
)
@pytest.mark.slow
def test_what_one_backend_trains_another_loads(names, trained_on, loaded_on, tmp_path):
    conform(trained_on, str(tmp_path), "train", *names)
    for backend in loaded_on:
        apart = conform(backend, str(tmp_path), "load", *names)
        assert set(apart) == set(names)
        # Twelve layers of float32 sums, in another order.
        assert max(apart.values()) < 1e-4, max(apart.items(), key=lambda item: item[1])
