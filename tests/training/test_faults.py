"""Kills, signals, a full disk and damaged files: nothing that was saved is lost.

Each test starts whole processes, as a user does, on a small network with everything
that carries state or draws numbers: augmentation, BatchNorm, Dropout, L2, decay.
"""

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerascnn
from kerascnn import UsageError, api, describe, optim, recipe
from kerascnn.cli import parsing
from kerascnn.cli import run as run_command
from kerascnn.engine import finite
from kerascnn.process import cores, machine, signals
from kerascnn.process.signals import Interrupted, Signals
from kerascnn.report import plots
from kerascnn.runs import Run
from kerascnn.training import checkpoint, resume
from kerascnn.training import options as run_options
from kerascnn.training import run as training_run
from kerascnn.training.autosave import Autosave

ROOT = str(Path(kerascnn.__file__).parents[1])

SCRIPT = '''
import os, sys, time
from kerascnn import optim, transforms
from kerascnn.cli import run as run_recipe
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
    async_safe = needs_no_state = True
    def get_config(self):
        return {}
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))

RECIPE = Recipe(
    name="small", dataset="fashion_mnist", network=network,
    transform=lambda: [
        transforms.RandomCrop(padding=2), layers.RandomFlip("horizontal"),
        transforms.pm1(), transforms.RandomErasing(),
    ],
    optimizer=lambda: optim.adam(float(os.environ.get("RATE", "0.01"))), batch_size=50,
    epochs=4, parameters=0, course=Course(source="nowhere"),
    callbacks=lambda: [optim.ExponentialDecay(gamma=0.7), Slowly()],
)
if __name__ == "__main__":
    run_recipe.main(RECIPE)
'''

# Runs of the script without the seconds that Python takes to import everything: each
# line of standard input is forked off, before JAX has any threads.
FORKS = """
import json, os, sys
import matplotlib.figure
import kerascnn.report.plots, kerascnn.report.summary
import kerascnn.engine.epoch, kerascnn.engine.fit
import small
from kerascnn.cli import run as run_recipe

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        words, environment = json.loads(line)
        os.environ.update(environment)
        run_recipe.main(small.RECIPE, words)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
OPTIONS = ["--data", "sample", "--limit", "500", "--checkpoint-minutes", "0"]
OPTIONS += ["--batch-size", "10"]  # 200 steps: more than twenty kills let pass


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


class Forked:
    """A run in a process that `FORKS` has forked off, as a `subprocess.Popen`."""

    def __init__(self, server, words, environment):
        self.server = server
        print(json.dumps([[*map(str, words)], environment]), file=server.stdin)
        server.stdin.flush()
        self.pid = int(server.stdout.readline())

    def poll(self):
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self):
        return self.server.stdout.readline(), ""


@pytest.fixture
def fork(place):
    """`start`, but forked."""
    environment = {
        "PYTHONPATH": ROOT,
        "KERASCNN_CACHE_DIR": str(place / "cache"),
        # Keep also what compiles fast: each of the runs needs all of it again.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with (place / "forks.txt").open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            cwd=place,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    yield lambda place, *words, **environment: Forked(server, words, environment)
    server.kill()
    server.communicate()


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


def kill_often(place, engine, kills, seed, start=start, begun=3.0):
    """Kill a run at random moments, resume it each time, and let the last one end.

    The moments: while it starts, once in a step, and once within a write, as the
    temporary folder shows.

    Args:
        start: Starts the run.
        begun: Seconds after which it is likely to train.
    """
    draw = random.Random(seed)
    name = f"killed-{engine}-{kills}-{seed}"
    folder = place / name
    partial = folder / "checkpoints"
    for number in range(kills):
        words = ["--out", name, "--engine", engine]
        if (folder / "config.json").exists():
            words = ["--resume", name]
        process = start(place, *OPTIONS, *words, STEP_SECONDS="0.05")
        match number % 3:
            case 0:  # a step
                saved = set(checkpoint.numbered(folder))
                wait_for(lambda s=saved: set(checkpoint.numbered(folder)) - s, process)
                time.sleep(draw.uniform(0, 0.2))
            case 1:  # a write
                wait_for(lambda: any(partial.glob(".partial-*")), process)
            case 2:  # the start
                time.sleep(draw.uniform(0, begun))
        process.kill()
        process.communicate()
    code, _, error = run(place, *OPTIONS, "--resume", name)
    assert code == 0, error
    return hashes(folder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(
    ("engine", "kills"),
    [("epoch", 2), ("fit", 2), ("epoch", 14), ("fit", 6)],
)
@pytest.mark.slow
def test_runs_killed_again_and_again_end_as_those_that_were_not(
    place, whole, fork, engine, kills
):
    found = kill_often(place, engine, kills, seed=1, start=fork, begun=1.0)
    assert found == whole(engine)
    assert "Traceback" not in (place / "forks.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["epoch", "fit"])
def test_twenty_kills_change_nothing(place, whole, engine):
    assert kill_often(place, engine, kills=20, seed=2) == whole(engine)


CUT = """
from kerascnn.engine import placement
placement.WORTH = 0  # so that a net as small as this one is cut among devices
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut", "engine"), [(True, "epoch"), (False, "epoch"), (True, "fit")]
)
def test_a_killed_run_goes_on_with_other_devices_and_says_where_bits_change(
    place, tmp_path, cut, engine
):
    (tmp_path / "small.py").write_text(
        SCRIPT.replace("import keras\n", "import keras\n" + CUT * cut, 1)
    )
    one = {"KERASCNN_CACHE_DIR": str(place / "cache"), "JAX_NUM_CPU_DEVICES": "1"}
    two = one | {"JAX_NUM_CPU_DEVICES": "2"}
    words = [*OPTIONS, "--engine", engine]
    assert run(tmp_path, *words, "--out", "whole", **one)[0] == 0
    process = start(tmp_path, *words, "--out", "killed", STEP_SECONDS="0.05", **one)
    killed = tmp_path / "killed"
    wait_for(lambda: len(checkpoint.numbered(killed)) > 1, process)
    process.kill()
    process.communicate()
    other = Path(shutil.copytree(killed, tmp_path / "other"))
    code, _, error = run(tmp_path, "--resume", "other", **two)
    assert code == 0, error
    assert ("goes on with 2" in error) == cut
    assert (hashes(other) == hashes(tmp_path / "whole")) == (not cut)
    assert Run(other).config["resumed"][-1]["devices"] == 1 + cut
    code, _, error = run(tmp_path, "--resume", "killed", **one)
    assert code == 0, error
    assert hashes(killed) == hashes(tmp_path / "whole")


