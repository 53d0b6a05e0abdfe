import json
import os
import subprocess
import sys

import numpy as np
import pytest
from archive_files import tar
from test_importing import binary, official, part

from kerascnn import data, transforms
from kerascnn.cli import commands
from kerascnn.cli import data as data_command
from kerascnn.data.official import OFFICIAL


def kerascnn(*words):
    return subprocess.run(
        [sys.executable, "-m", "kerascnn", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "80"},
    )


def test_list_shows_samples_and_full_sets(tiny, tmp_path, capsys):
    tiny(name="cifar10")
    tiny(name="many", config="a")
    data_command.ListData(tmp_path / "data")()
    out = capsys.readouterr().out
    rows = {
        cells[0]: cells[1:]
        for line in out.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("│").split("│")]) > 3
    }
    assert rows["cifar10"] == ["40 + 10", "2,500 + 1,000", "1.0.0"]
    assert rows["fashion_mnist"] == ["not here", "2,500 + 1,000", "3.0.1"]
    assert rows["many/a"] == ["40 + 10", "none", "1.0.0"]
    assert str(tmp_path / "data") in out.replace("\n", "")
    assert "kerascnn data get" in out


def test_list_as_json_counts_each_split(tiny, tmp_path, capsys):
    tiny(name="cifar10")
    capsys.readouterr()
    data_command.ListData(tmp_path / "data", json=True)()
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(tmp_path / "data")
    sets = {each.pop("set"): each for each in found["sets"]}
    sample = {"test": 1000, "train": 2500}
    full = {"test": 10, "train": 40}
    assert sets["cifar10"] == {"full": full, "sample": sample, "version": "1.0.0"}
    assert sets["fashion_mnist"]["full"] is None
    assert sets["fashion_mnist"]["sample"] == sample


def test_list_passes_over_a_folder_that_is_no_set(tiny, tmp_path, capsys):
    tiny(name="cifar10")
    odd = tmp_path / "data" / "my-set" / "1.0.0"
    odd.mkdir(parents=True)
    (odd / "dataset_info.json").write_text("{}")
    data_command.ListData(tmp_path / "data")()
    assert "40 + 10" in capsys.readouterr().out


def test_list_of_a_damaged_set(tiny, tmp_path, capsys):
    (tiny() / "dataset_info.json").write_text("{")
    data_command.ListData(tmp_path / "data")()
    assert "damaged" in capsys.readouterr().out


def test_list_where_nothing_is(tmp_path, capsys):
    data_command.ListData(tmp_path / "[bold]none")()
    out = capsys.readouterr().out
    assert "not here" in out
    assert "[bold]none" in out.replace("\n", "")


def test_statistics_are_what_standard_takes(capsys):
    assert (
        commands.main(["data", "statistics", "fashion_mnist", "--data", "sample"]) == 0
    )
    shown = capsys.readouterr()
    assert "the bundled sample" in shown.err
    images = data.load("fashion_mnist", "sample").train.images.astype("float64") / 255
    mean, deviation = f"{images.mean():.4f}", f"{images.std():.4f}"
    assert "fashion_mnist, 2,500 training images" in shown.out
    assert f"mean ({mean},), deviation ({deviation},)" in shown.out
    call = shown.out.splitlines()[-1]
    assert call == f"transforms.standard(({mean},), ({deviation},))"
    scaled = eval(call, {"transforms": transforms})(images[:1] * 255)
    expected = (images[:1] - float(mean)) / float(deviation)
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


def test_get_says_what_is_here_already(tiny, tmp_path, capsys):
    folder = tiny(name="cifar10")
    capsys.readouterr()
    data_command.Get("cifar10", tmp_path / "data")()
    assert capsys.readouterr().out == f"cifar10 is already prepared in {folder}.\n"


def test_import_says_what_it_did(tmp_path, capsys, monkeypatch):
    splits = part("cifar10")
    archive = tmp_path / "file.tar.gz"
    archive.write_bytes(tar(binary(splits)))
    monkeypatch.setitem(OFFICIAL, "cifar10", official("cifar10", splits))
    data_command.Import("cifar10", archive, tmp_path / "data")()
    folder = tmp_path / "data" / "cifar10" / "3.0.2"
    assert capsys.readouterr().out == (
        f"cifar10 is prepared in {folder}: 50 + 20 images.\n"
    )
    data_command.Import("cifar10", archive, tmp_path / "data")()
    assert capsys.readouterr().out == (
        f"cifar10 is already prepared in {folder}: nothing to import.\n"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("get", "cifar11"), "did you mean cifar10"),
        (("import", "cifar10", "no_such_file"), "no_such_file does not exist"),
        (("import", "fashion_mnist", "."), "four files"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    answer = kerascnn("data", *words)
    assert answer.returncode == 2
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert expected in line
