"""The page of a network: one file that can load nothing, and what lies in it."""

import base64
import gzip
import hashlib
import html.parser
import io
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from sklearn import metrics

import kerascnn
from kerascnn import UsageError, data
from kerascnn.cli import commands
from kerascnn.prediction import shipped

onnxruntime = pytest.importorskip("onnxruntime")
graph = pytest.importorskip("kerascnn.demo.graph")

RUNTIME = Path(graph.__file__).parent / "onnxruntime_web"


class Reader(html.parser.HTMLParser):
    """The tags of a page with their attributes and, of each, the text inside."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.texts[-1] += text

    def all(self, tag):
        pairs = zip(self.tags, self.texts, strict=True)
        return [(a, text) for (name, a), text in pairs if name == tag]

    def data(self, name):
        return next(text for a, text in self.all("script") if a.get("id") == name)


@pytest.fixture(scope="module")
def page(file):
    return Reader(file.read_text("utf-8"))


@pytest.fixture(scope="module")
def network(page):
    return gzip.decompress(base64.b64decode(page.data("network")))


@pytest.fixture(scope="module")
def images():
    return np.asarray(data.load("fashion_mnist", "sample").test.images[:20])


def outputs(content, names, images):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(names, {"image": images})


def sha(text):
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def test_the_policy_lets_the_page_connect_to_nothing(page):
    (policy,) = [
        a["content"]
        for a, _ in page.all("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    (script,) = [text for a, text in page.all("script") if a.get("type") == "module"]
    (style,) = [text for _, text in page.all("style")]
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": sha(style),
        "script-src": f"{sha(script)} 'wasm-unsafe-eval'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    held = {a.get("type") for a, _ in page.all("script")}
    assert held == {"module", "application/json", "application/octet-stream"}


def test_nothing_in_the_page_is_an_address(page):
    for tag, attributes in page.tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/png;base64,", "#")), (tag, value[:80])
    assert "sourceMappingURL" not in page.all("script")[-1][1]


def test_what_runs_the_network_is_npm_s(page):
    told = dict(
        re.findall(r"`(\S+)` \| `(\w{64})`", (RUNTIME / "README.md").read_text())
    )
    bundle = (RUNTIME / "ort.wasm.bundle.min.mjs").read_bytes()
    packed = (RUNTIME / "ort-wasm-simd-threaded.wasm.gz").read_bytes()
    assert told == {
        "ort.wasm.bundle.min.mjs": hashlib.sha256(bundle).hexdigest(),
        "ort-wasm-simd-threaded.wasm": hashlib.sha256(
            gzip.decompress(packed)
        ).hexdigest(),
    }
    assert base64.b64decode(page.data("runtime")) == packed
    (script,) = [text for a, text in page.all("script") if a.get("type") == "module"]
    assert script.startswith(bundle.decode().partition("export{")[0])
    assert (RUNTIME / "LICENSE").read_text() in page.all("pre")[0][1]


def test_the_size_is_stated(run, file, capsys):
    assert commands.main(["demo", str(run.folder)]) == 0  # over the page that is there
    size = file.stat().st_size
    assert size < 6e6
    assert capsys.readouterr().out.startswith(f"{file}: {size / 1e6:.1f} MB;")


def test_the_network_in_the_page_gives_keras_s_logits(run, network, images):
    expected = keras.saving.load_model(run.folder / "model.keras").predict(images)
    (found,) = outputs(network, ["logits"], images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_maps_are_those_of_keras_s_layers(run, page, network, images):
    stages = json.loads(page.data("page"))["stages"]
    assert [stage["says"].partition("(")[0] for stage in stages] == [
        *("Conv2D", "MaxPooling2D", "Conv2D", "MaxPooling2D")
    ]
    model = keras.saving.load_model(run.folder / "model.keras")
    net = model.layers[-1]
    kinds = layers.Conv2D, layers.MaxPooling2D
    chosen = [layer.output for layer in net.layers if isinstance(layer, kinds)]
    values = images.astype("float32") / 127.5 - 1
    expected = keras.Model(net.input, chosen).predict(values)
    found = outputs(network, [stage["output"] for stage in stages], images)
    for stage, ours, keras_s in zip(stages, found, expected, strict=True):
        assert ours.shape[1:] == (stage["maps"], stage["height"], stage["width"])
        np.testing.assert_allclose(ours.transpose(0, 2, 3, 1), keras_s, atol=1e-5)


def test_the_matrix_is_scikit_learn_s(run, page):
    split = data.load("fashion_mnist", "sample").test
    labels = np.asarray(split.labels[:400])
    model = keras.saving.load_model(run.folder / "model.keras")
    said = model.predict(np.asarray(split.images[:400])).argmax(1)
    expected = metrics.confusion_matrix(labels, said, labels=np.arange(10))
    np.testing.assert_array_equal(json.loads(page.data("page"))["matrix"], expected)


def test_the_images_to_click_are_test_images_and_say_their_class(page, run):
    names = run.config["data"]["classes"]
    samples = [a for a, _ in page.all("button") if a.get("class") == "sample"]
    pictures = [a["src"] for a, _ in page.all("img")]
    assert len(samples) == len(pictures) > 10
    split = data.load("fashion_mnist", "sample").test
    known = {i.tobytes(): n for i, n in zip(split.images, split.labels, strict=True)}
    for attributes, picture in zip(samples, pictures, strict=True):
        content = base64.b64decode(picture.partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        assert known[pixels.tobytes()] == int(attributes["data-truth"]) < len(names)


def tangled():
    image = keras.Input((8, 8, 3))
    first = layers.Conv2D(4, 3, padding="same", name="first")(image)
    x = layers.ReLU()(layers.BatchNormalization()(first))
    second = layers.Conv2D(4, 3, padding="same", name="second")(layers.Dropout(0.5)(x))
    x = layers.ReLU()(second)
    x = layers.Add(name="sum")([x, second])  # goes past the ReLU
    x = layers.MaxPooling2D(8, name="one_pixel")(x)
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))


def test_a_stage_holds_what_nothing_goes_past():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1.0)])
    _, stages = graph.of_model(keras.Model(model.inputs, tangled()(model.outputs[0])))
    assert [stage.says.replace(", same", "") for stage in stages] == [
        "Conv2D(4, 3 × 3) + BatchNormalization + ReLU",
        "Conv2D(4, 3 × 3)",
        "Add",
    ]


@pytest.mark.parametrize("exact", [True, False])
def test_arrays_are_halved_where_that_changes_nothing(exact):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten()])
    model.add(layers.Dense(500))
    kernel = np.random.default_rng(0).normal(size=(192, 500)).astype("float32")
    if exact:
        kernel = kernel.astype("float16").astype("float32")
    model.layers[-1].kernel.assign(kernel)
    content, _ = graph.of_model(model)
    assert (len(content) < 3 * kernel.size) is exact
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype="uint8")
    (found,) = outputs(content, ["logits"], images)
    expected = images.reshape(3, -1).astype("float64") @ kernel
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


def test_what_comes_with_the_package_has_the_matrix_of_the_test_set():
    for name in shipped.names():
        result = shipped.run(Path(name)).result
        matrix = np.array(result["confusion"])
        accuracy = result["in_half_precision"]["test_accuracy"]
        assert np.trace(matrix) / matrix.sum() == pytest.approx(accuracy)
        assert len({*matrix.sum(1)}) == 1  # as many images of each class


def test_a_file_that_is_none_of_ours_stays(run, tmp_path, capsys):
    other = tmp_path / "demo.html"
    other.write_text("<p>mine")
    assert commands.main(["demo", str(run.folder), "-o", str(other)]) == 2
    assert "is no page of this command: name another" in capsys.readouterr().err
    assert other.read_text() == "<p>mine"


def test_a_network_for_images_of_any_size_is_refused(run, monkeypatch):
    net = keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(10, 3)])
    net.add(layers.GlobalAveragePooling2D())
    monkeypatch.setattr(type(run), "model", lambda self: net)
    with pytest.raises(UsageError, match="takes images of any size"):
        run.demo()


def test_a_network_that_no_browser_opens_is_refused(run, monkeypatch):
    from kerascnn.demo import page as writing

    monkeypatch.setattr(writing, "MOST", 100_000)
    with pytest.raises(UsageError, match=r"the network takes \d+ kB, and browsers"):
        run.demo()


def test_a_class_that_looks_like_markup_stays_text(run, page, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["data"]["classes"][0] = name = "</script><img src=x onerror=alert(1)>"
    (folder / "config.json").write_text(json.dumps(config))
    found = Reader(kerascnn.Run(folder).demo().read_text("utf-8"))
    assert json.loads(found.data("page"))["classes"][0] == name
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in page.tags]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "there is no run in nowhere"),
        (["RUN", "-o", "."], "is a folder"),
        (["RUN", "-o", "no/such.html"], "there is no folder no"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    words = [str(run.folder) if word == "RUN" else word for word in words]
    assert commands.main(["demo", *words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_missing_package_is_named_with_its_extra(run, monkeypatch):
    from kerascnn.export import formats

    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install onnx onnxruntime"):
        run.demo()
