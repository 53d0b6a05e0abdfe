"""What lines say of places, lists, letters and packages, wherever they are said."""

import io
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from kerascnn import cli, text
from kerascnn.cli.commands import COMMANDS, main

ROOT = Path(cli.__file__).parents[2]
# A place where nothing can be written, and one below a file.
PLACES = ["/proc/nowhere", "file/below"]
# Each option that says where to write.
WRITERS = [
    "run fashion_mlp --out",
    "run fashion_mlp --seeds 0-1 --out",
    "lr-find fashion_mlp --out",
    "sweep fashion_mlp --batch-size 8,16 --out",
    "predict fashion image.png --explain",
    "export fashion --to onnx --out",
    "export fashion --card --out",
    "demo fashion --out",
    "report RUN --out",
    "report RUN --figures",
    "compare RUN RUN --out",
    "new mine --from fashion_mlp --out",
    "data check pets --fix",
    "data get mnist --data-dir",
    "data import cifar10 file --data-dir",
    "lessons --html --out",
    "backends fashion_mlp --out",
    "ladder plan --out",
    "ladder ablation cifar_speedrun --hours 1 --out",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("file", "image.png"):
        (tmp_path / name).touch()
    for run in ("runs/fashion_mlp/20261124-101500", "runs/fashion_mlp/20261125-101500"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="takes /proc")
@pytest.mark.parametrize("place", PLACES)
def test_where_nothing_can_be_written_is_said_with_the_option(place, here, capsys):
    for words in WRITERS:
        name = f"{place}.png" if "backends" in words else place
        name = f"{place}/mine.py" if words.startswith("new") else name
        assert main([*words.split(), name]) == 2, words
        said = capsys.readouterr().err
        assert said.startswith(f"kerascnn: {words.split()[-1]} {name}"), said
        assert said.count("\n") == 1
        assert "Errno" not in said
    assert not (here / "file").read_bytes()


def test_every_option_that_is_checked_is_one_of_these():
    written = {"out", "explain", "figures", "fix"}
    found = set()
    for command in COMMANDS:
        fields = getattr(command.found, "__dataclass_fields__", {})
        found |= {(command.name, name) for name in written & {*fields}}
    listed = {
        (next(c.name for c in reversed(COMMANDS) if words.startswith(c.name)), option)
        for words in WRITERS
        for option in [words.rpartition("--")[2]]
    }
    assert found - listed == {("bench gpu-report", "out"), ("ladder run", "out")}


TAKERS = [
    "resume {}",
    "predict {} image.png",
    "evaluate {}",
    "export {} --to onnx",
    "demo {}",
    "report {}",
    "compare {} {}",
    "run fashion_mlp --resume {}",
    "run fashion_mlp --weights {}",
    "cookbook add {}",
]


@pytest.mark.parametrize("folder", ["runs/fashion_mlp", "runs"])
def test_a_folder_of_runs_is_answered_by_the_runs_in_it(folder, here, capsys):
    for words in TAKERS:
        assert main(shlex.split(words.format(folder, folder))) == 2, words
        said = capsys.readouterr().err
        assert f"{folder} is no run, and holds 2: name one, of " in said, words
        for time in ("20261124", "20261125"):
            assert f"runs/fashion_mlp/{time}-101500" in said


@pytest.mark.parametrize("number", range(12))
def test_a_list_leaves_out_two_or_more_or_nothing(number):
    said = text.listed(map(str, range(number)), most=6).split(", ")
    more = [re.fullmatch(r"(\d+) more", word) for word in said]
    left_out = sum(int(match[1]) for match in more if match)
    assert left_out != 1
    assert sum(not match for match in more) + left_out == max(number, 1)
    assert len(said) <= 7


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_json_has_letters_where_the_output_has_them(encoding, monkeypatch):
    value = {"Đèn đỏ": 1, "chó": "狗", "café": ["\udcff.png"][:0]}
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    text.print_json(value)
    text.print_json({"file": "a\udcff.png"})  # a name whose bytes are no letters
    stream.flush()
    first, second = raw.getvalue().decode(encoding).splitlines()
    assert json.loads(first) == value
    assert json.loads(second) == {"file": "a\udcff.png"}
    assert ("\\u" in first) == (encoding != "utf-8")


def test_what_to_install_is_what_the_extras_hold():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, packages in text.EXTRAS.items():
        held = project["optional-dependencies"].get(name, [])
        bare = [re.split("[>=]", each)[0] for each in held]
        assert shlex.split(packages) == (bare or ["jax"]), name
    assert text.install("torch", "gpu") == "pip install torch 'jax[cuda12]'"
    for file in (ROOT / "kerascnn").rglob("*.py"):
        assert "kerascnn[" not in file.read_text("utf-8"), file