# Signals, in this process.


@pytest.fixture
def heard(monkeypatch):
    """Send a signal to this process after the second step; wait till it is noted."""
    after_step = Autosave.after_step

    def send(number):
        def step(session, step, measured):
            if (session.epoch, step) == (0, 2):
                os.kill(os.getpid(), number)
                end = time.monotonic() + 10
                while not (session.signals.stop or session.signals.save):
                    assert time.monotonic() < end
                    time.sleep(0.001)
            after_step(session, step, measured)

        monkeypatch.setattr(Autosave, "after_step", step)

    return send


def short(out, **more):
    return run_options.Overrides(
        data="sample", limit=300, batch_size=50, epochs=2, out=out, **more
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_stops_a_run_after_the_step(tmp_path, heard, capsys, number, code):
    heard(number)
    before = signal.getsignal(number)
    out = tmp_path / "run"
    mlp = recipe.load("fashion_mlp")
    assert parsing.run(lambda: training_run.train(mlp, short(out))) == code
    assert f"kerascnn resume {out}" in capsys.readouterr().err
    saved = checkpoint.newest(out)
    assert (saved.epoch, saved.step) == (0, 2)
    assert signal.getsignal(number) is before
    run = training_run.train(mlp, run_options.Overrides(resume=out))
    assert run.finished
    assert [m["epoch"] for m in run.metrics] == [1, 2]


def test_usr1_saves_and_goes_on(tmp_path, heard, monkeypatch, capsys):
    heard(signal.SIGUSR1)
    written = []
    write = checkpoint.write

    def noted(run, arrays, manifest):
        written.append((manifest["epoch"], manifest["step"]))
        return write(run, arrays, manifest)

    monkeypatch.setattr(checkpoint, "write", noted)
    run = training_run.train(recipe.load("fashion_mlp"), short(tmp_path / "run"))
    assert run.finished
    assert "Saving after this step." in capsys.readouterr().err
    assert written[0] == (0, 2)
    assert written[-1] == (2, 0)


def test_a_signal_after_the_last_look_is_not_reported_as_saved_unless_it_is(
    tmp_path, monkeypatch
):
    """It comes when an epoch's end has decided that saving would cost too much."""
    on_epoch_end, stop_if_asked = Autosave.on_epoch_end, Autosave._stop_if_asked

    def dear(session, epoch, logs=None):
        session._cost = 1e9
        on_epoch_end(session, epoch, logs)

    def late(session, *arguments):
        session.signals.stop = signal.SIGTERM
        stop_if_asked(session, *arguments)

    monkeypatch.setattr(Autosave, "on_epoch_end", dear)
    monkeypatch.setattr(Autosave, "_stop_if_asked", late)
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        training_run.train(recipe.load("fashion_mlp"), short(out))
    saved = checkpoint.newest(out)
    assert (saved.epoch, saved.step) == (1, 0)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_a_real_process_ends_as_a_shell_expects(place, number, code):
    name = f"stopped-{code}"
    process = start(place, *OPTIONS, "--out", name, STEP_SECONDS="0.05")
    wait_for(lambda: checkpoint.numbered(place / name), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == code
    assert error.splitlines()[-1] == (
        f"kerascnn: stopped; to go on: kerascnn resume {name}"
    )
    assert checkpoint.newest(place / name) is not None


# Signals before there is anything to save, in processes of their own.

# The signal comes when a module is looked for, as if it were in the midst of imports.
SEND = """
import os, sys
module, number = os.environ["SEND"].split()
class Send:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Send())
"""
IMPORTING = f"""{SEND}
sys.argv = ["/usr/bin/kerascnn", "show", "fashion_mlp"]
from kerascnn.__main__ import main
sys.exit(main())
"""
# The signal comes while the images are decoded, which is Python code.
DECODING = """
import os, sys
import small
from kerascnn import data
from kerascnn.cli import run as run_recipe
number = int(sys.argv.pop())
load = data.load
def late(*words, **options):
    os.kill(os.getpid(), number)
    return load(*words, **options)
data.load = late
run_recipe.main(small.RECIPE)
"""


def python(place, code, *words, **environment):
    environment = {"KERASCNN_CACHE_DIR": str(place / "cache"), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=place,
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


LOADING = "Loading Keras and JAX ...\n"


@pytest.mark.parametrize("module", ["tyro", "keras"])
@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_stop_during_the_imports_is_one_line(place, module, number, code):
    done = python(place, IMPORTING, SEND=f"{module} {int(number)}")
    said = LOADING * (module == "keras") + "kerascnn: stopped.\n"
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.slow
def test_usr1_during_the_imports_changes_nothing(place):
    done = python(place, IMPORTING, SEND=f"tyro {int(signal.SIGUSR1)}")
    assert (done.returncode, done.stderr) == (0, LOADING)
    assert "fashion_mlp" in done.stdout


@pytest.mark.parametrize(("number", "code"), [*STOPS, (signal.SIGUSR1, 0)])
@pytest.mark.slow
def test_a_signal_while_images_are_decoded(place, number, code):
    name = f"decoding-{code}"
    words = ["--data", "sample", "--limit", "100", "--epochs", "1", "--out", name]
    done = python(place, DECODING, *words, int(number))
    assert done.returncode == code
    assert done.stderr == ("kerascnn: stopped.\n" if code else "")
    assert Run(place / name).finished == (code == 0)


@pytest.mark.slow
def test_a_library_keeps_its_handlers():
    code = """
import signal
numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
before = [signal.getsignal(n) for n in numbers]
import kerascnn.cli.commands, kerascnn.recipes.fashion_mlp, kerascnn.training.run
assert before == [signal.getsignal(n) for n in numbers]
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


TWO_SIGNALS = """
import functools, os, signal, threading
from kerascnn.process.signals import Signals
with Signals(functools.partial(print, flush=True)) as signals:
    os.kill(os.getpid(), signal.SIGTERM)
    while signals.stop is None:
        pass
    # As in XLA: the main thread waits in C, where Python runs no handlers.
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
"""


def test_a_second_signal_stops_at_once():
    done = subprocess.run(
        [sys.executable, "-c", TWO_SIGNALS],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 130, done.stderr
    assert "once more stops at once" in done.stdout
    assert done.stderr.splitlines()[-1] == "kerascnn: stopped at once."


# The signal comes while the main thread waits in XLA, which compiles the first step.
COMPILING = """
import os, sys, threading
import small
from kerascnn.cli import run as run_recipe
from kerascnn.engine.executables import Executables
number = int(sys.argv.pop())
def waits(self, *arguments):
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
Executables.__call__ = waits
run_recipe.main(small.RECIPE)
"""


@pytest.mark.parametrize(("number", "code"), STOPS)
@pytest.mark.slow
def test_a_stop_before_the_first_step_ends_at_once_and_loses_nothing(
    place, number, code
):
    name = f"compiling-{code}"
    words = ["--data", "sample", "--limit", "100", "--epochs", "1", "--out", name]
    done = python(place, COMPILING, *words, int(number))
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == (
        "kerascnn: stopped before the first step; the same command begins again."
    )
    assert Run(place / name).state == "interrupted"
    options = run_options.Overrides(resume=place / name)
    sys.path.insert(0, str(place))
    try:
        assert training_run.train(recipe.load(place / "small.py"), options).finished
    finally:
        sys.path.remove(str(place))


# Damaged files.


ARRAYS = {
    "model/0000/kernel": np.arange(12, dtype="float32").reshape(3, 4),
    "optimizer/0000/iterations": np.array(7, "int32"),
    "random/0000/": np.arange(8, dtype="uint8"),
}


def manifest(epoch, step):
    return {"epoch": epoch, "step": step, "history": [{"loss": 1e-05}], "word": "é"}


@pytest.fixture
def two(tmp_path):
    return [checkpoint.write(tmp_path, ARRAYS, manifest(0, step)) for step in (1, 2)]


def test_a_checkpoint_comes_back(tmp_path, two):
    saved = checkpoint.newest(tmp_path)
    assert saved.folder == two[1]
    assert {**saved.manifest, **manifest(0, 2)} == saved.manifest
    assert saved.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert saved.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(saved.arrays[name], array)


def test_bfloat16_comes_back(tmp_path):
    array = np.array([1.0, -2.5, np.inf], "bfloat16")
    folder = checkpoint.write(tmp_path, {"model/0000/a": array}, manifest(0, 1))
    (back,) = checkpoint.read(folder).group("model")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_a_flipped_bit_is_detected_in_every_file(two):
    draw = random.Random(0)
    for file in sorted(two[1].iterdir()):
        content = file.read_bytes()
        for bit in draw.sample(range(8 * len(content)), 500):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with pytest.raises(checkpoint.DamagedError):
                checkpoint.read(two[1])
        file.write_bytes(content)
    checkpoint.read(two[1])


def test_every_cut_file_is_detected_and_the_one_before_taken(tmp_path, two):
    lines = []
    for file in sorted(two[1].iterdir()):
        content = file.read_bytes()
        for length in range(0, len(content), 7):
            file.write_bytes(content[:length])
            assert checkpoint.newest(tmp_path, lines.append).folder == two[0]
        file.unlink()
        assert checkpoint.newest(tmp_path, lines.append).folder == two[0]
        file.write_bytes(content)
    assert all(
        str(two[1]) in line and "taking the one before" in line for line in lines
    )
    (two[0] / "manifest.json").write_text("{}")
    (two[1] / "manifest.json").write_text("[1]")
    lines.clear()
    with pytest.raises(UsageError, match=r"all checkpoints .* are damaged"):
        checkpoint.newest(tmp_path, lines.append)
    assert ["taking the one before" in line for line in lines] == [True, False]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Every file, the folder that holds them, and after the rename the one above."""
    done = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor):
        there = os.fstat(descriptor)
        names = [p for p in (tmp_path, *tmp_path.rglob("*")) if p.exists()]
        (path,) = (p for p in names if os.path.samestat(p.stat(), there))
        done.append((path.relative_to(tmp_path).as_posix(), there.st_size > 0))
        fsync(descriptor)

    def renamed(path, target):
        done.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    checkpoint.write(tmp_path, ARRAYS, manifest(0, 1))
    partial = "checkpoints/.partial-00000-0000001"
    assert [step if step == "renamed" else step[0] for step in done] == [
        ".",
        f"{partial}/arrays.safetensors",
        f"{partial}/manifest.json",
        partial,
        "renamed",
        "checkpoints",
    ]
    assert done[1][1]  # not empty: all was written before
    assert done[2][1]


def test_the_last_two_are_kept_and_half_a_write_is_none(tmp_path, two):
    partial = tmp_path / "checkpoints" / ".partial-00000-0000003"
    shutil.copytree(two[1], partial)
    third = checkpoint.write(tmp_path, ARRAYS, manifest(1, 0))
    assert checkpoint.numbered(tmp_path) == [two[1], third]
    assert checkpoint.newest(tmp_path).folder == third
    checkpoint.remove_after(tmp_path, two[1])
    assert list((tmp_path / "checkpoints").iterdir()) == [two[1]]


def test_the_best_by_validation_loss_is_kept_besides(tmp_path):
    """Epochs of losses 3, 1, 2, 2, 4, and a checkpoint inside the last."""
    history = []
    for epoch, loss in enumerate((3.0, 1.0, 2.0, 2.0, 4.0), start=1):
        history.append({"epoch": epoch, "test_loss": loss})
        more = {"history": list(history), "validation": True}
        checkpoint.write(tmp_path, ARRAYS, manifest(epoch, 0) | more)
    checkpoint.write(tmp_path, ARRAYS, manifest(5, 3) | more)
    names = [folder.name for folder in checkpoint.numbered(tmp_path)]
    assert names == ["00002-0000000", "00005-0000000", "00005-0000003"]
    assert checkpoint.newest(tmp_path).step == 3


def test_a_best_epoch_is_saved_also_where_saving_costs_too_much(tmp_path, monkeypatch):
    """Losses 3, 1, 2, 2.5, 0.5, 4 on the held-out images; each write took hours."""
    losses = [3.0, 1.0, 2.0, 2.5, 0.5, 4.0]
    on_epoch_end, there = Autosave.on_epoch_end, []

    class Told(keras.callbacks.Callback):
        def get_config(self):
            return {}

        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = losses[epoch]

    def dear(session, epoch, logs=None):
        session._cost = 1e9
        on_epoch_end(session, epoch, logs)
        session.writer.wait()
        folders = checkpoint.numbered(session.run.folder)
        there.append([int(folder.name[:5]) for folder in folders])

    monkeypatch.setattr(Autosave, "on_epoch_end", dear)
    mlp = dataclasses.replace(recipe.load("fashion_mlp"), callbacks=lambda: [Told()])
    options = dataclasses.replace(short(tmp_path / "run", validation=0.2), epochs=6)
    training_run.train(mlp, options)
    assert there == [[1], [1, 2], [1, 2], [1, 2], [2, 5], [5, 6]]


def test_a_run_with_held_out_images_says_so_in_its_checkpoints(tmp_path):
    options = short(tmp_path / "run", validation=0.2)
    run = training_run.train(recipe.load("fashion_mlp"), options)
    saved = checkpoint.newest(run.folder)
    assert saved.manifest["validation"] is True
    assert [r["validation_loss"] for r in saved.manifest["history"]] == [
        record["validation_loss"] for record in run.metrics
    ]


def test_a_checkpoint_written_again_replaces_the_old(tmp_path, two):
    again = checkpoint.write(tmp_path, {"model/0000/a": np.ones(2)}, manifest(0, 2))
    assert checkpoint.read(again).arrays.keys() == {"model/0000/a"}
    assert sorted((tmp_path / "checkpoints").iterdir()) == two


# Disk and folders.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 5 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(disk)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"mounting a file system takes root: {mounted.stderr.decode()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount command")
def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_whole(small_disk, capsys):
    """Two checkpoints of 2.4 MB fit, and the third does not."""
    out = small_disk / "run"
    mlp = recipe.load("fashion_mlp")
    options = short(out, checkpoint_minutes=0)
    assert parsing.run(lambda: training_run.train(mlp, options)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert f"kerascnn resume {out}" in error
    saved = checkpoint.newest(out)
    assert (saved.epoch, saved.step) == (0, 2)
    assert len(list((out / "checkpoints").iterdir())) == 2

    grow = ["mount", "-o", "remount,size=50m", str(small_disk)]
    subprocess.run(grow, check=True)
    assert training_run.train(mlp, run_options.Overrides(resume=out)).finished


def test_a_disk_of_five_megabytes_fills_up_where_none_can_be_mounted(
    tmp_path, capsys, monkeypatch
):
    """As the test before, for users who are not root: what is there is counted."""
    write = checkpoint._write_synced

    def counted(path, content):
        there = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
        left = max(5_000_000 - there, 0)
        write(path, content[:left])
        if left < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "run"
    mlp = recipe.load("fashion_mlp")
    options = short(out, checkpoint_minutes=0)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_synced", counted)
        assert parsing.run(lambda: training_run.train(mlp, options)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert checkpoint.newest(out).step == 2
    assert len(list((out / "checkpoints").iterdir())) == 2
    assert training_run.train(mlp, run_options.Overrides(resume=out)).finished


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount command")
def test_a_read_only_folder_is_one_line(small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    options = short(small_disk / "run")
    mlp = recipe.load("fashion_mlp")
    assert parsing.run(lambda: training_run.train(mlp, options)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Read-only file system" in error


def test_a_run_in_use_is_refused(tmp_path):
    run = Run.create("fashion_mlp", tmp_path / "run")
    with run.lock(), pytest.raises(UsageError, match="another process is training"):
        training_run.train(
            recipe.load("fashion_mlp"), run_options.Overrides(resume=run.folder)
        )
    with run.lock():
        pass


# What has changed since.


def train_until(place, chosen, options):
    """Train until an epoch's step is done and saved, where that is due; no further."""
    after_step = Autosave.after_step

    def stop(session, step, measured):
        after_step(session, step, measured)
        if (session.epoch, step) == place:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Autosave, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            training_run.train(chosen, options)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that ended after its second epoch's first step."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    cache = str(tmp_path_factory.getbasetemp() / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERASCNN_CACHE_DIR", cache)
        options = short(out, checkpoint_minutes=0)
        train_until((1, 1), recipe.load("fashion_mlp"), options)
    return out


@pytest.fixture
def copied(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_a_run_of_another_recipe_is_named_without_its_layers(copied):
    with pytest.raises(UsageError) as refused:
        training_run.train(
            recipe.load("fashion_lenet"), run_options.Overrides(resume=copied)
        )
    assert "its recipe was fashion_mlp and is fashion_lenet." in str(refused.value)
    assert "Conv2D" not in str(refused.value)


def test_another_recipe_is_refused_unless_it_is_forced(copied):
    mlp = recipe.load("fashion_mlp")
    changed = dataclasses.replace(mlp, optimizer=lambda: optim.adam(0.002))
    with pytest.raises(UsageError, match=r"optimizer was .*0\.001.* is .*0\.002"):
        training_run.train(changed, run_options.Overrides(resume=copied))
    run = training_run.train(changed, run_options.Overrides(resume=copied, force=True))
    assert run.finished
    assert "force" in run.config["overrides"]  # no card will take it
    # The change is what it trains with, not only what it records.
    assert rates(run) == pytest.approx([0.001, 0.002])


def test_a_forced_run_keeps_every_mark(copied):
    run = training_run.train(
        recipe.load("fashion_mlp"),
        run_options.Overrides(resume=copied, learning_rate=0.01, force=True),
    )
    marks = ["batch_size", "epochs", "force", "learning_rate", "limit"]
    assert run.config["overrides"] == marks
    assert rates(run) == pytest.approx([0.001, 0.01])
    end = checkpoint.newest(copied)
    names = [n for n in end.arrays if not n.startswith("recorded/")]
    (rate,) = (end.arrays[n] for n in names if n.endswith("learning_rate"))
    assert rate == pytest.approx(0.01)


def rates(run):
    return [m["learning_rate"] for m in run.metrics]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # The second epoch had begun at half of 0.001 when it was stopped.
        ({"gamma": 0.1}, [0.001, 0.0005, 0.001 * 0.1**2]),
        ({"learning_rate": 0.008}, [0.001, 0.004, 0.002]),
    ],
    ids=["gamma", "rate"],
)
def test_a_forced_change_of_the_decay_is_kept_to(tmp_path, change, expected):
    def decays(gamma=0.5):
        return dataclasses.replace(
            recipe.load("fashion_mlp"),
            callbacks=lambda: [optim.ExponentialDecay(gamma=gamma)],
        )

    out = tmp_path / "run"
    options = dataclasses.replace(short(out, checkpoint_minutes=0), epochs=3)
    train_until((1, 1), decays(), options)
    overrides = run_options.Overrides(
        resume=out, force=True, learning_rate=change.get("learning_rate")
    )
    run = training_run.train(decays(change.get("gamma", 0.5)), overrides)
    assert rates(run) == pytest.approx(expected)


def sibling(copied, **change):
    """The same run but for `change`: another run, with its own checkpoints."""
    other = copied.parent / "other"
    options = short(other, checkpoint_minutes=0, **change)
    train_until((0, 2), recipe.load("fashion_mlp"), options)
    return other


@pytest.mark.parametrize("change", [{"seed": 1}, {}], ids=["seed", "alike"])
def test_a_checkpoint_of_another_run_is_refused(copied, change):
    other = sibling(copied, **change)
    shutil.rmtree(other / "checkpoints")
    shutil.move(copied / "checkpoints", other / "checkpoints")
    mlp = recipe.load("fashion_mlp")
    with pytest.raises(UsageError, match=r"the checkpoint .* is another run's"):
        training_run.train(mlp, run_options.Overrides(resume=other))
    run = training_run.train(mlp, run_options.Overrides(resume=other, force=True))
    assert "force" in run.config["overrides"]


def test_a_checkpoint_names_its_run_its_recipe_and_its_data(copied):
    config = Run(copied).config
    assert checkpoint.newest(copied).manifest["identity"] == {
        "run": config["id"],
        "fingerprint": config["fingerprint"],
        "data": config["data"]["sha256"],
    }


def test_a_run_from_before_runs_had_identities_goes_on(copied):
    edit(copied, lambda config: config.pop("id"))
    saved = checkpoint.newest(copied)
    shutil.rmtree(copied / "checkpoints")
    old = {k: v for k, v in saved.manifest.items() if k != "identity"}
    checkpoint.write(copied, saved.arrays, old)
    mlp = recipe.load("fashion_mlp")
    run = training_run.train(mlp, run_options.Overrides(resume=copied))
    assert run.finished
    assert "force" not in run.config["overrides"]


def test_other_code_of_the_same_version_is_refused(copied, monkeypatch):
    monkeypatch.setattr(machine, "code", lambda: "0" * 64)
    with pytest.raises(
        UsageError, match=r"kerascnn's code was [0-9a-f]{64} and is 0{64}"
    ):
        training_run.train(
            recipe.load("fashion_mlp"), run_options.Overrides(resume=copied)
        )


def test_the_code_that_trains_is_what_is_hashed(monkeypatch):
    read, seen = Path.read_bytes, []

    def noted(path):
        seen.append(path.relative_to(ROOT).as_posix())
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    machine.code.__wrapped__()
    expected = ("acceleration/winograd", "optim", "engine/epoch", "data/loading")
    assert {f"kerascnn/{name}.py" for name in expected} <= set(seen)
    assert {name.split("/")[1] for name in seen if name.count("/") > 1} == {
        *("acceleration", "data", "engine", "process", "training")
    }


def test_a_checkpoint_that_cannot_be_read_now_is_not_passed_over(copied, monkeypatch):
    read = Path.read_bytes

    def failing(path):
        if path.name == "arrays.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    before = checkpoint.numbered(copied)
    assert len(before) > 1
    mlp = recipe.load("fashion_mlp")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(UsageError, match=r"can't be read \(Input/output error\)"):
            training_run.train(mlp, run_options.Overrides(resume=copied))
    assert checkpoint.numbered(copied) == before
    assert training_run.train(mlp, run_options.Overrides(resume=copied)).finished


def test_a_checkpoint_of_a_later_format_is_not_passed_over(copied, monkeypatch):
    saved = checkpoint.newest(copied)
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "_FORMAT", 99)
        checkpoint.write(copied, saved.arrays, saved.manifest)
    with pytest.raises(UsageError, match=r"has format 99, and this version .* 2"):
        training_run.train(
            recipe.load("fashion_mlp"), run_options.Overrides(resume=copied)
        )


def test_checkpoints_follow_each_other_by_number(tmp_path):
    places = [(99_998, 0), (99_999, 0), (100_000, 0), (100_000, 9_999_999)]
    places.append((100_000, 10_000_000))
    for epoch, step in places:
        manifest = {"epoch": epoch, "step": step, "history": []}
        written = checkpoint.write(tmp_path, {"a": np.zeros(2)}, manifest)
        found = checkpoint.newest(tmp_path)
        assert (found.epoch, found.step) == (epoch, step)
    assert len(checkpoint.numbered(tmp_path)) == checkpoint.KEPT
    checkpoint.remove_after(tmp_path, checkpoint.numbered(tmp_path)[0])
    assert not written.exists()
    assert checkpoint.newest(tmp_path).step == 9_999_999


def test_another_number_of_cores_is_refused_on_a_cpu(copied):
    edit(copied, lambda config: config["environment"].update(cores=7, device="cpu"))
    here = cores.available()
    with pytest.raises(UsageError, match=f"cores was 7 and is {here}"):
        training_run.train(
            recipe.load("fashion_mlp"), run_options.Overrides(resume=copied)
        )


@pytest.mark.parametrize("emptied", [False, True])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(copied, emptied):
    """One epoch is done; two, where it could be a killed first write."""
    shutil.rmtree(copied / "checkpoints")
    run = Run(copied)
    if emptied:
        (copied / "checkpoints").mkdir()
        run.add_metrics({**run.metrics[0], "epoch": 2})
    files = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    mlp = recipe.load("fashion_mlp")
    with pytest.raises(UsageError, match=r"has \d epochs? .* no checkpoint to go on"):
        training_run.train(mlp, run_options.Overrides(resume=copied))
    assert files == {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    run = training_run.train(mlp, run_options.Overrides(resume=copied, force=True))
    assert [m["epoch"] for m in run.metrics] == [1, 2]
    assert run.finished


def test_a_run_killed_in_its_first_write_begins_anew(copied):
    """The epoch's line is there, the checkpoint is not; so it ends as it would have."""
    for folder in checkpoint.numbered(copied):
        shutil.rmtree(folder)
    run = training_run.train(
        recipe.load("fashion_mlp"), run_options.Overrides(resume=copied)
    )
    assert run.finished
    assert [m["epoch"] for m in run.metrics] == [1, 2]


def test_the_first_checkpoint_is_waited_for(tmp_path, monkeypatch):
    """Else a kill in the second epoch would find two epochs and no checkpoint."""
    write, begun = checkpoint.write, []

    def slow(*arguments):
        time.sleep(0.5)
        return write(*arguments)

    class Look(keras.callbacks.Callback):
        def get_config(self):
            return {}

        def on_epoch_begin(self, epoch, logs=None):
            begun.append(len(checkpoint.numbered(tmp_path / "run")))

    monkeypatch.setattr(checkpoint, "write", slow)
    mlp = recipe.load("fashion_mlp")
    mlp = dataclasses.replace(mlp, callbacks=lambda: [Look()])
    training_run.train(mlp, short(tmp_path / "run"))
    assert begun == [0, 1]


@pytest.mark.parametrize("text", ["{}", "junk", "[1]", '{"finished": "'])
def test_a_damaged_result_does_not_stand_in_the_way(copied, text):
    (copied / "result.json").write_text(text)
    run = training_run.train(
        recipe.load("fashion_mlp"), run_options.Overrides(resume=copied)
    )
    assert run.finished


@pytest.mark.parametrize("minutes", [0.05 / 60, 1000.0])
def test_a_checkpoint_is_due_inside_an_epoch(tmp_path, monkeypatch, minutes):
    """Every 50 ms, where each step takes 30; and never, where minutes are long."""
    write, written = checkpoint.write, []

    def noted(run, arrays, manifest):
        written.append((manifest["epoch"], manifest["step"]))
        return write(run, arrays, manifest)

    class Slowly(keras.callbacks.Callback):
        async_safe = needs_no_state = True

        def get_config(self):
            return {}

        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.03)

    monkeypatch.setattr(checkpoint, "write", noted)
    mlp = dataclasses.replace(recipe.load("fashion_mlp"), callbacks=lambda: [Slowly()])
    training_run.train(mlp, short(tmp_path / "run", checkpoint_minutes=minutes))
    inside = [step for _, step in written if step]
    assert written[-1] == (2, 0)
    if minutes > 1:
        assert not inside
    else:
        # Not after every step: two must pass, or one that took long.
        assert 2 <= len(inside) <= 10


def other_callbacks(mlp):
    return dataclasses.replace(mlp, callbacks=lambda: [optim.ExponentialDecay(0.5)])


def other_network(mlp):
    def network():
        image = keras.Input((28, 28, 1))
        return keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))

    return dataclasses.replace(mlp, network=network, parameters=0)


@pytest.mark.parametrize(
    ("change", "option", "message"),
    [
        (None, {"limit": 200}, "inside an epoch of 6 steps .* with 4 steps"),
        (None, {"engine": "fit"}, "of the engine epoch, .* 6 steps of fit"),
        (other_callbacks, {}, "callbacks were none and are ExponentialDecay"),
        (other_network, {}, r"was float32 \(784, \d+\) and is float32 \(784, 10\)"),
    ],
)
def test_what_cannot_go_on_is_refused_before_anything_is_written(
    copied, change, option, message
):
    if option == {"engine": "fit"} and keras.backend.backend() != "jax":
        pytest.skip("fit is the only engine here")
    mlp = recipe.load("fashion_mlp")
    files = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match=message):
        training_run.train(
            change(mlp) if change else mlp,
            run_options.Overrides(resume=copied, force=True, **option),
        )
    assert files == {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}


def test_an_option_given_at_its_default_counts(copied):
    edit(copied, lambda config: config["options"].update(on_nan="skip"))
    words = ["--resume", str(copied), "--on-nan", "stop"]
    run_command.run(recipe.load("fashion_mlp"), words, "fashion_mlp")
    config = Run(copied).config
    assert config["options"]["on_nan"] == "stop"
    assert config["options"]["limit"] == 300  # not given: the run's own
    (resumed,) = config["resumed"]
    here = config["environment"]
    assert all(resumed[name] == here[name] for name in ("device", "processor"))
    assert resumed["time"] >= here["time"]


def test_paths_are_recorded_for_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = run_options.Overrides(
        data_dir=Path("sets"), cache_dir=Path("../cache"), dataset="./pets"
    )
    recorded = resume.record(resume.absolute(given))
    assert recorded["data_dir"] == str(tmp_path / "sets")
    assert recorded["cache_dir"] == str(tmp_path.parent / "cache")
    assert recorded["dataset"] == str(tmp_path / "pets")
    assert resume.absolute_dataset("cifar10") == "cifar10"


def test_a_run_without_its_curve_is_not_finished(copied, monkeypatch):
    def full(run):
        raise OSError(28, "No space left on device")

    mlp = recipe.load("fashion_mlp")
    with monkeypatch.context() as patch:
        patch.setattr(plots, "curve", full)
        with pytest.raises(UsageError, match=r"curve\.png can't be written"):
            api.completed(mlp, run_options.Overrides(resume=copied))
    assert not Run(copied).finished
    assert api.completed(mlp, run_options.Overrides(resume=copied)).finished
    assert (copied / "curve.png").exists()


def test_other_errors_do_not_hide_a_bad_step(copied, monkeypatch):
    def bad(session, step, measured):
        raise finite.NotFiniteError("the loss was not finite", 7)

    def broken(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Autosave, "after_step", bad)
    monkeypatch.setattr(finite, "largest_gradients", broken)
    monkeypatch.setattr(training_run, "_finish", broken)
    with pytest.raises(finite.NotFiniteError, match="the loss was not finite"):
        training_run.train(
            recipe.load("fashion_mlp"), run_options.Overrides(resume=copied)
        )


def test_a_stop_before_the_first_step_saves_nothing_twice(copied):
    start = checkpoint.newest(copied)
    session: Any = Autosave(
        run=Run(copied),
        identity={},
        steps=6,
        epochs=2,
        callbacks=[],
        record=None,  # type: ignore[arg-type]
        signals=Signals(print),
        engine="epoch",
        start=start,
    )
    session.epoch = start.epoch
    session.signals.stop = signal.SIGINT
    with pytest.raises(Interrupted):
        session.after_step(start.step, lambda: pytest.fail("saved again"))


def test_a_recipe_of_ones_own_says_how_to_go_on(copied):
    edit(copied, lambda config: config.update(recipe="mine"))
    spaced = copied.rename(copied.parent / "a run")
    with pytest.raises(UsageError, match=f"python FILE --resume '{spaced}'"):
        run_command.resume([str(spaced)], "kerascnn resume")


def test_windows_starts_a_process_and_waits_for_it(monkeypatch):
    started = []

    def call(words, env):
        started.append((words, env["XLA_FLAGS"]))
        return 7

    options = run_options.Overrides(deterministic=True)
    variables = {"XLA_FLAGS": "--anything"}
    monkeypatch.setattr(signals, "is_program", lambda: True)
    monkeypatch.setattr(run_command.determinism, "variables", lambda backend: variables)
    monkeypatch.setattr(subprocess, "call", call)
    with monkeypatch.context() as patch:
        patch.setattr(run_command.os, "name", "nt")
        with pytest.raises(SystemExit) as stop:
            run_command.use_environment(options)
    assert stop.value.code == 7
    assert started == [([sys.executable, *sys.orig_argv[1:]], "--anything")]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"limit": 200}, "training images was 300 and is 200"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"engine": "fit"}, "engine was .* and is fit"),
    ],
)
def test_another_option_is_refused(copied, option, message):
    if option == {"engine": "fit"} and keras.backend.backend() != "jax":
        pytest.skip("fit is the only engine here")
    with pytest.raises(UsageError, match=message):
        training_run.train(
            recipe.load("fashion_mlp"), run_options.Overrides(resume=copied, **option)
        )


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_other_versions_and_other_data_are_refused(copied):
    def change(config):
        config["environment"]["versions"]["keras"] = "3.0.0"
        config["environment"]["processor"] = "8086"
        config["environment"]["device"] = "abacus"
        config["data"]["sha256"] = "0" * 64

    edit(copied, change)
    with pytest.raises(UsageError, match=r"data was .*; device was abacus") as refused:
        training_run.train(
            recipe.load("fashion_mlp"), run_options.Overrides(resume=copied)
        )
    assert "keras was 3.0.0 and is" in str(refused.value)
    assert "processor was 8086 and is" in str(refused.value)


