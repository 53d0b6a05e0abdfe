"""What kerascnn/README.md says to whoever reads the code is so."""

import ast
import doctest
import re
from pathlib import Path

import pytest
import test_layering

import kerascnn

PACKAGE = Path(kerascnn.__file__).parent
README = PACKAGE / "README.md"
TEXT = README.read_text("utf-8")

NAMED = sorted(set(re.findall(r"`([\w/]+\.py)(?::(\w+))?`", TEXT)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_file_and_function_exists(file, name):
    folder = PACKAGE.parent if file.startswith("tests/") else PACKAGE
    tree = ast.parse((folder / file).read_text("utf-8"))
    kinds = ast.FunctionDef, ast.ClassDef
    defined = {node.name for node in tree.body if isinstance(node, kinds)}
    assert not name or name in defined


def test_every_room_has_a_line_and_exists():
    rooms = set(re.findall(r"`(\w+)(?:\.py|/)`", TEXT.partition("## Who")[0]))
    here = {p.stem for p in PACKAGE.iterdir() if p.is_dir() or p.suffix == ".py"}
    assert rooms == {room for room in here if room not in ("__pycache__", "__main__")}


def test_the_order_of_imports_is_the_layering_test_s():
    order = TEXT.partition("<!-- rooms -->")[2].partition("<!-- end -->")[0]
    assert re.findall(r"`(\w+)`", order) == test_layering.ROOMS


def test_the_example_prints_what_it_says():
    assert doctest.testfile(str(README), module_relative=False).failed == 0


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", ".docs/README.vi.md", "kerascnn/README.md"),
        *("recipes/README.md", "recipes/speed.md"),
    ],
)
def test_each_file_that_a_page_links_to_is_there(page):
    root = PACKAGE.parent
    text = (root / page).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", text)
    for link, anchor in links:
        assert (root / page).parent.joinpath(link or ".").exists(), link
        if not link:  # as GitHub makes them of headings
            heads = re.findall("^##? (.*)$", text, re.MULTILINE)
            assert anchor[1:] in [h.lower().replace(" ", "-") for h in heads]
