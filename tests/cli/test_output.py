"""Whatever is printed can be printed, in any encoding of the output."""

import io
import os
import subprocess
import sys

import pytest

from kerascnn.cli import commands, parsing
from kerascnn.lessons import __main__ as lessons
from kerascnn.lessons import padding

ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "koi8-r", "utf-8"]
COMMANDS = [
    *(["list"], ["show", "cifar_vgg_aug"], ["show", "fashion_lenet"]),
    *(["diff", "cifar_vgg_l2", "cifar_vgg_aug"], ["data", "list"]),
    ["data", "statistics", "cifar10", "--data", "sample"],
    *([command, "--help"] for command in commands.names()),
    *(["data", word, "--help"] for word in ("get", "import", "check", "statistics")),
    *(["bench", word, "--help"] for word in ("step", "epoch", "scale", "checkpoints")),
    ["run", "cifar_vgg_aug", "--help"],
    # Mistakes, whose words come from the user.
    *(["show", "é→√\udcff"], ["run", "fashion_mlp", "--dataset", "./\udcff→"]),
]


@pytest.fixture
def outputs(monkeypatch):
    """Standard output and error that write bytes in an encoding, or raise."""

    def open_(encoding):
        files = io.BytesIO(), io.BytesIO()
        for name, file in zip(("stdout", "stderr"), files, strict=True):
            stream = io.TextIOWrapper(file, encoding, "strict", write_through=True)
            monkeypatch.setattr(sys, name, stream)
        return files

    return open_


@pytest.mark.parametrize("words", COMMANDS, ids=ascii)
def test_any_command_prints_in_any_encoding(words, outputs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    whole = {}
    for encoding in ENCODINGS:
        out, error = outputs(encoding)
        try:
            code = commands.main(words)
        except SystemExit as stop:
            code = stop.code
        assert code in (0, 2)
        whole[encoding] = (out.getvalue() + error.getvalue()).decode(encoding)
        assert whole[encoding]
    # What ASCII has arrives as it is, whatever stands beside it.
    for encoding, text in whole.items():
        kept = [word for word in whole["utf-8"].split() if word.isascii()]
        lost = [word for word in kept if word.strip("?-") and word not in text]
        assert not lost, (encoding, lost)


def test_a_run_and_a_lesson_print_in_any_encoding(outputs, tmp_path):
    run = ["run", "fashion_mlp", "--data", "sample", "--limit", "20"]
    for number, encoding in enumerate(ENCODINGS[:2]):
        out, _ = outputs(encoding)
        folder = tmp_path / f"\udcff→{number}"
        words = [*run, "--epochs", "1", "--batch-size", "10", "--out", str(folder)]
        assert commands.main(words) == 0
        assert b"test accuracy" in out.getvalue()
        figure = str(tmp_path / "→.png")
        assert parsing.run(lambda file=figure: padding.main(["--out", file])) == 0
        assert parsing.run(lessons.main) == 0


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C"},
    ],
    ids=str,
)
@pytest.mark.parametrize("module", ["kerascnn", "kerascnn.lessons"])
def test_the_environment_may_name_any_encoding(environment, module):
    words = ["list"] if module == "kerascnn" else []
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"cifar_vgg_aug" in done.stdout or b"batch_norm" in done.stdout
