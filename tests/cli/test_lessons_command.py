"""`kerascnn lessons`: the list, and all lessons as one page."""

import re

import pytest

from kerascnn.cli import commands
from kerascnn.lessons import page


@pytest.mark.parametrize("width", ["60", ""])
def test_each_lesson_is_listed_whole(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", width)
    assert commands.main(["lessons"]) == 0
    out = capsys.readouterr().out
    listed = " ".join(out.split())
    for name in page.names():
        assert f"{name} {page.text(name).title[:20]}" in listed
    assert width or "epoch after epoch?" in out


@pytest.mark.parametrize(
    ("words", "path", "names"),
    [
        (["--html"], "runs/lessons/lessons.html", ["edges", "padding"]),
        (["--html", "-o", "all.html"], "all.html", ["padding"]),
    ],
)
def test_the_page_has_the_lessons_tables_and_figures(
    words, path, names, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "names", lambda: names)
    assert commands.main(["lessons", *words]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    html = (tmp_path / path).read_text("utf-8")
    assert re.findall(r'<article id="(\w+)"', html) == names
    assert "1,818,890" in html  # the parameters of the padding lesson's network
    assert html.count("data:image/png;base64,") == len(names)
    files = {each.name for each in tmp_path.rglob("*") if each.is_file()}
    assert files == {path.rpartition("/")[2]}  # no figure beside it


@pytest.mark.slow
def test_the_page_of_all_lessons_is_small_enough_to_mail(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.main(["lessons", "--html"]) == 0
    html = (tmp_path / "runs/lessons/lessons.html").read_text("utf-8")
    assert len(re.findall(r'<article id="', html)) == 16
    assert html.count("data:image/png;base64,") == 16
    assert len(html.encode()) < 4_000_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "a.html"], "--out is for --html"),
        (["--html", "-o", "no/a.html"], "there is no folder no"),
        (["--html", "-o", "."], "is a folder: name a file in it"),
    ],
)
def test_a_page_that_is_not_written(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert commands.main(["lessons", *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
