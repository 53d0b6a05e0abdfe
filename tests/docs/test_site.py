"""The documentation names what exists, and its site has no broken link or picture."""

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import kerascnn
from kerascnn.cli import commands
from kerascnn.lessons import page

ROOT = Path(kerascnn.__file__).parents[1]
DOCS = ROOT / ".docs"
WRITTEN = sorted([*DOCS.glob("*.md"), *DOCS.glob("*/*.md"), *DOCS.glob("*/*.py")])
TEXTS = {file.relative_to(DOCS).as_posix(): file.read_text("utf-8") for file in WRITTEN}
WHOLE = "\n".join(TEXTS.values())
TEXTS_OF = {file.name: file.read_text("utf-8") for file in DOCS.glob("*.py")}


def found(dotted):
    """Return what a dotted name leads to."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            at = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for name in parts[n:]:
            at = getattr(at, name)
        return at
    raise AssertionError(dotted)


NAMES = sorted(set(re.findall(r"(?:\{py:\w+\}`|auto\w+:: )(kerascnn[\w.]*)", WHOLE)))
MEMBERS = re.findall(r"auto\w+:: (\S+)\n   :members: (.+)", WHOLE)
# Shell commands: lines of sh blocks, and cells' lines that begin with "# !".
LINES = [
    line.partition("#")[0].split()[1:]
    for block in re.findall(r"^```sh\n(.*?)^```", WHOLE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("kerascnn ")
] + [
    line.split()[:4] for line in re.findall(r"^# !kerascnn (.*)$", WHOLE, re.MULTILINE)
]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_exists(name):
    assert found(name) is not None


@pytest.mark.parametrize(("name", "members"), MEMBERS)
def test_each_member_exists_and_is_described(name, members):
    for member in members.split(", "):
        assert not member.startswith("_")
        assert getattr(found(name), member).__doc__, f"{name}.{member}"


def test_each_public_name_has_a_place():
    documented = set(re.findall(r"auto(?:function|class|exception):: (\S+)", WHOLE))
    assert {f"kerascnn.{name}" for name in kerascnn.__all__} <= documented


def test_each_command_and_recipe_exists():
    groups = {name.split()[0] for name in commands.names()}
    assert len(LINES) > 15
    for first, *words in LINES:
        assert first in groups, first
        for word in words:
            named = re.fullmatch(r"(cifar|fashion|imagenet)_[a-z0-9_]+", word)
            assert not named or word in kerascnn.names() or word == "fashion_mnist"


@pytest.mark.parametrize("page", [page for page in TEXTS if page.endswith(".md")])
def test_each_written_link_and_picture_is_there(page):
    made = re.compile(r"generated/(recipes|lessons|notebooks|readme|code|\w+)")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)|```\{include\} (\S+)", TEXTS[page])
    for target in (one or other for one, other in targets):
        file = ((DOCS / page).parent / target).resolve()
        assert file.exists() or made.search(file.as_posix()), target


@pytest.fixture
def pages(monkeypatch):
    """The module that makes pages."""
    pytest.importorskip("jupytext")
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("pages")


def test_each_page_is_in_the_contents_or_moved_into_one(pages):
    """What Sphinx says of others only when it builds."""
    listed = {"index.md"}
    for name, text in TEXTS.items():
        for names in re.findall(r"^:::\{toctree\}\n(.*?)^:::", text, re.M | re.S):
            lines = [line for line in names.split() if not line.startswith(":")]
            place = name.rpartition("/")[0]
            listed |= {f"{place}/{each}.md".lstrip("/") for each in lines}
    excluded = re.findall(r'"([^"]+\.md)"', TEXTS_OF["conf.py"])
    for file in DOCS.rglob("*.md"):
        name = file.relative_to(DOCS).as_posix()
        if name.startswith("generated/"):
            continue
        moved = f".docs/{name}" in pages.MADE and name in excluded
        assert moved or name in listed, name
    made = {name for name in pages.MADE.values() if name.count("/") == 1}
    assert made - listed <= {pages.MADE["README.md"]}


def test_guides_include_parts_that_readme_has(pages):
    included = set(re.findall(r"generated/readme/(\w+)\.md", WHOLE))
    assert included == set(pages.PARTS)
    readme = (ROOT / "README.md").read_text("utf-8")
    for begin in pages.PARTS.values():
        assert readme.count(begin) == 1, begin
    words = pages.moved(
        "[a](recipes/cifar_mlp/README.md) [b](LICENSE) ![c](recipes/staircase.svg)",
        *("README.md", "guides/guide.md"),
    )
    assert words == (
        "[a](../generated/recipes/cifar_mlp.md) b ![c](../../recipes/staircase.svg)"
    )


class Links(HTMLParser):
    """What a page links to and shows, and the places in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.fetched, self.places, self.pictures = [], [], {""}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("img", "script", "iframe", "source") and given.get("src"):
            self.fetched.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.fetched.append(given["href"])
        if tag == "img":
            self.pictures.append(given.get("alt", ""))


def walked(out):
    """Read a site's pages, whose links and pictures must lead somewhere."""
    read = {file: Links(file.read_text("utf-8")) for file in out.rglob("*.html")}
    for file, links in read.items():
        for target in links.fetched:
            assert not re.match(r"https?:|//", target), f"{file} fetches {target}"
        for target in links.links + links.fetched:
            if re.match(r"https?:|mailto:|data:", target):
                continue
            place, _, anchor = target.partition("#")
            place = unquote(place.partition("?")[0])
            other = (file.parent / place).resolve() if place else file
            assert other.exists(), f"{file}: {target}"
            assert other not in read or unquote(anchor) in read[other].places, (
                f"{file}: {target}"
            )
    return read


@pytest.mark.slow
def test_the_site_builds_and_holds_together(tmp_path):
    for package in ("sphinx", "furo", "myst_parser", "jupytext"):
        pytest.importorskip(package)
    out = tmp_path / "site"
    words = [sys.executable, str(DOCS / "build.py"), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    read = walked(out)
    assert len(read) > len(kerascnn.names()) + len(page.names())
    for curve in (ROOT / "recipes").glob("*/curve.png"):
        shown = read[out / "generated" / "recipes" / f"{curve.parent.name}.html"]
        assert "Loss and accuracy by epoch" in shown.pictures
    assert (out / "searchindex.js").exists()  # a script, which file:// may load
