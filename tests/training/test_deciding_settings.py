"""Settings that decide a run's bits: recorded, compared on resume, and obeyed."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import keras
import pytest

from kerascnn import UsageError, recipe
from kerascnn.training import run as training_run
from kerascnn.training.autosave import Autosave
from kerascnn.training.options import Overrides

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the settings are JAX's"
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of one epoch that ended after its third step."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    after_step = Autosave.after_step

    def stop(session, step, measured):
        after_step(session, step, measured)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.getbasetemp() / "cache"
        patch.setenv("KERASCNN_CACHE_DIR", str(cache))
        patch.setattr(Autosave, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            training_run.train(
                recipe.load("fashion_mlp"),
                Overrides(
                    data="sample",
                    limit=300,
                    epochs=1,
                    batch_size=60,
                    out=out,
                    checkpoint_minutes=0,
                ),
            )
    return out


@pytest.fixture
def copied(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def resume(folder, **more):
    return training_run.train(
        recipe.load("fashion_mlp"), Overrides(resume=folder, **more)
    )


@contextlib.contextmanager
def changed(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def variable(name, value):
    patch = pytest.MonkeyPatch()
    patch.setenv(name, value)
    return patch


@contextlib.contextmanager
def undone(make):
    patch = make()
    try:
        yield
    finally:
        patch.undo()


FLAGS = "--xla_cpu_enable_fast_math=true"
CHANGES = {
    f"XLA_FLAGS was {os.environ.get('XLA_FLAGS')} and is {FLAGS}": lambda: undone(
        lambda: variable("XLA_FLAGS", FLAGS)
    ),
    "NVIDIA_TF32_OVERRIDE was None and is 0": lambda: undone(
        lambda: variable("NVIDIA_TF32_OVERRIDE", "0")
    ),
    "jax_enable_x64 was False and is True": lambda: changed("jax_enable_x64", True),
    "jax_default_matmul_precision was None and is highest": lambda: changed(
        "jax_default_matmul_precision", "highest"
    ),
    "jax_threefry_partitionable was True and is False": lambda: changed(
        "jax_threefry_partitionable", False
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_another_setting_is_refused_unless_it_is_forced(copied, message):
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    with CHANGES[message](), pytest.raises(UsageError) as refused:
        resume(copied)
    assert message in str(refused.value)
    assert "--force" in str(refused.value)
    assert before == {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}


@pytest.mark.skipif(len(jax.devices()) < 2, reason="one device")
def test_another_number_of_devices_is_said_and_recorded(copied, monkeypatch, capsys):
    monkeypatch.setattr("kerascnn.engine.placement.WORTH", 0)
    run = resume(copied)
    assert run.finished
    said = capsys.readouterr().err
    assert "The run had 1 device and goes on with 2" in said
    assert "not to the bit" in said
    assert run.config["resumed"][-1]["devices"] == 2
    assert "force" not in run.config["overrides"]


def test_a_forced_change_of_settings_goes_on_and_is_recorded(copied):
    with changed("jax_default_matmul_precision", "highest"):
        run = resume(copied, force=True)
    assert run.finished
    assert run.config["settings"]["jax_default_matmul_precision"] == "highest"
    assert "force" in run.config["overrides"]


def test_a_run_that_has_recorded_no_settings_goes_on_as_before(copied):
    file = copied / "config.json"
    config = json.loads(file.read_text())
    del config["settings"]
    file.write_text(json.dumps(config))
    with changed("jax_default_matmul_precision", "highest"):
        run = resume(copied)
    assert run.finished
    assert "force" not in run.config["overrides"]


def test_spaces_between_flags_are_no_other_flags(copied, monkeypatch):
    flags = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"  {flags.replace(' ', '   ')} ")
    assert resume(copied).finished


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_legacy_prng_key", "error"),
        ("jax_no_tracing", True),
        ("jax_no_execution", True),
    ],
)
def test_what_keras_cannot_train_under_is_set_aside_and_said(
    tmp_path, capsys, name, value
):
    out = tmp_path / "run"
    options = Overrides(data="sample", limit=100, epochs=1, batch_size=50, out=out)
    with changed(name, value):
        run = training_run.train(recipe.load("fashion_mlp"), options)
        assert getattr(jax.config, name) == value
    assert run.finished
    assert f"{name} is {value}, and Keras needs" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["epoch", "fit"])
def test_a_run_without_jit_has_the_numbers_of_one_with(tmp_path, engine):
    metrics = []
    for disabled in (False, True):
        options = Overrides(
            data="sample",
            limit=24,
            epochs=2,
            batch_size=16,
            engine=engine,
            out=tmp_path / str(disabled),
        )
        with changed("jax_disable_jit", disabled):
            run = training_run.train(recipe.load("fashion_lenet"), options)
        assert run.finished
        metrics.append([(m["loss"], m["test_loss"]) for m in run.metrics])
    assert metrics[0] == [pytest.approx(pair, rel=1e-4) for pair in metrics[1]]


@pytest.mark.slow
def test_an_epoch_with_64_bit_types_has_the_numbers_of_fit(tmp_path):
    """Of several steps: the second takes what the first returns."""
    metrics = []
    for engine in ("epoch", "fit"):
        options = Overrides(
            data="sample",
            limit=100,
            epochs=2,
            batch_size=40,
            engine=engine,
            out=tmp_path / engine,
        )
        with changed("jax_enable_x64", True):
            run = training_run.train(recipe.load("fashion_mlp"), options)
        metrics.append([(m["loss"], m["test_loss"]) for m in run.metrics])
    assert metrics[0] == [pytest.approx(pair, rel=1e-5) for pair in metrics[1]]