def test_a_config_that_names_no_recipe_is_called_damaged(copied):
    edit(copied, dict.clear)
    with pytest.raises(UsageError, match="names no recipe: it is damaged"):
        run_command.resume([str(copied)], "kerascnn resume")


def test_data_that_are_gone_are_named(copied):
    def change(config):
        config["data"] |= {"sample": False, "source": "/gone/fashion_mnist/3.0.1"}

    edit(copied, change)
    with pytest.raises(UsageError, match=r"/gone/fashion_mnist/3\.0\.1, are gone"):
        training_run.train(
            recipe.load("fashion_mlp"), run_options.Overrides(resume=copied)
        )


def test_a_checkpoint_of_another_network_is_refused(copied):
    saved = checkpoint.newest(copied)
    arrays = {
        name: array[..., :5] if name.startswith("model/0000") else array
        for name, array in saved.arrays.items()
    }
    checkpoint.write(copied, arrays, saved.manifest)
    with pytest.raises(UsageError, match="holds other variables than the model"):
        training_run.train(
            recipe.load("fashion_mlp"), run_options.Overrides(resume=copied)
        )


def test_a_bad_step_is_explained(tmp_path, capsys):
    """A learning rate beyond all reason: exit 3, and where the numbers broke."""
    options = short(tmp_path / "run", learning_rate=1e30)
    mlp = recipe.load("fashion_mlp")
    assert parsing.run(lambda: training_run.train(mlp, options)) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in ("epoch 1, step ", "of 6", "learning rate 1", "/kernel nan"):
        assert words in error
    assert "no checkpoint yet" in error
    assert "--on-nan skip" in error


