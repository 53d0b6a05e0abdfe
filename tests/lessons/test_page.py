"""The page that the lessons share, and the examples in their docstrings."""

import ast
import doctest
import importlib
import re
import sys
from pathlib import Path

import keras
import pytest

from kerascnn import UsageError
from kerascnn.lessons import page


def test_a_figure_goes_to_runs_lessons_unless_a_place_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = page.begin("padding", [])
    assert path.as_posix() == "runs/lessons/padding.png"
    assert path.parent.is_dir()
    assert str(page.begin("padding", ["--out", "a.PNG"])) == "a.PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a.jpg"], "a.jpg: expected a file that ends in .png"),
        (["--out", "no/a.png"], "no/a.png: there is no folder no"),
        (["--out", "folder.png"], "folder.png: it cannot be written"),
        (["--oot", "a.png"], "did you mean --out"),
        (["a.png"], "a.png"),
        ([], "runs/lessons can't be made"),
    ],
)
def test_a_figure_path_that_does_not_fit(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UsageError, match=message) as mistake:
        page.begin("padding", words)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize("width", [60, 80, None])
def test_a_lesson_begins_with_what_it_shows_in_its_docstring_s_words(
    width, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width or ""))
    for name in page.names():
        page.begin(name, [])
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= (width or page.WIDEST)
        source = importlib.util.find_spec(f"kerascnn.lessons.{name}").origin
        docstring = ast.get_docstring(ast.parse(Path(source).read_text("utf-8")))
        title, *rest = docstring.split("\n\n")
        wanted = [title, *(p for p in rest if re.search("table|figure", p))]
        assert " ".join(printed.split()) == " ".join(" ".join(wanted).split())
        assert len(wanted) > 1, name


def test_what_is_collected_is_neither_printed_nor_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with page.collected() as kept:
        path = page.begin("padding", [])
        page.table("A title", ["", "b"], [["x", 1.5]])
        page.note("a note")
        page.save(page.figure(2, 1), path)
    assert kept.parts == [("A title", ["", "b"], [["x", "1.5"]]), "a note"]
    assert kept.figure is not None
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
    page.note("printed again")
    assert capsys.readouterr().out == "printed again\n"


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
    monkeypatch.setattr(page.signals, "stop_quietly", lambda: None)  # it would stay
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
