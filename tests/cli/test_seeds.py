"""`kerascnn run --seeds`: a run a seed, each as by itself, and what they come to."""

import json
import shutil
import statistics

import keras
import pytest
import scipy.stats

from kerascnn import UsageError
from kerascnn.cli import commands, seeds
from kerascnn.engine.finite import NotFiniteError
from kerascnn.runs import Run
from kerascnn.training import options

WORDS = ["run", "fashion_mlp", "--data", "sample", "--limit", "200", "--epochs", "2"]
WORDS += ["--batch-size", "50"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Seeds 0 and 3 in a folder, and seed 3 by itself."""
    folder = tmp_path_factory.mktemp("seeds")
    cache = ["--cache-dir", str(tmp_path_factory.getbasetemp() / "cache")]
    several, alone = folder / "several", folder / "alone"
    assert commands.main([*WORDS, *cache, "--seeds", "0,3", "--out", str(several)]) == 0
    assert commands.main([*WORDS, *cache, "--seed", "3", "--out", str(alone)]) == 0
    return several, alone


def test_each_seed_has_a_run_that_is_as_it_would_be_alone(trained):
    several, alone = trained
    assert sorted(path.name for path in several.iterdir()) == ["seed-0", "seed-3"]
    first, last = Run(several / "seed-0"), Run(several / "seed-3")
    assert [run.config["seed"] for run in (first, last)] == [0, 3]
    assert last.result["weights_sha256"] == Run(alone).result["weights_sha256"]
    assert last.result["weights_sha256"] != first.result["weights_sha256"]


def test_what_has_finished_is_not_trained_again_and_what_stopped_goes_on(
    trained, tmp_path, capsys, unchanged
):
    folder = tmp_path / "again"
    shutil.copytree(trained[0], folder)
    end = Run(folder / "seed-3").result
    words = [*WORDS, "--seeds", "0,3", "--out", str(folder)]
    config = Run(folder / "seed-0").config
    for name in ("class_weights", "label_smoothing", "remat"):  # as of an older version
        del config["options"][name]
    Run(folder / "seed-0").write_config(config)
    with unchanged(folder):
        assert commands.main(words) == 0
    assert "Seed 3, 2 of 2: trained already" in capsys.readouterr().out
    devices = ["--devices", "2"] * (keras.backend.backend() == "jax")
    for name in ("result.json", "model.keras"):  # killed at its end
        (folder / "seed-3" / name).unlink()
    with unchanged(folder / "seed-0"):
        assert commands.main([*words, *devices]) == 0
    assert "Going on with" in capsys.readouterr().err
    if devices:
        assert Run(folder / "seed-3").config["resumed"][-1]["devices"] == 2
    assert Run(folder / "seed-3").result["weights_sha256"] == end["weights_sha256"]


def test_without_a_folder_runs_of_the_case_alone_are_found(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    below = tmp_path / "runs" / "fashion_mlp"
    for number, run in enumerate([*trained[0].iterdir(), trained[1]]):
        shutil.copytree(run, below / f"20261124-10000{number}")
    changed = Run(below / "20261124-100002")  # as with other options
    config = changed.config
    changed.write_config(config | {"options": config["options"] | {"epochs": 3}})
    assert commands.main([*WORDS, "--seeds", "0,3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {run["seed"] for run in found["runs"]} == {0, 3}
    assert len(list(below.iterdir())) == 3
    assert str(changed.folder.relative_to(tmp_path)) not in {
        run["run"] for run in found["runs"]
    }


def test_the_figures_are_those_of_the_runs(trained, capsys):
    words = [*WORDS, "--seeds", "0,3", "--out", str(trained[0])]
    assert commands.main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "trained already" in printed.err
    runs = [Run(trained[0] / f"seed-{seed}") for seed in (0, 3)]
    values = [run.result["test_accuracy"] for run in runs]
    assert [run["accuracy"] for run in found["runs"]] == values
    assert found["mean"] == pytest.approx(statistics.mean(values))
    assert found["deviation"] == pytest.approx(statistics.stdev(values))
    between = scipy.stats.t.interval(
        0.95, 1, loc=statistics.mean(values), scale=scipy.stats.sem(values)
    )
    assert found["interval"] == pytest.approx(between)
    best = [max(run.history["test_accuracy"]) for run in runs]
    bonus = statistics.mean(b - v for b, v in zip(best, values, strict=True))
    assert found["peeking_bonus"] == pytest.approx(bonus)
    assert commands.main(words) == 0
    out = capsys.readouterr().out
    assert f"mean {statistics.mean(values):.2%}" in out
    assert f"deviation {100 * statistics.stdev(values):.2f} points" in out


def test_another_run_in_a_seed_s_place_is_refused(trained, tmp_path, capsys, unchanged):
    folder = tmp_path / "out"
    shutil.copytree(trained[0], folder)
    with unchanged(folder):
        for more in (["--learning-rate", "0.1"], ["--limit", "100"]):
            words = [*WORDS, *more, "--seeds", "0,3", "--out", str(folder)]
            assert commands.main(words) == 2
            assert "seed-0 holds another run" in capsys.readouterr().err
        with Run(folder / "seed-3").lock():
            (folder / "seed-3" / "result.json").rename(tmp_path / "result.json")
            words = [*WORDS, "--seeds", "3", "--out", str(folder)]
            assert commands.main(words) == 2
            assert "another process is training seed 3" in capsys.readouterr().err
            (tmp_path / "result.json").rename(folder / "seed-3" / "result.json")


def test_a_seed_whose_loss_breaks_leaves_the_others_be(
    trained, monkeypatch, capsys, tmp_path
):
    done = {1: Run(trained[0] / "seed-0"), 2: None, 5: Run(trained[0] / "seed-3")}

    def train(recipe, command, seed, begun, given):
        if done[seed] is None:
            raise NotFiniteError("the loss is not finite", 3)
        return done[seed]

    monkeypatch.setattr(seeds, "_train", train)
    words = [*WORDS, "--seeds", "1,2,5", "--out", str(tmp_path / "out")]
    assert commands.main(words) == 3
    said = capsys.readouterr()
    assert "fashion_mlp, 2 seeds" in said.out
    assert "Seed 2: the loss is not finite" in said.err
    done[2] = KeyboardInterrupt("stopped")

    def stop(recipe, command, seed, begun, given):
        raise KeyboardInterrupt

    monkeypatch.setattr(seeds, "_train", stop)
    assert commands.main(words) == 130
    error = capsys.readouterr().err
    assert "0 of 3 seeds are trained: the same command goes on with seed 1" in error


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("0-4", [0, 1, 2, 3, 4]),
        ("0,3,7", [0, 3, 7]),
        ("7, 1-2,1", [7, 1, 2]),
        ("5", [5]),
        (str(2**32 - 1), [2**32 - 1]),
    ],
)
def test_seeds_as_words(words, wanted):
    assert options.parsed_seeds(words) == wanted


@pytest.mark.parametrize(
    "words", ["", "4-0", "0-", "a", "1.5", "-1", "0,,1", str(2**32), "0-1000", "١"]
)
def test_what_are_no_seeds(words):
    with pytest.raises(UsageError, match=r"--seeds .*expected"):
        options.parsed_seeds(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "0-2", "--seed", "1"], "--seed is for one run"),
        (["--seeds", "0-2", "--resume", "x"], "--resume is for one run"),
        (["--seeds", "x"], "expected whole numbers, such as 0-4"),
        (["--json"], "--json is for --seeds"),
    ],
)
def test_options_that_do_not_go_together(words, said, capsys):
    assert commands.main(["run", "fashion_mlp", *words]) == 2
    assert said in capsys.readouterr().err
