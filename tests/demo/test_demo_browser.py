"""The page of a network in a browser: it says what `predict` says, and shows why."""

import base64
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from page import chromium
from page.test_browser import WIDE, serious
from PIL import Image

from kerascnn import data
from kerascnn.cli import commands
from kerascnn.prediction import files, shipped

pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(not chromium.path(), reason="no Chromium: set CHROME_PATH"),
    pytest.mark.skipif(sys.platform == "win32", reason="speaks over POSIX pipes"),
]
MAPPED = "document.querySelector('#heat').ariaLabel.startsWith('Occlusion map')"
SHAPE = (28, 28, 1)


def wait(page, expression, seconds=60):
    end = time.monotonic() + seconds
    while not page.value(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def opened(file, profile):
    browser = chromium.Page(profile)
    browser.see(1280)
    browser.open(file)
    return browser


def told(browser):
    """What the browser has said of the page, and which addresses the page asked for."""
    said = [e["entry"]["text"] for e in browser.heard("Log.entryAdded")]
    said += [
        e["exceptionDetails"]["text"] for e in browser.heard("Runtime.exceptionThrown")
    ]
    said += [str(e["args"]) for e in browser.heard("Runtime.consoleAPICalled")]
    asked = {
        e["request"]["url"][:40] for e in browser.heard("Network.requestWillBeSent")
    }
    return said, {url for url in asked if not url.startswith(("data:", "blob:"))}


@pytest.fixture(scope="module")
def page(file, tmp_path_factory):
    browser = opened(file, tmp_path_factory.mktemp("profile"))
    wait(browser, MAPPED)
    yield browser
    said, asked = told(browser)
    browser.close()
    assert not said
    assert {url[:5] for url in asked} == {"file:"}
    assert len(asked) == 1


@pytest.fixture(autouse=True)
def _upright(request):
    """Each test begins with the pictures as they are."""
    if "page" in request.fixturenames:
        page = request.getfixturevalue("page")
        if page.value("document.querySelector('#invert').checked"):
            page.click("#invert")


def probabilities(page):
    """The probabilities that the page shows, in the classes' order."""
    return page.value(
        "[...document.querySelectorAll('#bars data')].map(e => Number(e.value))"
    )


def seen(page):
    """The pixels that the network was given, as the page draws them."""
    found = page.value(
        "(() => {const c = document.querySelector('#seen'); return [...c.getContext("
        "'2d').getImageData(0, 0, c.width, c.height).data]})()"
    )
    side = round((len(found) / 4) ** 0.5)
    return np.array(found, "uint8").reshape(side, side, 4)[..., :3]


def drop(page, path):
    """Drop a file on the page as a hand does."""
    before = page.value("document.querySelector('#seen').ariaLabel")
    dragged = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.send("Input.dispatchDragEvent", type=kind, x=400, y=300, data=dragged)
    label = "document.querySelector('#seen').ariaLabel"
    wait(page, f"{label} !== {json.dumps(before)} && {MAPPED}")


@pytest.fixture
def photo(tmp_path):
    """A picture of another size, in colours, made anew so that each has a name."""
    rng = np.random.default_rng(time.monotonic_ns())
    rows = rng.integers(0, 256, (6, 9, 3), dtype="uint8")
    large = Image.fromarray(rows).resize((451, 305), Image.Resampling.BICUBIC)
    path = tmp_path / f"{time.monotonic_ns()}.png"
    large.save(path)
    return path


def test_a_test_image_is_answered_when_the_page_opens(page, run):
    page.click(".sample:nth-of-type(1)")
    wait(page, MAPPED)
    truth = int(page.value("document.querySelector('.sample').dataset.truth"))
    expected = run.predict(seen(page)[None, ..., :1])[0]
    assert probabilities(page) == pytest.approx(expected, abs=5e-4)
    names = run.config["data"]["classes"]
    answer = page.value("document.querySelector('#answer').textContent")
    best = int(expected.argmax())
    assert answer == f"{names[best]} {100 * expected[best]:.1f}%"
    said = page.value("document.querySelector('#truth').textContent")
    assert said == f"In truth: {names[truth]}. {'Right' if truth == best else 'Wrong'}."


def test_a_dropped_picture_has_the_probabilities_that_predict_gives(page, run, photo):
    drop(page, photo)
    wanted = files.picture(photo, SHAPE).image
    # The light of a colour may lie half-way between two whole numbers.
    away = abs(seen(page)[..., :1] - wanted.astype(int))
    assert away.max() <= 1
    assert away.mean() < 0.01
    assert probabilities(page) == pytest.approx(run.predict(wanted[None])[0], abs=5e-4)
    caption = page.value("document.querySelector('#seen-says').textContent")
    assert caption == "28 × 28 pixels, grey, the middle of 451 × 305"


@pytest.mark.parametrize("size", [(28, 28), (60, 60), (33, 90), (9, 7)])
def test_pictures_of_any_size_are_brought_to_the_network_s(page, tmp_path, size):
    rng = np.random.default_rng(size)
    path = tmp_path / f"{size}.png"
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype="uint8")).save(path)
    drop(page, path)
    wanted = files.picture(path, SHAPE).image.astype(int)
    # Before Pillow 13 rounding came in another order for what is much higher than wide.
    assert abs(seen(page)[..., :1] - wanted).max() <= (size == (33, 90))


