"""One door: imports change nothing of a process, and the record says what it did."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import kerascnn

PACKAGE = Path(kerascnn.__file__).parent
MODULES = sorted(
    ".".join(("kerascnn", *file.relative_to(PACKAGE).with_suffix("").parts))
    for file in PACKAGE.rglob("*.py")
    if file.name not in ("__init__.py", "__main__.py")
)
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="it sets up JAX")

# Keras, JAX, tfds and the others that the package needs come first: what they do to a
# process is theirs.
STATE = """
import gc, importlib, json, os, signal, sys, warnings
os.environ.setdefault("KERAS_BACKEND", "jax")
import keras, jax, numpy, tyro, optax, rich, matplotlib.pyplot, scipy.stats
import tensorflow_datasets
for name in ("torch",):
    try:
        importlib.import_module(name)
    except ImportError:
        pass

def state():
    config = {name: repr(value) for name, value in jax.config.values.items()}
    return {
        "environment": dict(os.environ),
        "signals": [repr(signal.getsignal(n)) for n in signal.valid_signals()],
        "argv": (sys.argv, sys.orig_argv),
        "meta_path": [repr(finder) for finder in sys.meta_path],
        "jax": config,
        "warnings": [repr(each) for each in warnings.filters],
        "collector": (gc.isenabled(), gc.get_threshold()),
        "hooks": (repr(sys.excepthook), repr(sys.path_hooks)),
    }
"""


def python(program, *words, **variables):
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **variables}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env={name: value for name, value in environment.items() if value},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@on_jax
def test_importing_any_module_changes_nothing_of_the_process():
    program = f"""{STATE}
changed = {{}}
before = state()
for name in {MODULES}:
    try:
        importlib.import_module(name)
    except ImportError as error:  # of a backend that is not installed
        assert "kerascnn" not in str(error.name), error
    after = state()
    if parts := [key for key in before if before[key] != after[key]]:
        changed[name] = parts
    before = after
print(json.dumps(changed))
"""
    assert json.loads(python(program)) == {}


REPORT = """
import json, os, kerascnn
{before}
first = kerascnn.prepare_process()
second = kerascnn.prepare_process()
assert first == second
{after}
import jax
print(json.dumps([first, jax.device_count(), dict(os.environ)]))
"""


def reported(before="", after="", **variables):
    unset = {"JAX_NUM_CPU_DEVICES": "", "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax"}
    program = REPORT.format(before=before, after=after)
    return json.loads(python(program, **{**unset, **variables}))


def cores():
    return min(len(os.sched_getaffinity(0)), 4)


@on_jax
@pytest.mark.slow
@pytest.mark.parametrize("before", ["import keras", "", "import jax"])
def test_it_says_what_it_did_also_after_keras_was_imported(before):
    did, devices, environment = reported(before)
    assert devices == cores()
    assert did["devices"] == f"{devices} of JAX: one a core"
    assert set(did) == {"memory", "devices", "compile cache", "TensorFlow"}
    assert Path(did["compile cache"]).is_absolute()
    assert "GLIBC_TUNABLES" not in environment


@pytest.mark.slow
@on_jax
def test_what_comes_too_late_or_is_the_users_is_left_and_said():
    did, devices, _ = reported("import jax; jax.devices()")
    assert devices == 1
    assert "too late" in did["devices"]
    did, devices, _ = reported(JAX_NUM_CPU_DEVICES="3")
    assert devices == 3
    assert did["devices"] == "3: JAX_NUM_CPU_DEVICES is set"
    did, devices, _ = reported("import sys; sys.modules['tensorflow'] = sys")
    assert did["TensorFlow"].startswith("too late")


@on_jax
def test_the_environment_turns_it_off():
    did, devices, _ = reported(KERASCNN_PREPARE="0")
    assert (list(did), devices) == (["KERASCNN_PREPARE"], 1)


RECIPE = "fashion_mlp"
OPTIONS = ["--data", "sample", "--limit", "256", "--epochs", "1", "--batch-size", "64"]
BY_HAND = f"""
import sys
import kerascnn
kerascnn.prepare_process()
from pathlib import Path
from kerascnn import recipe
from kerascnn.training.options import Overrides
from kerascnn.training.run import train
train(
    recipe.load("{RECIPE}"),
    Overrides(data="sample", limit=256, epochs=1, batch_size=64, out=Path(sys.argv[1])),
)
"""


@pytest.mark.slow
@on_jax
def test_four_ways_to_train_give_the_same_weights(tmp_path):
    file = PACKAGE / "recipes" / f"{RECIPE}.py"
    ways = {
        "module": ["-m", f"kerascnn.recipes.{RECIPE}", *OPTIONS, "--out"],
        "command": ["-m", "kerascnn", "run", RECIPE, *OPTIONS, "--out"],
        "file": [str(file), *OPTIONS, "--out"],
        "script": ["-c", BY_HAND],
    }
    found = {}
    for way, words in ways.items():
        out = tmp_path / way
        done = subprocess.run(
            [sys.executable, *words, str(out)],
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        (result,) = out.rglob("result.json")
        config = json.loads((result.parent / "config.json").read_text("utf-8"))
        weights = json.loads(result.read_text("utf-8"))["weights_sha256"]
        found[way] = weights, sorted(config["process"])
    assert len(set(map(str, found.values()))) == 1, found
    assert "memory" in found["script"][1]
