"""The public API: what is seen, what training changes, and what it leaves behind."""

import dataclasses
import gc
import inspect
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import typing
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import kerascnn
from kerascnn import UsageError, api
from kerascnn.report import card, cookbook
from kerascnn.training.autosave import Autosave
from kerascnn.training.options import Overrides

PUBLIC = {
    *("names", "prepare_process", "load", "train", "resume", "predict", "accelerate"),
    *("Recipe", "Run", "UsageError"),
}
SHORT = {"data": "sample", "limit": 128, "batch_size": 64, "epochs": 1}


def python(*words, **more):
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, **more
    )


# What is seen.


def test_the_public_names_are_shown_and_no_others():
    assert set(dir(kerascnn)) == set(kerascnn.__all__) == PUBLIC
    documented = python("-c", "import kerascnn; help(kerascnn)").stdout
    for name in PUBLIC:
        found = getattr(kerascnn, name)
        assert found.__doc__
        if inspect.isfunction(found):
            assert f"\n    {name}(" in documented
        else:
            assert f"\n    class {name}(" in documented
    assert " DATA" not in documented


def test_an_editor_sees_them_without_running_code():
    """Each name that is given when asked for is imported where types are checked."""
    tree = inspect.getsource(kerascnn)
    block = tree.split("if TYPE_CHECKING:")[1].split("\n\n")[0]
    seen = {
        name
        for line in block.splitlines()
        if "import " in line
        for name in line.split("import ")[1].split(", ")
    }
    assert seen == PUBLIC - {"UsageError"}
    assert (Path(kerascnn.__file__).parent / "py.typed").exists()


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = kerascnn.fit


@pytest.mark.parametrize("names", ["names", "load", "Recipe", "Run", "train", "resume"])
def test_a_name_alone_imports_no_framework(names):
    script = (
        f"import sys; from kerascnn import {names};"
        "print({'keras', 'jax', 'tensorflow', 'torch', 'numpy'} & set(sys.modules))"
    )
    assert python("-c", script).stdout == "set()\n"


PATH_OR_TEXT = str | os.PathLike[str] | None


def test_train_takes_every_option_of_the_command_line():
    hints = typing.get_type_hints(api.train)
    options = typing.get_type_hints(Overrides)
    recipe, *given, quiet = inspect.signature(api.train).parameters.values()
    assert quiet.name == "quiet"
    assert recipe.name == "recipe"
    assert [p.name for p in given] == [f.name for f in dataclasses.fields(Overrides)]
    for parameter, field in zip(given, dataclasses.fields(Overrides), strict=True):
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default == field.default
        kind = options[field.name]
        path = kind == Path | None
        assert hints[field.name] == (PATH_OR_TEXT if path else kind), field.name


