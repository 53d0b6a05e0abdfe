"""-q and --quiet: results, warnings and errors alone."""

import os
import subprocess
import sys

import pytest

import kerascnn
from kerascnn import text
from kerascnn.cli import commands

WORDS = ["--limit", "64", "--epochs", "1", "--batch-size", "32"]
PROGRESS = ["epoch 1/1", "The first epoch", "images, from", "Loading Keras"]


@pytest.mark.parametrize("option", ["-q", "--quiet"])
@pytest.mark.parametrize("first", [False, True])
def test_a_run_prints_its_result_alone(option, first, tmp_path, capsys):
    words = ["run", "fashion_mlp", *WORDS, "--out", str(tmp_path / "run")]
    assert commands.main([option, *words] if first else [*words, option]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = [line for line in said.out.splitlines() if line]
    assert lines[0].startswith("fashion_mlp: 1 epoch")
    assert not [word for word in PROGRESS if word in said.out]
    assert not text.quiet  # whoever prints next does


def test_a_process_says_neither_what_it_loads_nor_how_far_it_is(tmp_path):
    command = [sys.executable, "-m", "kerascnn.recipes.fashion_mlp", *WORDS]
    done = subprocess.run(
        [*command, "--out", "run", "--quiet"],
        env=os.environ | {"KERASCNN_REPORT": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.strip().startswith("fashion_mlp: 1 epoch")


def test_warnings_and_mistakes_are_told_all_the_same(tmp_path, capsys):
    assert commands.main(["run", "nosuch", "-q"]) == 2
    assert capsys.readouterr().err.startswith("kerascnn: ")
    (tmp_path / "broken.png").write_bytes(b"no image")
    words = ["predict", "fashion", str(tmp_path), "-q"]
    with pytest.raises(SystemExit, match="1"):
        commands.main(words)
    assert "broken.png" in capsys.readouterr().err


def test_from_python_too(tmp_path, capsys):
    options = {"limit": 64, "batch_size": 32, "data": "sample", "quiet": True}
    run = kerascnn.train("fashion_mlp", epochs=1, out=tmp_path / "run", **options)
    run = kerascnn.resume(run, epochs=2, quiet=True)
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.count("fashion_mlp: ") == 2
    assert not [word for word in PROGRESS if word in said.out]


def test_the_help_names_it(capsys):
    assert commands.main(["--help"]) == 0
    assert "-q, --quiet" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        commands.main(["evaluate", "--help"])
    assert "-q, --quiet" in capsys.readouterr().out