def test_a_run_that_skips_is_not_told_to_skip(tmp_path, capsys):
    options = short(tmp_path / "run", learning_rate=1e30, on_nan="skip")
    options = dataclasses.replace(options, batch_size=20)
    mlp = recipe.load("fashion_mlp")
    assert parsing.run(lambda: training_run.train(mlp, options)) == 3
    error = capsys.readouterr().err
    assert "10 steps in a row" in error
    assert "smaller --learning-rate" in error
    assert "--on-nan skip" not in error


@pytest.mark.parametrize("name", ["epochs", "batch_size", "limit"])
def test_a_number_beyond_all_counters_is_refused(name):
    option = name.replace("_", "-")
    with pytest.raises(UsageError, match=f"--{option} 9+: expected less than"):
        run_options.Overrides(**{name: 99999999999999999999})


def test_the_command_to_go_on_can_be_pasted(tmp_path, heard, capsys):
    heard(signal.SIGINT)
    out = tmp_path / "a run"
    mlp = recipe.load("fashion_mlp")
    assert parsing.run(lambda: training_run.train(mlp, short(out))) == 130
    assert f"kerascnn resume '{out}'\n" in capsys.readouterr().err


@pytest.mark.few("lambda")
@pytest.mark.parametrize(
    "callback",
    [
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3 / (epoch + 1)),
        lambda: keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: None),
        lambda: keras.callbacks.ReduceLROnPlateau("loss"),
    ],
    ids=["schedule", "lambda", "plateau"],
)
def test_callbacks_that_hold_functions_train_and_go_on(tmp_path, callback):
    mine = dataclasses.replace(
        recipe.load("fashion_mlp"), callbacks=lambda: [callback()]
    )
    whole = training_run.train(mine, short(tmp_path / "whole"))
    out = tmp_path / "run"
    train_until((1, 2), mine, short(out, checkpoint_minutes=0))
    run = training_run.train(mine, run_options.Overrides(resume=out))
    assert run.result["weights_sha256"] == whole.result["weights_sha256"]


