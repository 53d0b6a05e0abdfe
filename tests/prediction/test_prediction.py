"""What a run's model says of image files, arrays and whole sets."""

import csv
import io
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

import kerascnn
from kerascnn import UsageError, data, describe, recipe
from kerascnn.cli import commands
from kerascnn.data import usual
from kerascnn.prediction import shipped


@pytest.fixture(scope="module")
def run(copied_lenet):
    return copied_lenet


@pytest.fixture(scope="module")
def test_set():
    return data.load("fashion_mnist", "sample").test


@pytest.fixture(scope="module")
def expected(run, test_set):
    """The probabilities, by Keras alone."""
    model = keras.saving.load_model(run.folder / "model.keras")
    logits = model.predict(test_set.images, verbose=0)
    return np.asarray(keras.activations.softmax(logits.astype("float64")))


@pytest.fixture
def folder(tmp_path, test_set):
    place = tmp_path / "images"
    (place / "inside").mkdir(parents=True)
    for number, image in enumerate(test_set.images[:5]):
        Image.fromarray(image[..., 0]).save(place / f"{number}.png")
    return place


@pytest.fixture
def predict(run, capfd):
    def call(*words):
        try:
            code = commands.main(["predict", str(run.folder), *map(str, words)])
        except SystemExit as end:
            code = end.code
        return code, *capfd.readouterr()

    return call


def test_arrays_have_the_probabilities_that_keras_gives(run, test_set, expected):
    found = run.predict(test_set.images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.sum(-1) == pytest.approx(1)
    assert run.predict(test_set.images[:0]).shape == (0, 10)


def test_views_are_the_mean_of_moved_and_mirrored_logits(run, test_set):
    images = test_set.images[:20]
    model = keras.saving.load_model(run.folder / "model.keras")
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [padded[:, y : y + 28, y : y + 28] for y in (0, 1, 2)]
    seen = [each for image in moved for each in (image, image[:, :, ::-1])]
    logits = np.mean([model.predict(each, verbose=0) for each in seen], axis=0)
    powers = np.exp(logits.astype("float64"))
    expected = powers / powers.sum(-1, keepdims=True)
    np.testing.assert_allclose(run.predict(images, views=True), expected, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 28, 28, 1), "float32"),
        np.zeros((28, 28, 1), "uint8"),
        np.zeros((2, 32, 32, 1), "uint8"),
        np.zeros((2, 28, 28, 3), "uint8"),
    ],
    ids=["floats", "one image", "another size", "colours"],
)
def test_other_arrays_are_refused(run, wrong):
    with pytest.raises(UsageError, match=r"expected uint8 of shape \(n, 28, 28, 1\)"):
        run.predict(wrong)


