"""The backend is the one asked for, whichever of Keras and kerascnn came first."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import kerascnn
from kerascnn.process import backend

PACKAGE = Path(kerascnn.__file__).parent
PROGRAMS = sorted(
    path for part in ("recipes", "lessons") for path in (PACKAGE / part).glob("*.py")
)


# As where it is not installed.
NO_TENSORFLOW = """
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *others: (
    None if name == "tensorflow" else find_spec(name, *others)
)
"""


def imported(path):
    """Return the packages that a file imports at its top, in order."""
    found = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(str(node.module).partition(".")[0])
    return found


@pytest.fixture
def python(tmp_path):
    """Run Python in a folder, without KERAS_BACKEND, and maybe without TensorFlow."""

    def run(*words, tensorflow=True, **variables):
        hidden = tmp_path / "site"
        hidden.mkdir(exist_ok=True)
        (hidden / "sitecustomize.py").write_text("" if tensorflow else NO_TENSORFLOW)
        clean = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
        paths = f"{hidden}{os.pathsep}{PACKAGE.parent}"
        quiet = {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=tmp_path,
            env=clean | quiet | {"KERAS_HOME": str(tmp_path / "keras")} | variables,
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize("name", ["recipes.fashion_mlp", "lessons.padding"])
@pytest.mark.parametrize(
    ("asked", "said"), [("tensorflow", "pip install"), ("caffe", "expected jax")]
)
def test_a_program_says_in_a_line_that_its_backend_is_missing(
    python, name, asked, said
):
    words = "-m", f"kerascnn.{name}", "--help"
    done = python(*words, tensorflow=False, KERAS_BACKEND=asked)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_recipes_and_lessons_import_kerascnn_before_keras(path):
    packages = imported(path)
    if "keras" in packages:
        assert packages.index("kerascnn") < packages.index("keras")


@pytest.mark.parametrize(
    ("name", "variables"),
    [("recipes/fashion_mlp.py", {}), ("lessons/padding.py", {"KERAS_BACKEND": ""})],
)
@pytest.mark.few("lessons/padding.py-variables1")
def test_a_file_of_the_package_is_a_program(python, name, variables):
    done = python(PACKAGE / name, "--help", tensorflow=False, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--out" in done.stdout


OWN_RECIPE = textwrap.dedent("""
    {imports}
    from kerascnn.recipe import Course, Recipe
    from kerascnn.cli.run import main

    def network():
        image = keras.Input((28, 28, 1))
        x = keras.layers.Flatten()(keras.layers.MaxPooling2D(7)(image))
        return keras.Model(image, keras.layers.Dense(10)(x))

    RECIPE = Recipe(
        name="my_net", dataset="fashion_mnist", network=network, epochs=1,
        transform=lambda: [transforms.unit()], optimizer=lambda: optim.sgd(0.1),
        batch_size=64, parameters=170, course=Course(source="mine"),
    )
    if __name__ == "__main__":
        main(RECIPE)
    """)
OURS, KERAS = "from kerascnn import optim, transforms", "import keras"


@pytest.mark.slow
@pytest.mark.parametrize("order", [(OURS, KERAS), (KERAS, OURS)], ids=["ours", "keras"])
def test_a_recipe_of_ones_own_trains_on_jax(python, tmp_path, order):
    if order[0] == KERAS:
        pytest.importorskip("tensorflow")
    (tmp_path / "my_net.py").write_text(OWN_RECIPE.format(imports="\n".join(order)))
    options = ("--data", "sample", "--limit", "64", "--out", "runs")
    done = python("my_net.py", *options, tensorflow=order[0] == KERAS)
    assert done.returncode == 0, done.stderr
    (config,) = (tmp_path / "runs").rglob("config.json")
    assert '"backend": "jax"' in config.read_text()


# What computes with Keras, as far as it comes without a model.
DOORS = ["accelerate", "saved.load_model('gone.keras')", "Run('run').model()"]


@pytest.mark.parametrize(
    ("before", "variables", "said"),
    [
        ("import keras", {}, "runs on tensorflow, not jax"),
        (
            "import os, keras; os.environ['KERAS_BACKEND'] = 'torch'",
            {},
            "runs on tensorflow, not torch",
        ),
        ("import keras", {"KERAS_BACKEND": "jax"}, ""),
        ("import kerascnn, keras", {}, ""),
    ],
    ids=["keras_first", "asked_too_late", "asked", "ours_first"],
)
@pytest.mark.parametrize(
    "door",
    [DOORS[0], *(pytest.param(door, marks=pytest.mark.slow) for door in DOORS[1:])],
    ids=lambda door: door.split("(")[0],
)
@pytest.mark.slow
def test_a_backend_that_was_not_asked_for_is_said(
    python, tmp_path, before, variables, said, door
):
    if said:
        pytest.importorskip("tensorflow")
    (tmp_path / "run").mkdir()
    for name in ("config.json", "model.keras"):
        (tmp_path / "run" / name).write_text("{}")
    program = f"""
{before}
import contextlib, kerascnn.saved
for _ in range(2):
    with contextlib.suppress(ValueError):  # of what is no model file
        kerascnn.{door}
"""
    done = python("-c", program, **variables)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "kerascnn" in line]
    assert len(lines) == bool(said)
    assert said in done.stderr


@pytest.mark.parametrize("is_program", [True, False])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("wanted", [None, "jax", "tensorflow"])
def test_the_command_line_alone_starts_again(monkeypatch, is_program, begun, wanted):
    """For another backend, or for variables that JAX has not read in time."""
    started = []
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("XLA_FLAGS", "--old")
    monkeypatch.setattr(backend, "check_backend", lambda *words: None)
    monkeypatch.setattr(backend, "restart", started.append)
    monkeypatch.setattr(backend.cores, "jax_has_begun", lambda: begun)
    monkeypatch.setattr(backend.signals, "is_program", lambda: is_program)
    needed = {"XLA_FLAGS": "--new"}
    if other := wanted == "tensorflow":
        needed["KERAS_BACKEND"] = wanted
    again = other or begun
    if again and not is_program:
        with pytest.raises(kerascnn.UsageError, match="XLA_FLAGS=--new"):
            backend.use_backend(wanted, {"XLA_FLAGS": "--new"})
        assert not started
        return
    backend.use_backend(wanted, {"XLA_FLAGS": "--new"})
    assert started == ([needed] if again else [])
    assert os.environ["XLA_FLAGS"] == ("--old" if again else "--new")
    started.clear()
    backend.use_backend("jax", {"XLA_FLAGS": os.environ["XLA_FLAGS"]})
    assert not started
