"""`kerascnn runs` and `runs clean`: what is listed is so, and nothing needed goes."""

import io
import json
import os
import shutil
import sys

import pytest

from kerascnn.cli import commands
from kerascnn.runs import Run, below, peeked

STATES = ("finished", "interrupted", "running", "damaged", "without its model")


def make(folder, state, seed=0, **config):
    """Write a run by hand: two of three epochs, or all, and a checkpoint."""
    run = Run.create(folder.parent.name, folder)
    run.write_config(
        {
            "recipe": folder.parent.name,
            "overrides": [],
            "epochs": 3,
            "seed": seed,
            "data": {"sample": False},
            "environment": {"time": "2026-11-24T12:32:20+0000"},
            **config,
        }
    )
    accuracies = [0.5, 0.875, 0.75][: 2 if state in ("interrupted", "running") else 3]
    for epoch, accuracy in enumerate(accuracies, 1):
        run.add_metrics({"epoch": epoch, "test_accuracy": accuracy, "seconds": 30})
    saved = folder / "checkpoints" / "00003-0000000"
    saved.mkdir(parents=True)
    (saved / "arrays.safetensors").write_bytes(bytes(123_456))
    if state not in ("interrupted", "running"):
        result = {"finished": True, "epochs": 3, "test_accuracy": 0.75, "seconds": 100}
        run.write_result(result)
        (folder / "model.keras").write_bytes(bytes(1000))
    if state == "interrupted":  # inside an epoch: nobody has evaluated these weights
        run.write_result({"finished": False, "epochs": 2, "test_accuracy": None})
    if state == "damaged":
        (folder / "config.json").write_text('{"recipe": ')
    if state == "without its model":
        (folder / "model.keras").unlink()
    return run