def test_a_photograph_lies_as_the_camera_says(page, tmp_path):
    large = np.zeros((90, 120, 3), "uint8")
    large[:, :40] = 230  # a camera's left is the picture's top
    path = tmp_path / "photo.jpg"
    noted = Image.Exif()
    noted[0x0112] = 6
    Image.fromarray(large).save(path, exif=noted, quality=95)
    drop(page, path)
    wanted = files.picture(path, SHAPE).image.astype(int)
    assert wanted[0].min() > 200 > wanted[-1].max()
    assert abs(seen(page)[..., :1] - wanted).max() <= 3


def test_a_picture_may_be_chosen_or_pasted(page, run, photo):
    wanted = run.predict(files.picture(photo, SHAPE).image[None])[0]
    root = page.send("DOM.getDocument")["root"]["nodeId"]
    words = {"nodeId": root, "selector": "#file"}
    node = page.send("DOM.querySelector", **words)["nodeId"]
    page.send("DOM.setFileInputFiles", files=[str(photo)], nodeId=node)
    wait(page, f"document.querySelector('#seen').ariaLabel.endsWith('{photo.name}')")
    wait(page, MAPPED)
    assert probabilities(page) == pytest.approx(wanted, abs=5e-4)
    page.click(".sample")
    wait(
        page, MAPPED + " && document.querySelector('#seen').ariaLabel.includes('test')"
    )
    content = base64.b64encode(photo.read_bytes()).decode()
    page.value(
        f"(() => {{const bytes = Uint8Array.from(atob('{content}'), c => "
        "c.charCodeAt(0)); const held = new DataTransfer(); "
        "held.items.add(new File([bytes], 'pasted.png', {type: 'image/png'})); "
        "dispatchEvent(new ClipboardEvent('paste', {clipboardData: held}))})()"
    )
    wait(page, "document.querySelector('#seen').ariaLabel.endsWith('pasted.png')")
    wait(page, MAPPED)
    assert probabilities(page) == pytest.approx(wanted, abs=5e-4)


