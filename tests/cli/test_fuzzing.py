"""Random command lines: one line and exit code 2, or what was asked for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascnn import UsageError, api, recipe
from kerascnn.bench import checkpoints, measure
from kerascnn.cli import commands
from kerascnn.cli import data as data_command
from kerascnn.cli import parity as parity_command
from kerascnn.process import backend
from kerascnn.report import cookbook
from kerascnn.runs import Run
from kerascnn.studies import learns
from kerascnn.training import options, resume

FEW = settings(derandomize=True, deadline=None, database=None)
HOW_MANY = [80, pytest.param(900, marks=pytest.mark.slow)]

COMMANDS = [
    *(["run", "fashion_mlp"], ["run", "fashion_mpl"], ["run"]),
    *(["resume", "run"], ["resume", "whole"], ["resume", "gone"], ["resume"]),
    *(
        ["data", word]
        for word in ("get", "list", "import", "check", "improt", "statistics")
    ),
    *(["bench", word] for word in ("step", "epoch", "scale", "checkpoints")),
    *(["cookbook"], ["cookbook", "add"], ["cookbook", "add", "run"]),
    *(["diff", "cifar_mlp", "cifar_conv"], ["diff", "cifar_mlp"], ["diff"]),
    *(["parity", "fashion_mlp"], ["parity"], ["backends", "fashion_mlp"]),
    *(["learns", "fashion_mlp"], ["learns"]),
    *(["list"], ["show"], ["lits"], []),
]
OPTIONS = [
    *("epochs", "batch-size", "learning-rate", "seed", "limit", "dataset", "data"),
    *("validation", "data-dir", "cache-dir", "engine", "accelerate", "no-accelerate"),
    *("backend", "precision", "out", "checkpoint-minutes", "on-nan", "deterministic"),
    *("resume", "force", "help", "json", "rounds", "batch", "images", "check", "all"),
    *("break", "steps", "jobs", "train", "seeds", "recipe", "version", "epoch", ""),
]
VALUES = [
    *("0", "1", "-1", "3.5", "1e999", "nan", "-inf", "9" * 5000, "1_0", "٣", "None"),
    *("", " ", "-", "--", "-h", "=", "~", "~no_user/x", ".", "fashion_mlp", "cifar10"),
    *("full", "sample", "auto", "jax", "torch", "theano", "skip", "epoch", "float16"),
    *("x" * 300, "a\0b", "a\nb", "\udcff", "\x1b[31m", "[bold]", "{}", "--=", "é"),
]
WORDS = st.one_of(
    st.sampled_from([f"--{name}" for name in OPTIONS]),
    st.sampled_from(VALUES),
    st.builds("--{}={}".format, st.sampled_from(OPTIONS), st.sampled_from(VALUES)),
    # No absolute paths: nothing outside the test's folder is looked through.
    st.text(max_size=8).map(lambda text: text.replace("/", "").replace("..", "")),
)


class Restarted(Exception):
    pass


@pytest.fixture
def nothing_long(monkeypatch):
    """Nothing trains, downloads, measures, renders or starts the process again."""
    monkeypatch.setattr(api, "completed", lambda *arguments: None)
    monkeypatch.setattr(data_command, "fetch", lambda *arguments: data_command.SAMPLES)
    monkeypatch.setattr(cookbook, "pages", dict)
    for kind in (parity_command.Parity, parity_command.Backends, learns.Learns):
        monkeypatch.setattr(kind, "__call__", lambda self: None)

    def no_time(*arguments):
        raise UsageError("nothing is measured here.")

    monkeypatch.setattr(measure, "compare", no_time)
    monkeypatch.setattr(checkpoints, "measure", no_time)

    def restart(*arguments):
        raise Restarted

    monkeypatch.setattr(backend.os, "execve", restart)


@pytest.mark.parametrize("examples", HOW_MANY)
def test_any_command_line_ends_in_one_line(
    examples, tmp_path, monkeypatch, capfd, nothing_long, unchanged
):
    run = Run.create("fashion_mlp", tmp_path / "run")
    config = {
        "recipe": "fashion_mlp",
        "options": resume.record(options.Overrides()),
        "data": {"sample": True, "source": "bundled sample", "name": "fashion_mnist"},
        "environment": {"backend": "jax"},
    }
    run.write_config(config)
    whole = Run.create("fashion_mlp", tmp_path / "whole")
    whole.write_config(config)
    whole.write_result({"finished": True})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    recipe.load("fashion_mlp")

    @settings(FEW, max_examples=examples)
    @given(st.sampled_from(COMMANDS), st.lists(WORDS, max_size=4))
    def check(command, words):
        capfd.readouterr()
        with unchanged(tmp_path):
            try:
                code = commands.main([*command, *words])
            except Restarted:
                return
            except SystemExit as stop:
                code = stop.code or 0
        error = capfd.readouterr().err
        assert code in (0, 2), (command, words, code, error)
        if code == 2:
            assert error.startswith("kerascnn: ")
            assert error.count("\n") == 1
            assert "\x1b" not in error

    check()