def test_files_have_the_probabilities_of_their_pixels(
    predict, folder, expected, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "")  # of who runs the tests
    code, out, err = predict(folder, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["file"] for row in rows] == [str(folder / f"{n}.png") for n in range(5)]
    found = [[*row["probabilities"].values()] for row in rows]
    np.testing.assert_allclose(found, expected[:5], atol=1e-5)
    classes = [*rows[0]["probabilities"]]
    assert [row["class"] for row in rows] == [
        classes[i] for i in expected[:5].argmax(1)
    ]

    code, out, _ = predict(folder, "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert [row["class"] for row in table] == [row["class"] for row in rows]
    assert float(table[0][classes[0]]) == pytest.approx(expected[0, 0], abs=1e-5)

    code, out, _ = predict(folder / "0.png", "--top", "2")
    line = next(line for line in out.splitlines() if "0.png" in line)
    best, then = expected[0].argsort()[::-1][:2]
    assert f"{classes[best]} {expected[0, best]:.1%}" in line
    assert f"{classes[then]} {expected[0, then]:.1%}" in line


def test_an_image_may_come_on_standard_input(predict, folder, expected, monkeypatch):
    content = io.BytesIO((folder / "3.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
    code, out, err = predict("-", "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    assert row["file"] == "-"
    assert [*row["probabilities"].values()] == pytest.approx(expected[3], abs=1e-5)


def test_other_sizes_are_brought_to_the_model_s(predict, run, tmp_path, test_set):
    wide = np.zeros((84, 112, 3), "uint8")
    large = test_set.images[0].repeat(3, 0).repeat(3, 1).repeat(3, 2)
    wide[:, 14:98] = large
    Image.fromarray(wide).save(tmp_path / "wide.png")
    code, out, err = predict(tmp_path / "wide.png", "--json")
    assert code == 0
    assert "cut to the centre and scaled to 28 x 28 pixels" in err
    resize = keras.layers.Resizing(
        28, 28, crop_to_aspect_ratio=True, antialias=True, dtype="float32"
    )
    small = np.asarray(resize(wide[None]))[..., :1].round().astype("uint8")
    found = [*json.loads(out)[0]["probabilities"].values()]
    assert found == pytest.approx(run.predict(small)[0], abs=0.01)


def test_files_that_cannot_be_read_are_named_and_passed_over(predict, folder):
    (folder / "inside" / "broken.png").write_bytes(b"no image")
    (folder / "inside" / "empty.jpg").write_bytes(b"")
    code, out, err = predict(folder, "--json")
    assert code == 1
    assert len(json.loads(out)) == 5
    assert "broken.png can't be decoded" in err
    assert "empty.jpg is empty" in err
    assert "2 images could not be used." in err


def test_images_that_would_be_passed_over_are_named(run, predict, tmp_path, test_set):
    inside = tmp_path / "inside"
    inside.mkdir()
    images = [Image.fromarray(image) for image in test_set.images[:5, ..., 0]]
    for image, name in zip(
        images, (".hidden.png", "text.txt", "photo", "a.ico", "b.PNG"), strict=True
    ):
        image.save(inside / name, "ico" if name == "a.ico" else "png")
    (inside / "list.csv").write_text("no image")
    code, out, err = predict(inside, "--json")
    assert code == 1
    assert [row["file"] for row in json.loads(out)] == [str(inside / "b.PNG")]
    for name in (".hidden.png", "text.txt", "photo", "a.ico"):
        assert f"{inside / name} is " in err
    assert "4 images could not be used." in err
    (inside / "b.PNG").unlink()
    code, out, err = predict(inside, "--json")
    assert (code, json.loads(out)) == (1, [])
    with pytest.raises(UsageError, match=r"\.hidden\.png is an image that is hidden"):
        kerascnn.predict(run, inside)


def test_images_unlike_the_training_set_are_said_to_be(predict, folder, test_set):
    dark = test_set.images[1, ..., 0]
    Image.fromarray(255 - dark).save(folder / "inside" / "inverted.png")
    code, out, err = predict(folder, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["unlike"] for row in rows[:5]] == [[]] * 5
    assert "its border is brighter" in rows[5]["unlike"]
    assert "1 image unlike those that the network was trained on" in err
    assert "--invert turns bright into dark" in err
    code, out, err = predict(folder / "inside", "--json", "--invert")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    assert row["unlike"] == []
    assert row["class"] == rows[1]["class"]


def test_usual_ranges_of_many_images_are_quantiles(test_set):
    images = np.tile(test_set.images, (8, 1, 1, 1))
    assert len(images) >= 2000
    light = images[..., 0].astype("float64")
    inner = light.copy()
    inner[:, 1:-1, 1:-1] = np.nan
    values = {
        "border": np.nanmean(inner, (1, 2)),
        "brightness": light.mean((1, 2)),
        "contrast": light.std((1, 2)),
    }
    for name, found in usual.ranges(images).items():
        low, high = np.quantile(values[name], [0.0005, 0.9995])
        assert found == pytest.approx([low, high], abs=0.051)


def test_where_the_network_looks_is_drawn(predict, folder, tmp_path):
    for _ in range(2):  # nothing is overwritten
        code, _, err = predict(folder / "0.png", "--explain", tmp_path / "drawn")
        assert (code, err) == (0, "")
    first, second = sorted((tmp_path / "drawn").iterdir())
    assert first.read_bytes() == second.read_bytes()
    drawn = np.asarray(Image.open(first))
    plain, heated = np.split(drawn, 2, axis=1)
    original = np.asarray(Image.open(folder / "0.png"))
    times = len(plain) // 28
    np.testing.assert_array_equal(plain[::times, ::times, 0], original)
    assert (heated != plain).any()


def test_a_set_s_figures_are_scikit_learn_s(run, test_set, expected, capfd):
    limited = test_set.labels[: len(test_set.labels)]
    assert commands.main(["evaluate", str(run.folder), "--json"]) == 0
    own = json.loads(capfd.readouterr().out)
    assert own["accuracy"] == pytest.approx(run.result["test_accuracy"])
    words = ["--dataset", "fashion_mnist", "--data", "sample", "--json"]
    assert commands.main(["evaluate", str(run.folder), *words]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["images"] == len(limited)
    right = metrics.accuracy_score(limited, expected.argmax(1))
    assert found["accuracy"] == pytest.approx(right)
    entropy = metrics.log_loss(limited, expected)
    assert found["crossentropy"] == pytest.approx(entropy, abs=1e-4)
    recalls = metrics.recall_score(limited, expected.argmax(1), average=None)
    names = run.config["data"]["classes"]
    for name, recall in zip(names, recalls, strict=True):
        row = found["classes"][name]
        assert row["right"] / row["images"] == pytest.approx(recall)


def test_folders_are_evaluated_by_the_names_of_their_classes(
    run, tmp_path, test_set, expected, capfd, monkeypatch
):
    names = run.config["data"]["classes"]
    chosen = ["Trouser", "Bag"]  # another order than the run's, and not all of it
    numbers = [i for i in range(100) if names[test_set.labels[i]] in chosen]
    for role in ("train", "test"):
        for i in numbers:
            place = tmp_path / "set" / role / names[test_set.labels[i]]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(test_set.images[i, ..., 0]).save(place / f"{i}.png")
    words = ["--dataset", str(tmp_path / "set"), "--json"]
    assert commands.main(["evaluate", str(run.folder), *words]) == 0
    found = json.loads(capfd.readouterr().out)
    right = np.mean(expected.argmax(1)[numbers] == test_set.labels[numbers])
    assert found["accuracy"] == pytest.approx(right)
    # The same where the memory does not hold the images.
    known, pages = os.sysconf, {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", lambda name: pages.get(name) or known(name))
    assert commands.main(["evaluate", str(run.folder), *words]) == 0
    assert json.loads(capfd.readouterr().out) == found
    (tmp_path / "set" / "train" / "Bag").rename(tmp_path / "set" / "train" / "Bags")
    (tmp_path / "set" / "test" / "Bag").rename(tmp_path / "set" / "test" / "Bags")
    assert commands.main(["evaluate", str(run.folder), *words]) == 2
    assert "there is no class of fashion_lenet called 'Bags'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "RUN"], "expected images"),
        (["predict", "RUN", "nowhere.png"], "there is no nowhere.png"),
        (["predict", "RUN", "."], "holds no image"),
        (["predict", "nowhere", "x.png"], "there is no run in nowhere"),
        (["predict", "RUN", "x.png", "--top", "0"], "expected 1 or more"),
        (["predict", "RUN", "x.png", "--json", "--csv"], "print one of the two"),
        (["evaluate", "nowhere"], "there is no run in nowhere"),
        (["evaluate", "RUN", "--data", "sample"], "--data is for --dataset"),
        (["evaluate", "RUN", "--dataset", "cifar10"], "class"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    words = [str(run.folder) if word == "RUN" else word for word in words]
    assert commands.main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_network_comes_with_the_package(tmp_path, capfd):
    few = data.load("cifar10", "sample").test
    chosen = np.arange(0, len(few), 20)
    for i in chosen:
        Image.fromarray(few.images[i]).save(tmp_path / f"{i:04}.png")
    assert commands.main(["predict", "cifar10", str(tmp_path), "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    names = data.load("cifar10", "sample").classes
    said = [row["class"] for row in rows]
    right = np.mean(
        [a == names[b] for a, b in zip(said, few.labels[chosen], strict=True)]
    )
    assert right > 0.8  # of fifty images: the record says 93.5 % of ten thousand


@pytest.mark.parametrize("name", shipped.names())
def test_what_comes_with_the_package_is_of_its_recipe_as_it_is_now(name):
    run = shipped.run(Path(name))
    chosen = recipe.load(run.config["recipe"])
    described = describe.describe(chosen)
    assert run.config["fingerprint"] == describe.fingerprint(described)
    assert run.result["finished"]
    record = (run.folder / "config.json").read_text()
    assert not re.search(r'"/|"~', record)  # no path of who trained it
    half = run.result["in_half_precision"]["test_accuracy"]
    assert half == pytest.approx(run.result["test_accuracy"], abs=0.002)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "cifar10" else ())
        for name in shipped.names()
    ],
)
def test_what_comes_with_the_package_is_as_right_as_its_record_says(name, capsys):
    run = shipped.run(Path(name))
    words = ["--dataset", run.config["data"]["name"], "--data", "sample", "--json"]
    assert commands.main(["evaluate", name, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    half = run.result["in_half_precision"]
    # Rounding may differ from one processor to another: an image more or less.
    wrong = abs(found["accuracy"] - half["sample_accuracy"]) * found["images"]
    assert wrong <= 1 + 1e-6
    # The bundled images are some of the test set's.
    assert found["accuracy"] == pytest.approx(half["test_accuracy"], abs=0.04)


def test_a_garment_is_named_in_the_first_minute(tmp_path, capsys):
    image = data.load("fashion_mnist", "sample").test
    shirts = []
    for number in np.flatnonzero(np.asarray(image.labels) == 0)[:9]:
        shirts.append(tmp_path / f"shirt-{number}.png")
        Image.fromarray(np.asarray(image.images[number])[..., 0]).save(shirts[-1])
    assert commands.main(["predict", "fashion", *map(str, shirts), "--json"]) == 0
    said = [row["class"] for row in json.loads(capsys.readouterr().out)]
    assert said.count("T-shirt/top") >= 6


def test_a_name_of_neither_says_what_comes_with_the_package(capfd):
    assert commands.main(["predict", "cifar", "x.png"]) == 2
    assert "With the package come: cifar10" in capfd.readouterr().err


def test_from_python_files_arrays_and_folders_have_keras_s_probabilities(
    run, folder, test_set, expected
):
    one = kerascnn.predict(run, folder / "0.png")
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)
    several = kerascnn.predict(run.folder, [folder / "3.png", str(folder / "1.png")])
    np.testing.assert_allclose(several, expected[[3, 1]], atol=1e-6)
    every = kerascnn.predict(str(run.folder), folder)
    np.testing.assert_allclose(every, expected[:5], atol=1e-6)
    arrays = kerascnn.predict(run, test_set.images[:3])
    np.testing.assert_allclose(arrays, expected[:3], atol=1e-6)
    assert kerascnn.predict(run, []).shape == (0, 10)


@pytest.mark.parametrize(
    ("place", "images", "said"),
    [
        ("nothing", "0.png", "nothing"),
        ("fashion", "gone.png", "there is no"),
        ("fashion", "text.png", "text.png"),
    ],
)
def test_from_python_a_mistake_is_one_line(folder, place, images, said):
    (folder / "text.png").write_text("no image")
    with pytest.raises(UsageError, match=said) as mistake:
        kerascnn.predict(place, folder / images)
    assert "\n" not in str(mistake.value)


def test_from_python_a_run_is_evaluated_and_exported(run, test_set, expected, tmp_path):
    figures = run.evaluate()
    right = (expected[:400].argmax(-1) == test_set.labels[:400]).mean()
    assert figures.accuracy == pytest.approx(right)
    file = run.export("keras", tmp_path / "mine.keras")
    again = keras.saving.load_model(file).predict(test_set.images[:5], verbose=0)
    found = np.asarray(keras.activations.softmax(again.astype("float64")))
    np.testing.assert_allclose(found, expected[:5], atol=1e-6)
