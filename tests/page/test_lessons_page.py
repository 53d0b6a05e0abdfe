"""The page of the lessons: what they say, their tables as they are, their figures."""

import base64
import re

import pytest
from matplotlib.figure import Figure

from kerascnn.lessons import page as shared
from kerascnn.page import lessons


def lesson(name, title, **changes):
    figure = Figure(figsize=(10, 2))
    figure.subplots().plot([1, 2])
    parts = [("A table", ["", "b"], [["x", "1 2\n3 4"], ["<y>", "5"]]), "a note & more"]
    words = ["What `x < 1` means.", "In the figure: a line."]
    return lessons.Lesson(name, title, words, parts, figure)


@pytest.fixture(scope="module")
def html():
    made = [
        lesson("later", "Later, lectures 3 and 4: how?"),
        lesson("early", "Early, lecture 1, solution 2: why?"),
    ]
    return lessons.render(made)


def test_the_lessons_come_lecture_by_lecture_with_all_they_show(html):
    assert re.findall(r"<article id=\"(\w+)\"", html) == ["early", "later"]
    assert re.findall(r'<section id="lecture-(\d)"', html) == ["1", "3"]
    assert html.count("<h3>Early</h3>") == html.count(">Why?</p>") == 1
    assert html.count("<code>x &lt; 1</code>") == 2
    assert '<td class="matrix">1 2\n3 4</td>' in html
    assert '<th scope="row">&lt;y&gt;</th>' in html
    assert html.count("a note &amp; more") == 2
    assert "python -m kerascnn.lessons.early" in html
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 2
    assert all(base64.b64decode(each)[:4] == b"\x89PNG" for each in pictures)


def test_the_page_asks_for_nothing(html):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    assert "default-src &#39;none&#39;" in policy
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)


def test_each_lesson_names_its_lecture_and_says_what_it_shows():
    assert len(shared.names()) == 16
    for name in shared.names():
        said = shared.text(name)
        shown = lessons.Lesson(name, said.title, said.paragraphs, [], Figure())
        assert 1 <= shown.lecture <= 4, name
        assert shown.subject in said.title
        assert ", lecture" not in shown.subject
        assert len(shown.question) > 10
        # Those that a terminal shows: not the whole text, and not nothing.
        assert 0 < len(said.shows) <= len(said.paragraphs)
        assert not any(p.startswith("python -m") for p in said.paragraphs)