def test_a_callback_that_cannot_be_described_is_a_line():
    odd = keras.callbacks.LambdaCallback(thing=object())
    mine = dataclasses.replace(recipe.load("fashion_mlp"), callbacks=lambda: [odd])
    with pytest.raises(UsageError, match=r"fashion_mlp's callbacks can't be described"):
        describe.describe(mine)


def test_a_function_is_described_by_its_code():
    def described(schedule):
        mine = dataclasses.replace(
            recipe.load("fashion_mlp"),
            callbacks=lambda: [keras.callbacks.LearningRateScheduler(schedule)],
        )
        return describe.fingerprint(describe.describe(mine))

    def slow(epoch):
        return 0.1

    def fast(epoch):
        return 0.2

    assert described(slow) == described(slow) != described(fast)


def test_a_class_of_ones_own_is_described_by_its_code():
    def described(layer, callback):
        def network():
            image = keras.Input((28, 28, 1))
            x = layer()(keras.layers.Flatten()(image))
            return keras.Model(image, keras.layers.Dense(10)(x))

        mine = dataclasses.replace(
            recipe.load("fashion_mlp"),
            network=network,
            transform=lambda: [layer()],
            callbacks=lambda: [callback()],
        )
        return describe.describe(mine)

    def twice():
        class Scaled(keras.layers.Layer):
            def call(self, x):
                return 2 * x

        return Scaled

    def thrice():
        class Scaled(keras.layers.Layer):
            def call(self, x):
                return 3 * x

        return Scaled

    class Counts(keras.callbacks.Callback):
        pass

    old = described(twice(), Counts)
    assert old == described(twice(), Counts)
    new = described(thrice(), Counts)
    assert {x for x in old if old[x] != new[x]} == {"network", "transform"}
    assert "class Counts" in old["callbacks"][0]["code"]
    # The package's own classes and Keras's are known by their versions.
    assert '"code"' not in json.dumps(describe.describe(recipe.load("cifar_vgg_aug")))


