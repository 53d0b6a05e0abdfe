"""The page that the lessons share, and the examples in their docstrings."""

import doctest
import importlib
import sys

import keras
import pytest

from kerascnn import UsageError
from kerascnn.lessons import page


def test_figure_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(page.figure_path("padding", [])) == "padding.png"
    assert str(page.figure_path("padding", ["--out", "a.PNG"])) == "a.PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a.jpg"], "a.jpg: expected a file that ends in .png"),
        (["--out", "no/a.png"], "no/a.png: there is no folder no"),
        (["--out", "folder.png"], "folder.png: it cannot be written"),
        (["--oot", "a.png"], "did you mean --out"),
        (["a.png"], "a.png"),
    ],
)
def test_a_figure_path_that_does_not_fit(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match=message) as mistake:
        page.figure_path("padding", words)
    assert "\n" not in str(mistake.value)


def test_table_prints_its_cells_as_they_are(capsys):
    page.table("A title", ["", "b"], [["x", "[2, 3]"], ["y", 1.5]])
    printed = capsys.readouterr().out
    assert "A title" in printed
    # rich would take brackets for a style.
    assert "[2, 3]" in printed
    assert "1.5" in printed


def test_save(tmp_path, capsys):
    path = tmp_path / "a.png"
    page.save(page.figure(2, 1), path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert capsys.readouterr().out == f"figure: {path}\n"
    with pytest.raises(UsageError, match="cannot be written"):
        page.save(page.figure(2, 1), tmp_path / "no" / "a.png")


def test_needs_jax(monkeypatch):
    page.needs_jax("skip")
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    with pytest.raises(UsageError, match=r"lesson skip .* tensorflow"):
        page.needs_jax("skip")


def test_run_passes_the_words_and_turns_a_mistake_into_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["padding", "--out", "a.png"])
    seen = []
    with pytest.raises(SystemExit) as end:
        page.run(seen.extend)
    assert (end.value.code, seen) == (0, ["--out", "a.png"])

    def mistaken(words):
        raise UsageError("no such thing")

    with pytest.raises(SystemExit) as end:
        page.run(mistaken)
    assert end.value.code == 2
    assert capsys.readouterr().err == "kerascnn: no such thing\n"


@pytest.mark.parametrize(
    "name",
    ["batch_norm", "convolution", "downsampling", "padding", "vanishing_gradient"],
)
def test_the_docstrings_examples(name):
    lesson = importlib.import_module(f"kerascnn.lessons.{name}")
    results = doctest.testmod(lesson)
    assert results.attempted > 0
    assert results.failed == 0
