"""The page in a browser: nothing is loaded, nothing fails, all of it can be used."""

import os
import sys
from pathlib import Path

import pytest

import kerascnn
from kerascnn import data
from kerascnn.page import document, evidence, lessons
from kerascnn.runs import Run
from page import chromium, test_lessons_page

pytestmark = [
    pytest.mark.skipif(not chromium.path(), reason="no Chromium: set CHROME_PATH"),
    pytest.mark.skipif(sys.platform == "win32", reason="speaks over POSIX pipes"),
]


@pytest.fixture(
    scope="module", params=["sample", pytest.param("full", marks=pytest.mark.slow)]
)
def file(request, tmp_path_factory):
    """The page of a run on the sample, and of one on the whole set.

    KERASCNN_FULL_RUN may name the folder of the latter, of two epochs or more; else
    LeNet trains two.
    """
    folder = tmp_path_factory.mktemp("page")
    if request.param == "sample":
        seen = request.getfixturevalue("found")
    else:
        seen = evidence.gather(full_run(folder))
        assert len(seen.outcome.labels) == 10_000
    return document.save(document.render(seen), folder / "report.html")


def full_run(folder):
    if named := os.environ.get("KERASCNN_FULL_RUN"):
        return Run(Path(named))
    if data.prepared("fashion_mnist", os.environ.get("TFDS_DATA_DIR")) is None:
        pytest.skip("TFDS_DATA_DIR does not hold the full fashion_mnist")
    options = {"epochs": 2, "data": "full", "report": False, "record": "full"}
    return kerascnn.train("fashion_lenet", **options, out=folder / "run")


@pytest.fixture
def page(file, tmp_path):
    browser = chromium.Page(tmp_path / "profile")
    browser.see(1280)
    browser.open(file)
    yield browser
    told = [e["entry"]["text"] for e in browser.heard("Log.entryAdded")]
    told += [
        e["exceptionDetails"]["text"] for e in browser.heard("Runtime.exceptionThrown")
    ]
    told += [str(e["args"]) for e in browser.heard("Runtime.consoleAPICalled")]
    asked = {
        e["request"]["url"][:40] for e in browser.heard("Network.requestWillBeSent")
    }
    browser.close()
    assert not told
    assert not {url for url in asked if not url.startswith(("file:", "data:"))}
    assert len({url for url in asked if url.startswith("file:")}) == 1


WIDE = "document.documentElement.scrollWidth"


def test_a_cell_opens_its_images(page):
    assert (
        page.value("getComputedStyle(document.querySelector('.cell')).display")
        == "none"
    )
    page.click("table.confusion a[data-cell]")
    opened = "[...document.querySelectorAll('.cell.open')].map(e => e.id)"
    name = page.value("document.querySelector('table.confusion a').hash.slice(1)")
    assert page.value(opened) == [name]
    tile = f"document.querySelector('#{name} .tile').getBoundingClientRect().width"
    assert page.value(tile) > 40
    # The keyboard goes from cell to cell, and Escape closes.
    for key in ("ArrowRight", "ArrowDown", "Escape"):
        page.send("Input.dispatchKeyEvent", type="keyDown", key=key)
    assert page.value(opened) == []


def test_a_cell_stays_under_the_pointer_and_looks_chosen(page):
    """Whatever opens below it, and closes above."""
    cells = "[...document.querySelectorAll('table.confusion a')]"
    count = page.value(f"{cells}.length")
    for at in (0, count // 2, count - 1, 0):
        cell = page.value(f"{cells}[{at}].hash")
        selector = f"a[href='{cell}']"
        page.value(f'document.querySelector("{selector}").scrollIntoView(false)')
        place = page.value(f"{cells}[{at}].getBoundingClientRect().top")
        page.value(f"{cells}[{at}].click()")
        moved = page.value(f"{cells}[{at}].getBoundingClientRect().top") - place
        assert abs(moved) < 1
        chosen = "[...document.querySelectorAll('a[aria-current]')].map(e => e.hash)"
        assert page.value(chosen) == [cell]
        below = f"{cells}[{at}].closest('tr').nextSibling.querySelector('.open').id"
        assert page.value(below) == cell[1:]
    page.value(f"{cells}[0].click()")
    assert page.value("document.querySelectorAll('.cell.open').length") == 0


def test_a_chart_says_the_values_under_the_pointer(page):
    said = "document.querySelector('.legend .at').textContent"
    last = page.value(said)
    assert last.removeprefix("epoch ").isdecimal()
    page.value("document.querySelector('.plot svg').scrollIntoView({block: 'center'})")
    x, y = page.middle(".plot svg", 0.13)
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert page.value(said) == "epoch 1"
    page.value("document.querySelector('.plot svg').focus()")
    page.send("Input.dispatchKeyEvent", type="keyDown", key="End")
    assert page.value(said) == last


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_window(page, width, dark):
    page.see(width, dark=dark)
    assert page.value(WIDE) <= width
    back = "getComputedStyle(document.body).backgroundColor"
    assert (page.value(back) == "rgb(255, 255, 255)") is not dark


def test_the_page_prints(page):
    printed = page.send("Page.printToPDF", printBackground=False)["data"]
    assert len(printed) > 1 << 16


def test_without_scripts_a_link_opens_the_images(page, file):
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.open(file)
    page.click("table.confusion a[data-cell]")
    assert (
        page.value("getComputedStyle(document.querySelector(':target')).display")
        == "block"
    )


def test_the_lessons_page_fits_and_axe_has_nothing_serious_to_say(page, tmp_path):
    made = [
        test_lessons_page.lesson(f"l{n}", f"{n}, lecture {n}: " + "why " * 30)
        for n in (1, 2, 3, 4)
    ]
    file = document.save(lessons.render(made), tmp_path / "lessons.html")
    for width, dark in ((390, False), (1280, False), (1280, True)):
        page.see(width, dark=dark)
        page.open(file)
        assert page.value(WIDE) <= width
        if "AXE_PATH" in os.environ:
            assert serious(page) == []


def serious(page):
    """What axe-core finds on the page that is open, and calls serious."""
    page.value(Path(os.environ["AXE_PATH"]).read_text("utf-8") + "; 0")
    found = page.value(
        "axe.run().then(r => r.violations.map(v => [v.impact, v.id, "
        "v.nodes.slice(0, 3).map(n => n.html.slice(0, 120))]))"
    )
    return [each for each in found if each[0] in ("serious", "critical")]


@pytest.mark.skipif("AXE_PATH" not in os.environ, reason="no axe-core: set AXE_PATH")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_has_nothing_serious_to_say(page, width, dark):
    page.see(width, dark=dark)
    assert serious(page) == []