def test_resume_takes_some_of_them():
    options = typing.get_type_hints(api.train)
    hints = typing.get_type_hints(api.resume)
    _, *given = inspect.signature(api.resume).parameters.values()
    for parameter in given:
        assert hints[parameter.name] in (
            options[parameter.name],
            options[parameter.name] | None,
        )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"epochs": "2"}, "--epochs '2': expected a whole number"),
        ({"epochs": 2.0}, "--epochs 2.0: expected a whole number"),
        ({"epochs": True}, "--epochs True: expected a whole number"),
        ({"epochs": 0}, "--epochs 0: expected 1 or more"),
        ({"learning_rate": "0.1"}, "--learning-rate '0.1': expected a number"),
        ({"accelerate": 1}, "--accelerate 1: expected True or False"),
        ({"data": "smaple"}, "no data 'smaple': did you mean sample"),
        ({"dataset": 3}, "--dataset 3: expected a word"),
        ({"out": 3}, "--out 3: expected a folder's path"),
        ({"backend": "theano"}, "no backend 'theano'"),
    ],
    ids=str,
)
def test_an_option_of_another_type_is_one_line(option, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        api.train("fashion_mlp", **option)
    assert not list(tmp_path.iterdir())


def test_numpys_numbers_are_numbers():
    made = Overrides(epochs=np.int64(3), learning_rate=np.float32(0.5), out="x")
    assert json.dumps([made.epochs, made.learning_rate]) == "[3, 0.5]"
    assert made.out == Path("x")


# Recipes of one's own.

MINE = '''
"""Mine: one layer.

More of it.
"""
import keras
from kerascnn import transforms
from kerascnn.cli.run import main
from kerascnn.recipe import Course, Recipe

def network():
    image = keras.Input((28, 28, 1))
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))

RECIPE = Recipe(
    name="mine", dataset="fashion_mnist", network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: keras.optimizers.SGD(0.1),
    batch_size=64, epochs=1, parameters=7850, course=Course(source="mine"),
)

if __name__ == "__main__":
    main(RECIPE)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    yield file
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_file_anywhere_is_a_recipe(mine):
    path = list(sys.path)
    for name in (mine, str(mine), "mine.py", "./mine.py"):
        found = kerascnn.load(name)
        assert (found.name, found.own_file) == ("mine", mine)
        assert found.idea.startswith("Mine: one layer.")
        assert found.command == "kerascnn run mine.py"
    assert sys.path == path
    assert kerascnn.load("fashion_mlp").own_file is None


def test_a_changed_file_is_read_anew(mine):
    assert kerascnn.load(mine).batch_size == 64
    stat = mine.stat()
    mine.write_text(MINE.replace("batch_size=64", "batch_size=32"))
    os.utime(mine, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert kerascnn.load(mine).batch_size == 32


def test_a_file_imports_what_lies_beside_it(mine):
    (mine.parent / "beside_mine.py").write_text("SIZE = 16\n")
    mine.write_text(
        "import beside_mine\n" + MINE.replace("size=64", "size=beside_mine.SIZE")
    )
    assert kerascnn.load(mine).batch_size == 16


@pytest.mark.parametrize("name", ["json", "numpy"])
def test_a_file_takes_no_other_modules_place(mine, name):
    file = mine.with_name(f"{name}.py")
    file.write_text(MINE.replace('"mine"', f'"{name}"', 1))
    module = sys.modules[name]
    assert kerascnn.load(file).name == name
    assert sys.modules[name] is module


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no file"),
        ("x = (", r"SyntaxError: '\(' was never closed"),
        ("import keras\nkeras.leyers\n", "AttributeError: .*leyers.*, line 2"),
        ("import nosuchmodule", "No module named 'nosuchmodule', line 1"),
        ("x = 1", "it assigns no RECIPE"),
        ("RECIPE = 3", "RECIPE is a int and no Recipe"),
        ("\0", "null bytes"),
        ("import sys; sys.exit(3)", "it ends the program where it is imported"),
        (MINE.replace('"mine"', '"fashion_mlp"', 1), "says name='fashion_mlp'"),
        (MINE.replace("batch_size=64, ", ""), "missing .*'batch_size'"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(mine, text, said):
    mine.unlink() if text is None else mine.write_text(text)
    modules, path = set(sys.modules), list(sys.path)
    with pytest.raises(UsageError, match=said) as mistake:
        kerascnn.load(mine)
    assert "\n" not in str(mistake.value)
    assert "mine" not in set(sys.modules) - modules
    assert sys.path == path


@pytest.mark.parametrize("name", ["a b.py", "2.py", "mine.txt", "."])
def test_a_file_of_another_name_is_one_line(mine, name):
    if name != ".":
        mine.rename(mine.with_name(name))
    with pytest.raises(UsageError, match=r"expected one that|letters, digits"):
        kerascnn.load(f"./{name}")


# Training.


@pytest.fixture
def interrupt(monkeypatch):
    """Press Ctrl-C, once, after a step of an epoch, counted from 0."""
    after_step = Autosave.after_step

    def at(*place):
        pressed = []

        def step(session, step, measured):
            if (session.epoch, step) == place and not pressed:
                pressed.append(step)
                signal.raise_signal(signal.SIGINT)
            after_step(session, step, measured)

        monkeypatch.setattr(Autosave, "after_step", step)

    return at


@pytest.mark.parametrize("engine", ["epoch", "fit"])
@pytest.mark.parametrize("place", [(0, 1), (1, 1)])
@pytest.mark.few("place0-epoch")
def test_ctrl_c_leaves_a_run_to_go_on_with(
    tmp_path, monkeypatch, interrupt, engine, place
):
    """The weights become those of a run that nothing stopped."""
    monkeypatch.chdir(tmp_path)
    options = SHORT | {"epochs": 2, "engine": engine}
    interrupt(*place)
    with pytest.raises(KeyboardInterrupt) as stop:
        kerascnn.train("fashion_mlp", **options, out="it's a run")
    line = str(stop.value)
    assert line == """stopped; to go on: kerascnn.resume("it's a run")"""
    assert stop.value._render_traceback_() == [line]
    run = kerascnn.resume("it's a run")
    whole = kerascnn.train("fashion_mlp", **options, out="whole")
    assert run.history["epoch"] == [1, 2]
    assert run.result["weights_sha256"] == whole.result["weights_sha256"]


def test_a_run_of_a_file_goes_on_wherever_one_is(
    mine, tmp_path, monkeypatch, interrupt
):
    interrupt(1, 1)
    with pytest.raises(KeyboardInterrupt):
        kerascnn.train("mine.py", **(SHORT | {"epochs": 2}), out="run")
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    moved = mine.rename(mine.with_name("there.txt"))
    with pytest.raises(UsageError, match=r"mine\.py, the recipe of .* is gone"):
        kerascnn.resume(tmp_path / "run")
    moved.rename(mine)
    run = kerascnn.resume(tmp_path / "run")
    assert run.finished
    with pytest.raises(UsageError, match=r"none of the course"):
        cookbook.record_of(run)


def test_a_run_has_its_model_history_and_curve(tmp_path):
    run = kerascnn.train("fashion_mlp", **(SHORT | {"epochs": 2}), out=tmp_path / "run")
    assert isinstance(run, kerascnn.Run)
    assert run.history["epoch"] == [1, 2]
    assert run.history["loss"] == [record["loss"] for record in run.metrics]
    assert run.show() == tmp_path / "run" / "curve.png"
    again = kerascnn.Run(str(run.folder))
    assert again == run
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype("uint8")
    stock = keras.saving.load_model(run.folder / "model.keras")
    np.testing.assert_array_equal(again.model().predict(images), stock.predict(images))
    picture = (run.folder / "curve.png").read_bytes()
    (run.folder / "curve.png").unlink()
    assert again.show().read_bytes() == picture


def test_a_run_that_is_none_says_so(tmp_path):
    run = kerascnn.Run(tmp_path)
    assert run._repr_png_() is None
    for ask in (run.model, run.show):
        with pytest.raises(UsageError, match="there is no run in"):
            ask()
    run.write_config({})
    assert run.history == {}
    with pytest.raises(UsageError, match=r"no model\.keras yet"):
        run.model()
    with pytest.raises(UsageError, match="no epoch has ended"):
        run.show()


def state():
    """What of the process a library might change."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    root = logging.getLogger()
    found = {
        "signals": [signal.getsignal(number) for number in numbers],
        "environment": dict(os.environ),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "finders": list(sys.meta_path),
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "policy": keras.config.dtype_policy(),
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "format": keras.config.image_data_format(),
        "filters": list(warnings.filters),
        "show": warnings.showwarning,
        "logging": (root.level, list(root.handlers), logging.root.manager.disable),
        "folder": os.getcwd(),
        "collector": (gc.isenabled(), gc.get_threshold()),
        "mask": os.umask(os.umask(0o22)) and None,
    }
    if keras.backend.backend() == "jax":
        found["jax"] = dict(sys.modules["jax"].config.values)
    return found


def test_training_puts_back_what_it_sets(tmp_path, monkeypatch):
    kerascnn.train("fashion_mlp", **SHORT, out=tmp_path / "first")  # imports the rest
    monkeypatch.setattr(os, "execve", None)
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.utils.set_random_seed(5)
    try:
        drawn = [float(keras.random.uniform(())) for _ in range(4)]
        keras.utils.set_random_seed(5)
        assert float(keras.random.uniform(())) == drawn[0]
        before = state()
        run = kerascnn.train(
            "fashion_mlp", **SHORT, out=tmp_path / "second", precision="mixed_bfloat16"
        )
        after = state()
        assert [float(keras.random.uniform(())) for _ in range(3)] == drawn[1:]
    finally:
        keras.config.set_dtype_policy("float32")
    for name, value in before.items():
        assert after[name] == value, name
    assert run.config["precision"] == "mixed_bfloat16"


TEN = """
import gc, json, os, sys
import kerascnn

def held():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    arrays = len(sys.modules["jax"].live_arrays()) if "jax" in sys.modules else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, arrays

found, after = kerascnn.load("fashion_mlp"), []
for turn in range(10):
    kerascnn.train(found, **json.loads(sys.argv[1]), out=str(turn))
    after.append(held())
print(json.dumps(after))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_trainings_take_no_more_than_two(tmp_path):
    """Memory and arrays are level once what is compiled is kept."""
    # A process of its own: what other tests leave here would count too.
    package = str(Path(kerascnn.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package}
    words = "-c", TEN, json.dumps(SHORT)
    done = python(*words, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    megabytes, arrays = zip(*json.loads(done.stdout.splitlines()[-1]), strict=True)
    assert len(set(arrays[2:])) == 1
    # A leak of the network's weights alone would be 8 x 2.4 MB with Adam's moments.
    assert min(megabytes[7:]) - max(megabytes[2:4]) < 12


# Notebooks.

FAKE = """
import sys, types

class Handle:
    def update(self, data, raw):
        assert raw
        said.append(("update", data["text/plain"]))

class Shell:
    kernel = object()

def display(shown, raw=False, display_id=None):
    said.append(("display", shown))
    return Handle() if display_id else None

said = []
ipython = types.ModuleType("IPython")
ipython.get_ipython = Shell
ipython.display = types.ModuleType("IPython.display")
ipython.display.display = display
ipython.display.Image = lambda filename: filename
"""


@pytest.fixture
def notebook(monkeypatch):
    """An IPython that notes what it is asked to show."""
    space = {}
    exec(textwrap.dedent(FAKE), space)
    monkeypatch.setitem(sys.modules, "IPython", space["ipython"])
    monkeypatch.setitem(sys.modules, "IPython.display", space["ipython"].display)
    return space["said"]


def test_a_notebook_shows_one_line_that_changes(notebook, tmp_path, capsys):
    run = kerascnn.train("fashion_mlp", **(SHORT | {"epochs": 3}), out=tmp_path / "run")
    (kind, first), *updates = notebook
    assert kind == "display"
    assert first == {"text/plain": ""}
    compiles = keras.backend.backend() != "torch"
    begun = "compiling, a minute or so" if compiles else "step 0/2"
    assert updates[0][1].startswith(f"epoch 1/3 {begun}")
    assert {kind for kind, _ in updates} == {"update"}
    last = updates[-1][1]
    assert "\n" not in last
    assert last.startswith("epoch 3/3  loss ")
    assert "epoch 1/3" not in capsys.readouterr().out
    assert run.show() is None
    assert notebook[-1] == ("display", str(run.folder / "curve.png"))


def test_a_notebook_shows_a_recipes_card_and_a_runs_curve(notebook, tmp_path):
    found = kerascnn.load("cifar_vgg_aug")
    markdown = found._repr_markdown_()
    screen = io.StringIO()
    from rich.console import Console

    card.show(found, Console(file=screen, width=200))
    for words in (found.idea.splitlines()[0], "2,488,906", "RandomCrop", "~90.6%"):
        assert words in markdown
        assert words in screen.getvalue()
    assert UsageError("no recipe")._render_traceback_() == ["UsageError: no recipe"]