@pytest.mark.parametrize("batch_size", [50, 25])
def test_a_bad_step_is_named_also_after_a_forced_change(copied, batch_size, capsys):
    """Six steps of 50 images an epoch; or twelve, counted from the second epoch on."""
    for folder in checkpoint.numbered(copied):
        if not folder.name.endswith("-0000000"):
            shutil.rmtree(folder)  # what is left lies between the epochs
    judge = finite.judge
    words = {"batch_size": 25, "force": True} if batch_size == 25 else {}

    def bad(counts, loss, gradients, optimizer):
        # 6 steps were counted in the first epoch; the third after them is bad.
        loss = keras.ops.where(counts[finite.STEPS] == 8, float("nan"), loss)
        return judge(counts, loss, gradients, optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finite, "judge", bad)
        with pytest.raises(finite.NotFiniteError) as error:
            training_run.train(
                recipe.load("fashion_mlp"),
                run_options.Overrides(resume=copied, **words),
            )
    steps = 300 // batch_size
    assert f"epoch 2, step 3 of {steps}: " in str(error.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError("Unable to allocate 9 GiB for an array"),
    ],
    ids=["jax", "torch", "numpy"],
)
def test_memory_that_is_not_enough_is_a_line(tmp_path, monkeypatch, error):
    def fit(*arguments, **options):
        raise error

    monkeypatch.setattr(training_run.fit, "fit", fit)
    with pytest.raises(
        UsageError, match=r"not enough for batches of 50: train with small"
    ):
        training_run.train(
            recipe.load("fashion_mlp"), short(tmp_path / "run", engine="fit")
        )