@pytest.fixture
def all_states(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "fashion_mlp"
    made = {state: make(folder / state.replace(" ", "-"), state) for state in STATES}
    with made["running"].lock():
        yield made


def listed(capsys, *words):
    assert commands.main(["runs", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_state_is_told(all_states, capsys):
    found = {run["run"].rpartition("/")[2]: run for run in listed(capsys)}
    wanted = {state.replace(" ", "-"): state for state in STATES}
    wanted["without-its-model"] = "damaged"
    assert {name: run["state"] for name, run in found.items()} == wanted
    assert [found[name]["epochs"] for name in ("finished", "running")] == [3, 2]
    assert found["finished"]["seconds"] == 100
    assert found["interrupted"]["seconds"] == 60
    assert found["interrupted"]["accuracy"] == 0.875
    assert found["finished"]["best_epoch"] == {
        "epoch": 2,
        "accuracy": 0.875,
        "peeking_bonus": 0.125,
    }
    files = [
        path for path in all_states["finished"].folder.rglob("*") if path.is_file()
    ]
    assert found["finished"]["bytes"] == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_the_table_names_each_run_and_what_it_changes(
    width, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width or ""))
    more = {"overrides": ["learning_rate", "dataset"], "learning_rate": 0.0003}
    more["options"] = {"dataset": "./" + "pets " * 12}
    make(tmp_path / "runs" / "fashion_mlp" / "20261124-101500", "finished")
    make(tmp_path / "runs" / "cifar_mlp" / "mine", "interrupted", 7, **more)
    assert commands.main(["runs"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= (width or 200)
    assert "runs/fashion_mlp" in lines
    (row,) = (line for line in lines if "20261124-101500" in line)
    for cell in ("75.00%", "3/3", "finished", *(["1 min 40 s"] * (width != 60))):
        assert cell in row
    assert "learning rate 0.0003, dataset ./pets pets" in " ".join(out.split())
    if width is None:
        assert "dataset ./pets" in next(line for line in lines if "  mine" in line)
    assert "2 runs" in out


@pytest.mark.parametrize("width", ["60", "200"])
@pytest.mark.parametrize(
    "config",
    [
        {"overrides": ["epochs", "gone", "force"]},
        {"overrides": 3},
        {"environment": None},
        {"data": ["cifar10"], "epochs": None},
        {"recipe": 5, "seed": None},
        {"options": "none"},
    ],
    ids=str,
)
def test_a_record_of_any_shape_is_listed(config, width, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", width)
    make(tmp_path / "a" / "run", "finished", **config)
    make(tmp_path / "a" / "other", "finished")
    assert commands.main(["runs", str(tmp_path)]) == 0
    assert "2 runs" in capsys.readouterr().out


def test_where_there_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (["runs"], ["runs", "clean"], ["runs", "clean", "--yes"]):
        assert commands.main(words) == 2
        assert "there is no folder runs" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert commands.main(["runs"]) == 0
    assert "`kerascnn run fashion_mlp` makes one" in capsys.readouterr().out
    assert listed(capsys) == []


def test_clean_removes_checkpoints_of_finished_runs_alone(
    all_states, capsys, unchanged
):
    finished = all_states["finished"].folder
    with (
        unchanged(finished.parent, but=["finished"]),
        unchanged(finished, ["checkpoints"]),
    ):
        assert commands.main(["runs", "clean", "--yes"]) == 0
    assert "Freed 123 kB" in capsys.readouterr().out
    assert not (finished / "checkpoints").exists()
    assert commands.main(["runs", "clean", "--yes"]) == 0
    assert "No finished run" in capsys.readouterr().out


def test_clean_asks_and_takes_no_answer_for_no(
    all_states, capsys, unchanged, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with unchanged(tmp_path):
        assert commands.main(["runs", "clean"]) == 2
    assert "pass --yes" in capsys.readouterr().err
    pty = pytest.importorskip("pty")
    keyboard, terminal = pty.openpty()
    for answer, removed in (
        ("\n", False),
        ("n\n", False),
        ("\4", False),
        ("y\n", True),
    ):
        with os.fdopen(os.dup(terminal)) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            os.write(keyboard, answer.encode())
            assert commands.main(["runs", "clean"]) == 0
        out = capsys.readouterr().out
        assert "Remove the checkpoints of 1 finished run, 123 kB?" in out
        folder = all_states["finished"].folder / "checkpoints"
        assert folder.exists() is not removed, answer


def test_runs_are_found_at_any_depth_and_not_inside_each_other(tmp_path):
    for place in ("a/b/c", "a/d", "e"):
        make(tmp_path / place / "run", "finished")
    shutil.copytree(tmp_path / "e" / "run", tmp_path / "e" / "run" / "copy")
    shutil.copytree(tmp_path / "e" / "run", tmp_path / ".hidden" / "run")
    places = [run.folder.relative_to(tmp_path).as_posix() for run in below(tmp_path)]
    assert places == ["a/b/c/run", "a/d/run", "e/run"]
    assert [run.folder for run in below(tmp_path / "e" / "run")] == [
        tmp_path / "e" / "run"
    ]


@pytest.mark.parametrize(
    ("epochs", "end", "best"),
    [
        ([0.5, 0.75, 0.625], {"test_accuracy": 0.625}, (2, 0.75, 0.125)),
        ([0.5, 0.75, 0.75], {"test_accuracy": 0.75, "epochs": 3}, (3, 0.75, 0.0)),
        ([None, 0.75, None], {"test_accuracy": 0.25}, (2, 0.75, 0.5)),
        ([0.5, 0.75], {"test_accuracy": 0.875, "epochs": 2}, (2, 0.875, 0.0)),
        # Other weights than those of any epoch's end: their average, for one.
        ([0.5, 0.75], {"test_accuracy": 0.5, "evaluated_again": True}, None),
        ([], {"test_accuracy": 0.5}, None),
        ([0.5], {"validation_accuracy": 0.5}, None),
        ([0.5], {"test_accuracy": None}, None),
    ],
)
def test_the_best_epoch_on_the_test_set(epochs, end, best):
    metrics = [{"epoch": n, "test_accuracy": a} for n, a in enumerate(epochs, 1)]
    found = peeked(metrics, end)
    assert (found and tuple(found.values())) == best
