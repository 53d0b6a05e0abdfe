"""A finished run trains on to more epochs, and keeps how it had ended."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
from test_resume import ENGINES, RECIPE, Stop, assert_equal, final, options, stop_at

from kerascnn import UsageError, api
from kerascnn.cli import commands
from kerascnn.page import evidence
from kerascnn.runs import Run
from kerascnn.training import run as training_run
from kerascnn.training.options import Overrides

__all__ = ["stop_at"]  # a fixture


def begun(out, case=RECIPE, **more):
    return training_run.train(case, options(out, **more))


def on(folder, epochs, case=RECIPE, **more):
    return training_run.train(case, options(resume=folder, epochs=epochs, **more))


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_it_ends_as_a_run_of_so_many_epochs_and_keeps_the_first_end(tmp_path, engine):
    """The decay by epochs goes on; the callback halves the rate in each."""
    whole = begun(tmp_path / "whole", engine=engine, epochs=4)
    run = begun(tmp_path / "run", engine=engine)
    before = contents(run.folder)
    assert {"result.json", "model.keras", "metrics.jsonl"} <= {*before}
    run = on(run.folder, 4)
    assert_equal(final(run), final(whole))
    rates = [m["learning_rate"] for m in run.metrics]
    assert rates == pytest.approx([1e-2, 5e-3, 2.5e-3, 1.25e-3])
    assert contents(run.folder / "after-2-epochs") == before
    kept = Run(run.folder / "after-2-epochs")
    assert (kept.state, kept.result["epochs"], len(kept.metrics)) == ("finished", 2, 2)
    kept.model()
    for record in (run.config, run.result):
        assert record["trained_on_after"] == [2]
        assert record["schedule"] == "goes on"
    assert run.config["epochs"] == run.result["epochs"] == 4
    assert {"epochs", "trained_on_after"} <= {*run.config["overrides"]}
    run = on(run.folder, 5)
    assert run.config["trained_on_after"] == [2, 4]
    assert Run(run.folder / "after-4-epochs").result["epochs"] == 4
    said = evidence.command(run.config | {"recipe_file": None})
    first, *more = said.split(" && ")
    assert "--epochs 2 " in first
    assert first.endswith(" --out again")
    assert more == [f"kerascnn resume again --epochs {n}" for n in (4, 5)]


def falling(steps):
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, steps))


@pytest.mark.slow
def test_a_schedule_of_the_run_s_steps_is_that_of_the_longer_run(tmp_path, capsys):
    case = dataclasses.replace(RECIPE, optimizer=falling, callbacks=list)
    run = begun(tmp_path / "run", case, record="light")
    run = on(run.folder, 3, case)
    steps = len(run.recorded["step"]) // 3
    half = 2 * steps, 3 * steps
    expected = [
        *(0.5e-2 * (1 + math.cos(math.pi * n / half[0])) for n in range(half[0])),
        *(0.5e-2 * (1 + math.cos(math.pi * n / half[1])) for n in range(*half)),
    ]
    rates = run.recorded["learning_rate"]
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-8)
    assert run.result["schedule"] == "of the longer run"
    said = capsys.readouterr().out
    assert said.count("so a run of so many from its start ends otherwise.") == 1


@pytest.mark.slow
@pytest.mark.parametrize("place", [(2, 0), (3, 2)])
def test_stopped_on_the_way_it_goes_on_by_itself(tmp_path, stop_at, place):
    whole = begun(tmp_path / "whole", epochs=4)
    run = begun(tmp_path / "run")
    before = contents(run.folder)
    stop_at[:] = [place]
    with pytest.raises(Stop):
        on(run.folder, 4)
    stop_at.clear()
    assert not run.finished
    assert run.state == "interrupted"
    run = training_run.train(RECIPE, Overrides(resume=run.folder))
    assert_equal(final(run), final(whole))
    assert run.result["trained_on_after"] == [2]
    assert contents(run.folder / "after-2-epochs") == before


@pytest.mark.slow
def test_a_kill_between_two_writes_loses_nothing(tmp_path, monkeypatch):
    run = begun(tmp_path / "run")
    before = contents(run.folder)

    def stop(*arguments):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_config", stop)
        with pytest.raises(Stop):
            on(run.folder, 4)
    run = training_run.train(RECIPE, Overrides(resume=run.folder))
    now = contents(run.folder)
    assert now["model.keras"] == before["model.keras"] or run.finished
    first, again = (json.loads(each["result.json"]) for each in (before, now))
    assert first["weights_sha256"] == again["weights_sha256"]
    assert on(run.folder, 4).result["trained_on_after"] == [2]
    assert contents(run.folder / "after-2-epochs") == before


class Early(keras.callbacks.Callback):
    def get_config(self):
        return {}

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def test_what_can_not_train_on_is_refused_and_stays(tmp_path, unchanged):
    run = begun(tmp_path / "run")
    with unchanged(tmp_path):
        for epochs in (1, 2):
            with pytest.raises(UsageError, match=f"more than 2, not {epochs}"):
                on(run.folder, epochs)
        with pytest.raises(
            UsageError, match=r"has finished its 2 epochs: .*--epochs N"
        ):
            training_run.train(RECIPE, Overrides(resume=run.folder))
        with pytest.raises(UsageError, match="batch size was 64 and is 32"):
            on(run.folder, 4, batch_size=32)
    assert commands.main(["runs", "clean", "--yes", str(tmp_path)]) == 0
    early = dataclasses.replace(RECIPE, callbacks=lambda: [Early()])
    stopped = begun(tmp_path / "early", early, epochs=3)
    with unchanged(tmp_path):
        with pytest.raises(UsageError, match=r"no checkpoint of its end .*--weights"):
            on(run.folder, 4)
        with pytest.raises(UsageError, match=r"callback has ended the run .* after 1"):
            on(stopped.folder, 4, early)


def test_commands_say_it(tmp_path, capfd):
    words = ["--data", "sample", "--limit", "64", "--epochs", "1", "--record", "off"]
    folder = tmp_path / "run"
    assert commands.main(["run", "fashion_mlp", *words, "--out", str(folder)]) == 0
    capfd.readouterr()
    exported = [
        folder / "model.onnx",
        folder / "README.md",
    ]  # of the model as it is now
    for file in exported:
        file.write_text("mine")
    assert commands.main(["resume", str(folder), "--epochs", "2"]) == 0
    for file in exported:
        assert not file.exists()
        assert (folder / "after-1-epoch" / file.name).read_text() == "mine"
    out, err = capfd.readouterr()
    assert (
        f"How the run had ended, and its exports, are kept in {folder}/after-1-epoch."
        in err
    )
    assert out.count("Trained on after its end at epoch 1, kept in after-1-epoch.") == 2
    assert "  It ends as one of 2 epochs from its start.\n" in out
    assert commands.main(["runs", str(tmp_path), "--json"]) == 0
    (listed,) = json.loads(capfd.readouterr().out)
    assert listed["changed"]["trained_on_after"] == [1]
    assert (listed["epochs"], listed["state"]) == (2, "finished")
    run = api.resume(folder, epochs=3)
    assert run.config["trained_on_after"] == [1, 2]
