"""`kerascnn doctor` on machines in any state: what is missing, and what mends it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kerascnn import UsageError
from kerascnn.cli import commands
from kerascnn.process import backend, machine
from kerascnn.studies import doctor
from kerascnn.training import worker

HERE = {"backend": "jax", "device": "cpu", "devices": 2, "settings": {}, "memory": 1}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Answers in the place of the processes that would be started."""
    answers = {"machine": HERE}

    def ask(question, recipe="", overrides=None, environment=None):
        found = answers[question, overrides.backend] if recipe else answers[question]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(worker, "ask", ask)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "no keras.json"))
    return answers


def keras_json(tmp_path, monkeypatch, text):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "keras.json").write_bytes(text)


STATES = {
    "half a file": (b'{"floatx": ', "can't be read"),
    "no text": (b"\xff\xfe\x00", "can't be read"),
    "a list": (b"[1, 2]", "no JSON object"),
    "a wrong type": (b'{"floatx": "float31"}', "float31"),
    "a wrong order": (b'{"image_data_format": 3}', "image_data_format: 3"),
}


@pytest.mark.parametrize(("written", "said"), STATES.values(), ids=[*STATES])
def test_a_broken_keras_json_is_named_and_moved_away(
    asked, tmp_path, monkeypatch, written, said
):
    keras_json(tmp_path, monkeypatch, written)
    (problem,) = doctor.machine_facts()["problems"]
    assert said in problem["what"]
    done = subprocess.run(problem["command"], shell=True, check=True)
    assert done.returncode == 0
    assert not doctor.machine_facts()["problems"]
    assert (tmp_path / "keras.json.broken").read_bytes() == written


def test_a_good_keras_json_is_no_problem(asked, tmp_path, monkeypatch):
    good = b'{"floatx": "float32", "backend": "torch", "epsilon": 1e-07}'
    keras_json(tmp_path, monkeypatch, good)
    assert not doctor.machine_facts()["problems"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("theano", "export KERAS_BACKEND="),
        ("torch", "pip install torch"),
        ("jax", "pip install jax"),
    ],
)
def test_a_backend_that_is_missing_is_named(asked, monkeypatch, name, command, capsys):
    monkeypatch.setenv("KERAS_BACKEND", name)
    monkeypatch.setattr(backend, "installed", lambda: ["tensorflow"])
    assert commands.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert name in out
    assert command in out


def test_whatever_cannot_be_looked_at_is_a_problem_of_its_own(asked, monkeypatch):
    def broken(*_):
        raise RuntimeError("of any kind")

    for name in ("_versions", "_machine", "_backend", "_gpus", "_caches", "_disk"):
        monkeypatch.setattr(doctor, name, broken)
    found = doctor.machine_facts()
    assert len(found["problems"]) == 6
    assert all("of any kind" in each["what"] for each in found["problems"])


def test_missing_packages_have_one_command(asked, monkeypatch):
    there = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda p: None if p in ("jinja2", "optax") else there(p)
    )
    (problem,) = doctor.machine_facts()["problems"]
    assert problem == {
        "what": "not installed: optax, jinja2",
        "command": "pip install optax jinja2",
    }


def test_a_machine_in_a_bad_state_gets_its_page_without_a_traceback(tmp_path):
    """Broken settings, a file in the cache's place, no data, no program on the path."""
    (tmp_path / "keras.json").write_text('{"floatx": "float31"}')
    (tmp_path / "cache").write_text("")
    places = {
        "KERAS_HOME": str(tmp_path),
        "KERASCNN_CACHE_DIR": str(tmp_path / "cache"),
        "TFDS_DATA_DIR": str(tmp_path / "nothing"),
        "PATH": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "kerascnn", "doctor", "--json"],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    found = json.loads(done.stdout)
    said = {each["what"]: each["command"] for each in found["problems"]}
    assert any("float31" in what for what in said)
    assert any("Keras can't compute here" in what for what in said)
    assert any("cache folder" in what for what in said)
    assert "kerascnn data get cifar10" in said.values()
    assert found["data"]["full"] == {}
    assert found["gpus"] == []


@pytest.mark.parametrize("package", ["tyro", "numpy"])
def test_without_a_package_of_the_command_line_there_is_one_line(package):
    script = (
        f"import sys; sys.modules[{package!r}] = None;"
        "from kerascnn.cli import commands; sys.exit(commands.main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"kerascnn: {package} can't be imported: `pip ")
    assert len(done.stderr.splitlines()) == 1


def test_without_psutil_the_memory_is_unknown(asked, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "psutil", None)
    nowhere = Path("nowhere"), Path("nowhere")  # where control groups would be shown
    monkeypatch.setattr(machine.free_memory, "__defaults__", nowhere)
    assert commands.main(["doctor"]) == 0
    assert "unknown free" in capsys.readouterr().out


# A recipe's training.


NEED = {"bytes": 3e9, "process": 5e8, "images": 5e8, "step": 2e9, "batch_size": 256}
NEED |= {"devices": 2, "largest_batch": 64}
TIMES = {"step": 0.1, "epochs": 8, "compiling": 20, "batch_size": 256, "images": 2500}


@pytest.fixture
def predicted(asked, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(backend, "installed", lambda: ["jax", "tensorflow", "torch"])
    asked["largest", "jax"] = NEED | {"room": 2e10}
    for name, epoch in (("jax", 3), ("torch", 2)):
        asked["seconds", name] = TIMES | {"epoch": epoch, "whole": 8 * epoch + 20}
    asked["seconds", "tensorflow"] = UsageError("no kernel for this")
    return asked


def run(capsys, *words):
    assert commands.main(["doctor", "fashion_lenet", *words]) == 0
    return capsys.readouterr().out


def test_a_training_is_predicted_and_the_fastest_backend_named(predicted, capsys):
    out = run(capsys)
    assert "3.0 GB in batches of 256" in out
    assert "largest batch  64" in out
    assert "3 s an epoch of 2,500 images; 44 s for all 8, 20 s of them compiling" in out
    (fastest,) = (line for line in out.splitlines() if "the fastest here" in line)
    assert "on torch" in fastest
    assert "time on tensorflow is not known: no kernel for this" in out
    found = json.loads(run(capsys, "--json"))
    assert found["training"]["fastest"] == "torch"
    assert found["training"]["backends"] == {"jax": 3, "tensorflow": None, "torch": 2}
    found = json.loads(run(capsys, "--json", "--no-backends"))
    assert found["training"]["backends"] == {"jax": 3}


def test_a_training_that_does_not_fit_gets_a_smaller_batch(predicted, capsys):
    predicted["largest", "jax"] = NEED | {"room": 1e9}
    assert "kerascnn run fashion_lenet --batch-size 64" in run(capsys)


def test_a_misspelt_recipe_is_a_mistake(asked, capsys):
    assert commands.main(["doctor", "fashion_lenett"]) == 2
    assert "did you mean fashion_lenet" in capsys.readouterr().err