def test_other_errors_of_an_engine_are_not_taken_for_it(tmp_path, monkeypatch):
    def fit(*arguments, **options):
        raise RuntimeError("a layer of yours has a bug")

    monkeypatch.setattr(training_run.fit, "fit", fit)
    with pytest.raises(RuntimeError, match="has a bug"):
        training_run.train(
            recipe.load("fashion_mlp"), short(tmp_path / "run", engine="fit")
        )


def test_a_learning_rate_for_a_schedule_is_a_line(tmp_path):
    def scheduled():
        schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 100, 0.9)
        return keras.optimizers.Adam(schedule)

    mine = dataclasses.replace(recipe.load("fashion_mlp"), optimizer=scheduled)
    with pytest.raises(UsageError, match=r"--learning-rate: .* follows a schedule"):
        training_run.train(mine, short(tmp_path / "run", learning_rate=0.1))


def test_functions_in_layers_are_described_by_their_code():
    def described(function):
        def network():
            image = keras.Input((28, 28, 1))
            x = keras.layers.Flatten()(image)
            x = keras.layers.Dense(8, activation=function)(x)
            return keras.Model(image, keras.layers.Dense(10)(x))

        mine = dataclasses.replace(recipe.load("fashion_mlp"), network=network)
        return describe.describe(mine)["network"]

    def twice():
        def scaled(x):
            return 2 * x

        return scaled

    def thrice():
        def scaled(x):
            return 3 * x

        return scaled

    assert described(twice()) == described(twice()) != described(thrice())
    dense = described(twice())[2]
    assert dense["activation"] == "scaled"
    assert "return 2 * x" in dense["code of activation"]
    # Keras's own go by their names.
    assert "code of activation" not in described("relu")[2]


