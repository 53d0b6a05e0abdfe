"""A sweep: what it tries, that it goes on wherever it was stopped, and its mistakes."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerascnn import UsageError, runs
from kerascnn.cli import commands
from kerascnn.studies import sweep
from kerascnn.training.options import Overrides

pytest.importorskip("optuna")

WORDS = ["sweep", "fashion_mlp", "--data", "sample", "--seed", "5"]
SPACE = ["--learning-rate", "1e-4:1e-1", "--batch-size", "32,64,128"]


class Killed(BaseException):
    """Ends a sweep where no code of it can notice, as `kill -9` does."""


def accuracy(rate, size):
    """Highest at a rate of 3e-3 and batches of 64."""
    return 0.9 - 0.1 * abs(math.log10(rate / 3e-3)) - 0.02 * abs(math.log2(size / 64))


@pytest.fixture
def machine(monkeypatch):
    """Runs that take no time: epochs are written and looked at one after another."""
    seen = []

    class Machine:
        trained = seen
        kills = ()  # the calls, counted from 0, that end after an epoch
        epochs = 4

    def train(recipe, options, goes_on):
        call = len(seen)
        folder = options.resume or options.out
        if options.resume:
            chosen = runs.Run(folder).config["chosen"]
        else:
            folder.mkdir(parents=True)
            names = ("learning_rate", "batch_size", "seed", "validation")
            chosen = {name: getattr(options, name) for name in names}
            (folder / "config.json").write_text(json.dumps({"chosen": chosen}))
        seen.append((folder.name, chosen, bool(options.resume)))
        kind = "test" if chosen["validation"] is None else "validation"
        best = accuracy(chosen["learning_rate"], chosen["batch_size"])
        for epoch in range(len(runs.Run(folder).metrics), Machine.epochs):
            value = {f"{kind}_accuracy": best * (epoch + 1) / Machine.epochs}
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(value) + "\n")
            if call in Machine.kills:
                raise Killed
            if not goes_on():
                return None
        result = {f"{kind}_accuracy": best, "finished": True}
        (folder / "result.json").write_text(json.dumps(result))
        return {"accuracy": best}

    monkeypatch.setattr(sweep, "train", train)
    return Machine


def run(capsys, out, *words):
    command = [*WORDS, *SPACE, "--out", str(out), "--json", *words]
    assert commands.main(command) == 0
    return json.loads(capsys.readouterr().out)


def test_a_sweep_finds_a_good_setting_and_trains_it_with_three_seeds(
    machine, tmp_path, capsys
):
    found = run(capsys, tmp_path / "a", "--trials", "20")
    assert len(found["trials"]) == 20
    states = [each["state"] for each in found["trials"]]
    assert {*states} == {"complete", "pruned"}
    complete = [t for t in found["trials"] if t["state"] == "complete"]
    for each in complete:
        right = accuracy(each["learning_rate"], each["batch_size"])
        assert each["accuracy"] == pytest.approx(right)
        assert each["epochs"] == 4
    assert all(t["epochs"] < 4 for t in found["trials"] if t["state"] == "pruned")
    best = found["best"]
    assert best["accuracy"] == max(each["accuracy"] for each in complete)
    assert abs(math.log10(best["learning_rate"] / 3e-3)) < 0.5
    # No trial sees the test set; the last three see it and nothing is held out.
    *trials, _, _, _ = machine.trained
    assert all(chosen["validation"] == 0.1 for _, chosen, _ in trials)
    last = [chosen for _, chosen, _ in machine.trained[-3:]]
    assert [chosen["seed"] for chosen in last] == [5, 6, 7]
    assert {chosen["validation"] for chosen in last} == {None}
    assert {chosen["learning_rate"] for chosen in last} == {best["learning_rate"]}
    assert len(found["seeds"]) == 3
    assert found["deviation"] == pytest.approx(0)

    # Done, it trains nothing again.
    before = len(machine.trained)
    assert run(capsys, tmp_path / "a", "--trials", "20") == found
    assert len(machine.trained) == before
    assert commands.main([*WORDS, *SPACE, "--out", str(tmp_path / "a")]) == 0
    assert "--learning-rate" in capsys.readouterr().out


def test_a_sweep_that_was_killed_tries_what_an_undisturbed_one_does(
    machine, tmp_path, capsys
):
    whole = run(capsys, tmp_path / "a", "--trials", "10")
    # Killed inside trials, twice in the same one, and inside the last seeds.
    machine.trained.clear()
    machine.kills = (0, 3, 4, 8, 15)
    for _ in machine.kills:
        with pytest.raises(Killed):
            run(capsys, tmp_path / "b", "--trials", "10")
        with (tmp_path / "b" / "journal.log").open("ab") as file:
            file.write(b'{"half a')
    found = run(capsys, tmp_path / "b", "--trials", "10")
    assert any(resumed for *_, resumed in machine.trained)

    def settings(sweep):
        names = ("state", "learning_rate", "batch_size", "accuracy")
        return [[each[name] for name in names] for each in sweep["trials"]]

    assert settings(found) == settings(whole)
    assert found["mean"] == whole["mean"]
    places = [each["run"] for each in found["trials"]]
    assert len({*places}) == 10


def test_a_sweep_older_than_an_option_goes_on(machine, tmp_path, capsys):
    found = run(capsys, tmp_path / "a", "--trials", "2")
    file = tmp_path / "a" / "sweep.json"
    record = json.loads(file.read_text())
    for young in ("image_size", "skip_bad"):
        del record[young]
    file.write_text(json.dumps(record))
    assert run(capsys, tmp_path / "a", "--trials", "2") == found
    words = [*WORDS, *SPACE, "--out", str(tmp_path / "a"), "--image-size", "20"]
    assert commands.main(words) == 2
    assert "with another --image-size" in capsys.readouterr().err


def test_another_sweep_s_folder_is_left_alone(machine, tmp_path, capsys, unchanged):
    run(capsys, tmp_path / "a", "--trials", "2")
    other = [*WORDS, "--learning-rate", "1e-3:1e-2", "--out", str(tmp_path / "a")]
    with unchanged(tmp_path):
        assert commands.main(other) == 2
        assert "holds a sweep with another" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with unchanged(tmp_path):
        assert commands.main([*WORDS, *SPACE, "--out", str(tmp_path / "b")]) == 2
        assert "holds other files" in capsys.readouterr().err


@given(st.lists(st.floats(1e-8, 1e3), min_size=1, max_size=5, unique=True))
def test_values_are_read_as_they_are_written(values):
    assert sweep.parsed(",".join(map(repr, values)), "--x") == values
    if len(values) == 2:
        low, high = sorted(values)
        assert sweep.parsed(f"{low!r}:{high!r}", "--x") == (low, high)


@pytest.mark.parametrize("words", ["", "a", "1:", "2:1", "1:2:3", "0,1", "-1:1", "inf"])
def test_other_values_are_a_mistake(words):
    with pytest.raises(UsageError, match="expected numbers above 0"):
        sweep.parsed(words, "--learning-rate")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected what to vary"),
        (["--batch-size", "1.5,2"], "expected whole numbers above 0"),
        ([*SPACE, "--trials", "0"], "--trials 0: expected 1 or more"),
        ([*SPACE, "--validation", "1"], "expected a share between 0 and 1"),
    ],
)
def test_mistakes_are_named(words, said, capsys):
    assert commands.main([*WORDS, *words]) == 2
    assert said in capsys.readouterr().err


def test_without_optuna_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert commands.main([*WORDS, *SPACE, "--out", str(tmp_path / "a")]) == 2
    assert "pip install optuna" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_the_process_that_chooses_imports_no_backend():
    script = (
        "import sys; from kerascnn.studies import sweep; sweep._optuna();"
        "heavy = {'jax', 'keras', 'tensorflow', 'torch'} & {*sys.modules};"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_sweep_stopped_by_kill_goes_on(tmp_path):
    """With real runs in processes of their own, which end with the killed one."""
    words = [sys.executable, "-m", "kerascnn", *WORDS, "--limit", "512"]
    words += ["--learning-rate", "1e-3,1e-2", "--trials", "3", "--epochs", "3"]
    words += ["--out", str(tmp_path / "a"), "--json"]
    first = tmp_path / "a" / "trial-001"
    process = subprocess.Popen(words, env=os.environ)
    while not (first / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while runs.Run(first).state == "running":  # its process sees that it is alone
        time.sleep(0.2)
    begun = len(runs.Run(first).metrics)
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert len(found["trials"]) == 3
    assert begun >= 1
    for each in found["trials"]:
        trained = runs.Run(each["run"])
        assert trained.config["validation"] == 0.1
        if each["state"] == "complete":
            assert each["accuracy"] == trained.result["validation_accuracy"]
    for each in found["seeds"]:
        assert each["accuracy"] == runs.Run(each["run"]).result["test_accuracy"]


def test_a_run_s_options_are_those_of_the_sweep():
    own = sweep.Sweep("fashion_mlp", learning_rate="1e-3,1e-2", epochs=3, limit=9)
    assert own.options(seed=4) == Overrides(
        epochs=3, limit=9, validation=0.1, seed=4, record="light"
    )