def test_what_is_no_picture_is_said_to_be_none(page, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    dragged = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.send("Input.dispatchDragEvent", type=kind, x=400, y=300, data=dragged)
    state = "document.querySelector('#state').textContent"
    wait(page, f"{state}.includes('read broken.png as a picture')")


def test_an_image_unlike_the_training_set_is_said_to_be_so(page, run, tmp_path):
    dark = data.load("fashion_mnist", "sample").test.images[1, ..., 0]
    path = tmp_path / "inverted.png"
    Image.fromarray(255 - dark).save(path)
    drop(page, path)
    said = "document.querySelector('#unlike').textContent"
    assert "its border is brighter" in page.value(said)
    assert "makes the picture like them" in page.value(said)
    page.click("#invert")
    wait(page, f"{MAPPED} && document.querySelector('#unlike').hidden")
    np.testing.assert_array_equal(seen(page)[..., 0], dark)
    expected = run.predict(dark[None, ..., None])[0]
    assert probabilities(page) == pytest.approx(expected, abs=5e-4)


def test_a_drawing_is_answered_line_by_line(page, run):
    page.click("#draw")
    wait(page, MAPPED)
    empty = probabilities(page)
    assert not seen(page).any()
    x, y = page.middle("#paper")
    steps = [("mousePressed", -80), ("mouseMoved", 0), ("mouseMoved", 80)]
    for kind, by in (*steps, ("mouseReleased", 80)):
        words = {"type": kind, "x": x + by, "y": y + by, "button": "left"}
        page.send("Input.dispatchMouseEvent", **words, clickCount=1, buttons=1)
    wait(
        page, f"{MAPPED} && document.querySelector('#seen').ariaLabel.includes('draw')"
    )
    drawn = seen(page)[..., :1]
    assert drawn[14, 14, 0] > 200 > drawn[2, 25, 0] == 0
    found = probabilities(page)
    assert found != empty
    assert found == pytest.approx(run.predict(drawn[None])[0], abs=5e-4)
    page.click("#draw")
    assert page.value("document.querySelector('#paper').hidden")


def test_the_map_says_what_the_network_says_of_covered_places(page, run, photo):
    drop(page, photo)
    pixels = files.picture(photo, SHAPE).image
    ring = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    edge = np.sort(ring.ravel())[ring.size // 2]
    images = np.stack([pixels] * 3)
    rows = 11, 14  # of 7 places the 4th, and the one below
    for image, row in zip(images[1:], rows, strict=True):
        image[row : row + 7, 11:18] = edge
    expected = run.predict(images)
    best = expected[0].argmax()
    name = run.config["data"]["classes"][best]
    page.value("document.querySelector('#heat').focus()")
    for key, shares in zip(("ArrowRight", "ArrowDown"), expected[1:], strict=True):
        page.send("Input.dispatchKeyEvent", type="keyDown", key=key)
        said = page.value("document.querySelector('#heat-at').textContent")
        share = f"{100 * shares[best]:.1f}%"
        assert said.startswith(f"Covered in the middle: {name} {share}"), key
    page.value("document.querySelector('#heat').blur()")
    assert page.value("document.querySelector('#heat-at').textContent") == ""


def test_the_map_is_warm_where_covering_costs_the_class(page, run, photo):
    drop(page, photo)
    pixels = files.picture(photo, SHAPE).image
    ring = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    starts = [0, 4, 7, 11, 14, 18, 21]
    places = [(row, column) for row in starts for column in starts]
    images = np.stack([pixels] * 50)
    for image, (row, column) in zip(images[1:], places, strict=True):
        image[row : row + 7, column : column + 7] = np.sort(ring.ravel())[54]
    found = run.predict(images)
    shares = found[:, found[0].argmax()]
    odds = np.log(shares / (1 - shares))
    total, count = np.zeros((2, 28, 28))
    for loss, (row, column) in zip(odds[0] - odds[1:], places, strict=True):
        total[row : row + 7, column : column + 7] += loss
        count[row : row + 7, column : column + 7] += 1
    colours = page.value(
        "(() => {const c = document.querySelector('#heat'); return [...c.getContext("
        "'2d').getImageData(0, 0, 28, 28).data]})()"
    )
    red, _, blue, _ = np.reshape(colours, (28, 28, 4)).transpose(2, 0, 1).astype(int)
    assert np.corrcoef((total / count).ravel(), (red - blue).ravel())[0, 1] > 0.9


def test_each_layer_shows_its_maps(page):
    drawn = page.value(
        "[...document.querySelectorAll('.stage canvas')].map(c => new Set(c.getContext("
        "'2d').getImageData(0, 0, c.width, c.height).data).size)"
    )
    assert len(drawn) == 4
    assert min(drawn) > 20  # shades
    high = "document.querySelectorAll('.stage canvas')[2].ariaLabel"
    assert page.value(high).startswith("8 of 16 maps")
    page.click(".stage:nth-child(3) button")
    assert page.value(high).startswith("16 of 16 maps")
    page.click(".stage:nth-child(3) button")


def test_a_class_may_be_chosen(page, run):
    page.click("#bars li:nth-child(2) button")
    name = run.config["data"]["classes"][1]
    pressed = "[...document.querySelectorAll('#bars [aria-pressed=true] span')]"
    assert page.value(f"{pressed}[0].textContent") == name
    assert page.value("document.querySelector('#heat').ariaLabel").endswith(name)
    matrix = page.value("document.querySelector('#page').textContent")
    matrix = np.array(json.loads(matrix)["matrix"])
    counts = page.value(
        "[...document.querySelectorAll('#known-bars data')].map(e => Number(e.value))"
    )
    assert counts[0] == matrix[1, 1] or matrix[1, 1] == 0
    others = np.sort(np.delete(matrix[1], 1))[::-1]
    assert counts[-1] in others
    text = page.value("document.querySelector('#called').textContent")
    assert f"{matrix[:, 1].sum()} images {name}" in text


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_it_fits_and_axe_has_nothing_serious_to_say(page, width, dark):
    page.see(width, dark=dark)
    for drawing in (False, True):
        if page.value("document.querySelector('#paper').hidden") == drawing:
            page.click("#draw")
        assert page.value(WIDE) <= width
        if "AXE_PATH" in os.environ:
            assert serious(page) == []
    page.click("#draw")
    page.see(1280)


def test_a_phone_offers_its_camera(page):
    shown = "getComputedStyle(document.querySelector('.photo')).display"
    assert page.value(shown) == "none"
    page.send("Emulation.setTouchEmulationEnabled", enabled=True)
    assert page.value(shown) != "none"
    page.send("Emulation.setTouchEmulationEnabled", enabled=False)
    capture = "document.querySelector('#photo').getAttribute('capture')"
    assert page.value(capture) == "environment"


def test_without_webassembly_or_scripts_the_page_says_so(file, tmp_path):
    browser = opened(file, tmp_path / "profile")
    source = "Object.defineProperty(window, 'WebAssembly', {value: undefined})"
    browser.send("Page.addScriptToEvaluateOnNewDocument", source=source)
    browser.open(file)
    state = "document.querySelector('#state').textContent"
    wait(
        browser, f"{state}.startsWith('The network can’t run here: WebAssembly is off')"
    )
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(file)
    text = browser.value("document.querySelector('main').innerText")
    assert "Scripts are off in this browser" in text
    browser.close()


@pytest.mark.slow
def test_the_network_that_comes_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.main(["demo"]) == 0
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (5, 7, 3), dtype="uint8")
    Image.fromarray(rows).resize((320, 240)).save(tmp_path / "photo.png")
    browser = opened(tmp_path / "demo.html", tmp_path / "profile")
    wait(browser, MAPPED)
    drop(browser, tmp_path / "photo.png")
    wanted = files.picture(tmp_path / "photo.png", (32, 32, 3)).image
    np.testing.assert_array_equal(seen(browser), wanted)
    expected = shipped.run(Path("cifar10")).predict(wanted[None])[0]
    assert probabilities(browser) == pytest.approx(expected, abs=5e-4)
    said, asked = told(browser)
    browser.close()
    assert not said
    assert len(asked) == 1
