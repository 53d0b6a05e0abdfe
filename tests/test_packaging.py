"""The wheel and the source archive hold what git has, and say what the project is."""

import email
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import kerascnn

ROOT = Path(kerascnn.__file__).parents[1]


def run(*words, folder=ROOT):
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def tracked():
    """The files that git has, of the checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("the package is not in a checkout of git's")
    return {
        name for name in run("git", "ls-files").splitlines() if (ROOT / name).exists()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory, tracked):
    """A wheel, a source archive, and a wheel that is built from that."""
    pytest.importorskip("hatchling.build")
    place = tmp_path_factory.mktemp("built")

    def build(kind, folder):
        script = f"from hatchling.build import *; print(build_{kind}({str(place)!r}))"
        return place / run(sys.executable, "-c", script, folder=folder).split()[-1]

    archive = build("sdist", ROOT)
    with tarfile.open(archive) as file:
        names = file.getnames()
        file.extractall(place / "source", filter="data")
    (inside,) = (place / "source").iterdir()
    again = build("wheel", inside)
    again = again.rename(again.with_stem(f"{again.stem}-again"))
    return build("wheel", ROOT), {name.partition("/")[2] for name in names}, again


def files(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


def test_the_wheel_holds_the_packages_files_and_no_other(built, tracked):
    wheel, _, again = built
    package = {name for name in tracked if name.startswith("kerascnn/")}
    for name in tracked:
        if name.startswith("recipes/") and name.endswith((".jsonl", ".md")):
            package.add(f"kerascnn/cookbook/{name.removeprefix('recipes/')}")
    assert files(wheel) == package
    assert files(again) == package


def test_an_installed_package_knows_what_was_measured(built, tmp_path):
    zipfile.ZipFile(built[0]).extractall(tmp_path)
    # Another package's folder of this name is none of ours.
    (tmp_path / "recipes").mkdir()

    def said(place, *words):
        script = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
        script += "runpy.run_module('kerascnn', run_name='__main__')"
        return run(sys.executable, "-P", "-c", script, place, *words, folder=tmp_path)

    listed = said(tmp_path, "list", "--json")
    assert listed == said(ROOT, "list", "--json")
    assert any(row["test"] for row in json.loads(listed))
    for name in ("cifar_sigmoid", "cifar_speedrun"):
        shown = said(tmp_path, "show", name, "--json")
        assert json.loads(shown) == json.loads(said(ROOT, "show", name, "--json"))


def test_the_archive_holds_the_checkout(built, tracked):
    assert built[1] - {"PKG-INFO", ""} == tracked


def test_an_index_can_show_what_the_project_is(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith("/METADATA"))
        said = email.message_from_bytes(wheel.read(name))
        licences = [n for n in wheel.namelist() if "/licenses/" in n]
    assert (said["Name"], said["Version"]) == ("kerascnn", kerascnn.__version__)
    assert said["License-Expression"] == "Apache-2.0"
    assert len(licences) == 2
    assert "Typing :: Typed" in said.get_all("Classifier")
    assert {url.partition(",")[0] for url in said.get_all("Project-URL")} == {
        "Source",
        "Issues",
    }
    assert said["Description-Content-Type"] == "text/markdown"
    text = said.get_payload(decode=True).decode("utf-8")
    assert text.startswith("# kerascnn\n")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 15
    for link in links:
        assert link.startswith(("https://", "#")), link
        if place := re.fullmatch(r"https://github.com/ADDRESS/\w+/HEAD/(.*)", link):
            assert (ROOT / place[1]).exists(), link
