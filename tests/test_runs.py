"""The run folder: what is written comes back, and nothing is overwritten."""

import json

import pytest

from kerascnn import UsageError
from kerascnn.runs import Run


def test_runs_begun_in_the_same_second_have_their_own_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {Run.create("fashion_mlp").folder for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.parent.as_posix() == "runs/fashion_mlp" for folder in folders)


def test_records_come_back(tmp_path):
    run = Run.create("fashion_mlp", tmp_path / "run")
    run.write_config({"seed": 3})
    run.add_metrics({"epoch": 1, "loss": 0.5})
    run.add_metrics({"epoch": 2, "loss": 0.25})
    run.write_result({"test_accuracy": 0.875})
    again = Run(tmp_path / "run")
    assert again.config == {"seed": 3}
    assert again.metrics == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    assert again.result == {"test_accuracy": 0.875}


def test_numbers_that_are_not_finite_become_null(tmp_path):
    run = Run.create("fashion_mlp", tmp_path / "run")
    run.add_metrics({"epoch": 1, "loss": float("nan"), "more": [float("inf"), 1.0]})
    text = (run.folder / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word)) == {
        "epoch": 1,
        "loss": None,
        "more": [None, 1.0],
    }


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="already holds files"):
        Run.create("fashion_mlp", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--out"):
        Run.create("fashion_mlp", tmp_path / "file" / "run")


def test_a_run_has_no_metrics_before_its_first_epoch_ends(tmp_path):
    run = Run.create("fashion_mlp", tmp_path / "run")
    run.write_config({"seed": 3})
    assert run.metrics == []
    with pytest.raises(UsageError, match="there is no run in"):
        _ = Run(tmp_path / "nothing").metrics


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ('{"finished": true}', True),
        ('{"finished": false}', False),
        ("{}", False),
        ("[1]", False),
        ('{"finished": tr', False),
        (None, False),
    ],
)
def test_a_run_with_a_damaged_result_has_not_finished(tmp_path, text, finished):
    run = Run.create("fashion_mlp", tmp_path / "run")
    run.write_config({"seed": 3})
    if text is not None:
        (run.folder / "result.json").write_text(text)
    assert run.finished is finished


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UsageError, match=r"config\.json"):
        _ = Run(tmp_path).config
    with pytest.raises(UsageError, match=r"result\.json"):
        _ = Run(tmp_path).result