def test_a_layer_of_a_type_of_its_own_says_so():
    def described(**more):
        def network():
            image = keras.Input((28, 28, 1))
            x = keras.layers.Flatten()(image)
            return keras.Model(image, keras.layers.Dense(10, **more)(x))

        mine = dataclasses.replace(recipe.load("fashion_mlp"), network=network)
        return describe.describe(mine)["network"][-1]

    assert "dtype" not in described()
    assert described(dtype="float32") == described()
    assert described(dtype="mixed_bfloat16")["dtype"] == "mixed_bfloat16"


def test_a_stop_that_the_shell_wants_ignored_is(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals(print) as signals:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            assert signals.stop is None
            os.kill(os.getpid(), signal.SIGTERM)
            end = time.monotonic() + 10
            while signals.stop is None and time.monotonic() < end:
                time.sleep(0.001)
            assert signals.stop == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_last_epoch_without_a_good_step_has_a_summary(tmp_path, monkeypatch, capsys):
    judge = finite.judge

    def bad(counts, loss, gradients, optimizer):
        loss = keras.ops.where(counts[finite.STEPS] >= 6, float("nan"), loss)
        return judge(counts, loss, gradients, optimizer)

    monkeypatch.setattr(finite, "judge", bad)
    run = api.completed(
        recipe.load("fashion_mlp"), short(tmp_path / "run", on_nan="skip")
    )
    assert run.result["train_accuracy"] is None
    assert run.result["steps_left_out"] == 6
    assert "train accuracy    none" in capsys.readouterr().out


def test_numbers_are_written_as_they_were_given(copied):
    with pytest.raises(UsageError, match=r"learning rate was 0\.001 and is 0\.0002\. "):
        training_run.train(
            recipe.load("fashion_mlp"),
            run_options.Overrides(resume=copied, learning_rate=0.0002),
        )
