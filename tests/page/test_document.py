"""The page of a run: its numbers, and that it is one file that runs nothing foreign."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
import shlex
import shutil

import keras
import numpy as np
import pytest

import kerascnn
from kerascnn import UsageError, api, data
from kerascnn.cli import commands, parsing
from kerascnn.page import document, evidence, figures, findings, panels
from kerascnn.runs import Run
from kerascnn.training.options import Overrides

OPTIONS = {"data": "sample", "epochs": 1, "limit": 400, "batch_size": 64}


class Reader(html.parser.HTMLParser):
    """What a test needs of a page: tags with attributes, tables, texts by id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self._cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append((dict(attributes).get("class"), []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, text):
        if self._cell:
            self.tables[-1][1][-1][-1] += " ".join(text.split())

    def table(self, kind):
        return next(rows for name, rows in self.tables if name == kind)

    def ids(self):
        return [a["id"] for _, a in self.tags if "id" in a]


@pytest.fixture(scope="module")
def text(found):
    return document.render(found)


@pytest.fixture(scope="module")
def page(text):
    return Reader(text)


@pytest.fixture(scope="module")
def by_hand(lenet):
    """Labels and probabilities of model.keras, from Keras alone."""
    split = data.load("fashion_mnist", "sample").test
    labels = np.asarray(split.labels[:400])
    model = keras.saving.load_model(lenet.folder / "model.keras")
    logits = np.asarray(model(np.asarray(split.images[:400]))).astype("float64")
    powers = np.exp(logits)
    return labels, powers / powers.sum(1, keepdims=True)


def test_the_confusion_matrix_is_the_model_s(page, by_hand):
    labels, probabilities = by_hand
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, probabilities.argmax(1)), 1)
    _, *rows = page.table("confusion")
    shown = [[int(cell or 0) for cell in row[1:]] for row in rows]
    np.testing.assert_array_equal(shown, expected)


def test_each_class_s_accuracy_is_the_model_s(page, by_hand):
    labels, probabilities = by_hand
    right = probabilities.argmax(1) == labels
    _, *rows = page.table("classes")
    classes = data.load("fashion_mnist", "sample").classes
    assert len(rows) == 10
    for name, _, accuracy, _, counts in rows:
        of = labels == classes.index(name)
        assert counts == f"{right[of].sum()} of {of.sum()}"
        assert accuracy == f"{100 * right[of].mean():.1f}%"


def test_the_calibration_error_is_the_model_s(text, by_hand):
    labels, probabilities = by_hand
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (sure > low) & (sure <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    assert f"<b>{100 * error:.1f}%</b><span>the average" in text


def test_the_head_says_what_the_run_recorded(text, lenet, found):
    assert f"<b>{100 * lenet.result['test_accuracy']:.2f}%</b>" in text
    head = document.head(found)
    assert head["course"] is None
    assert head["says"] == "the architecture only"
    assert any("bundled sample" in note for note in head["notes"])
    changed = "Changed from the recipe: epochs 2, batch size 64, limit 400."
    assert changed in head["notes"]
    assert found.outcome.right.mean() == pytest.approx(lenet.result["test_accuracy"])


def test_the_gap_to_the_course_is_in_points(found):
    course = found.config["course"] | {"test": 0.5, "says": None}
    result = found.result | {"test_accuracy": 0.625}
    changed = dataclasses.replace(
        found, config=found.config | {"course": course}, result=result
    )
    head = document.head(changed)
    assert (head["course"], head["gap"], head["inside"]) == ("50%", 12.5, False)


def test_a_figure_that_is_not_the_course_s_stands_beside_ours(found):
    assert "<dt>The course’s</dt>" in document.render(found)
    course = found.config["course"] | {
        "source": "speed-run, somebody's net",
        "says": "94.01% with six views, the mean of 200 runs",
    }
    result = found.result | {"test_accuracy_with_views": 0.9416, "views": 6}
    seen = dataclasses.replace(
        found, config=found.config | {"course": course}, result=result
    )
    text = " ".join(document.render(seen).split())
    tiles = re.findall(r"<dt>([^<]*)</dt> ?<dd><b>([^<]*)</b>", text)
    ours = f"{100 * found.result['test_accuracy']:.2f}%"
    assert tiles[:3] == [
        ("Accuracy, test set", ours),
        ("With 6 views of each image", "94.16%"),
        ("somebody&#39;s net", "94.01%"),
    ]
    assert "<span>with six views, the mean of 200 runs, on the full set</span>" in text
    assert "The course’s" not in text


@pytest.mark.parametrize(
    ("frozen", "epochs", "said"),
    [
        (True, 2, "has not learned these filters"),
        (False, 2, "2 epochs are few"),
        (False, 50, "Worry about many that still look like noise"),
    ],
)
def test_filters_are_read_by_how_they_came_about(found, frozen, epochs, said):
    assert not found.filters.frozen
    filters = dataclasses.replace(found.filters, frozen=frozen)
    result = found.result | {"epochs": epochs}
    seen = dataclasses.replace(found, filters=filters, result=result)
    assert said in panels.filters(seen).reading


def test_the_curves_hold_every_epoch(page, lenet):
    charts = [json.loads(a["data-chart"]) for _, a in page.tags if "data-chart" in a]
    loss, accuracy, rate, *_ = charts
    assert loss["at"] == ["epoch 1", "epoch 2"]
    for at, name in enumerate(("crossentropy", "test_crossentropy")):
        assert loss["values"][at] == [f"{v:.4g}" for v in lenet.history[name]]
    assert accuracy["values"][1] == [
        f"{100 * v:.4g}%" for v in lenet.history["test_accuracy"]
    ]
    assert rate["values"][0] == ["0.001"] * 12
    assert rate["at"][-1] == "step 12"


def test_the_page_is_one_file_that_loads_nothing(page, text):
    assert len(text) < 4 << 20
    policy = next(a for t, a in page.tags if t == "meta" and "http-equiv" in a)
    policy = policy["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for kind in ("style", "script"):
        (inside,) = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    for _, attributes in page.tags:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))


def test_links_and_tiles_lead_somewhere(page):
    ids = page.ids()
    assert len(set(ids)) == len(ids)
    for _, attributes in page.tags:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_each_panel_says_how_to_read_it(found):
    shown = [panel for *_, group in panels.grouped(found) for panel in group]
    names = [panel.name for panel in shown]
    assert names == [
        *("curves", "steps", "confusion", "worst", "classes", "calibration"),
        *("cam", "maps", "filters", "by_layer", "activations", "layers", "weights"),
    ]
    for panel in shown:
        assert "Worry" in panel.reading


def test_names_that_look_like_markup_stay_text(found):
    evil = "<script>alert('it')</script>"
    outcome = dataclasses.replace(
        found.outcome, classes=(evil, '"><img src=x>', *found.outcome.classes[2:])
    )
    config = found.config | {"recipe": evil, "overrides": [evil]}
    text = document.render(dataclasses.replace(found, outcome=outcome, config=config))
    reader = Reader(text)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert not [a for tag, a in reader.tags if tag == "img" and a.get("src") == "x"]
    assert "&lt;script&gt;alert" in text


def test_many_classes_are_a_picture(found):
    n = 40
    random = np.random.default_rng(0)
    outcome = findings.Outcome(
        found.outcome.images,
        random.integers(n, size=len(found.outcome)),
        findings.softmax(random.normal(size=(len(found.outcome), n))),
        tuple(f"class {k}" for k in range(n)),
    )
    many = dataclasses.replace(
        found, outcome=outcome, matrix=findings.confusion(outcome)
    )
    reader = Reader(document.render(many))
    assert [a["class"] for tag, a in reader.tags if tag == "img"] == ["matrix"]
    assert not [rows for name, rows in reader.tables if name == "confusion"]


def test_grad_cam_in_parts_is_the_same(lenet, found, monkeypatch):
    monkeypatch.setattr(evidence.looking, "PIXELS", 5 * 28 * 28)
    looked = evidence._looked(lenet.model(), found.outcome, found.looked.index)
    np.testing.assert_allclose(looked.predicted, found.looked.predicted, atol=1e-5)
    np.testing.assert_allclose(looked.truth, found.looked.truth, atol=1e-5)


def test_a_network_without_maps_has_no_panels_of_them(mlp):
    seen = evidence.gather(mlp)
    names = [panel.name for *_, group in panels.grouped(seen) for panel in group]
    assert not {"cam", "maps", "augmentation"} & set(names)
    assert {"filters", "weights", "confusion"} <= set(names)
    document.render(seen)


@pytest.mark.parametrize("right", [True, False])
def test_a_model_that_is_always_right_or_wrong_has_a_page(found, right):
    outcome = found.outcome
    labels = outcome.predicted if right else (outcome.predicted + 1) % 10
    outcome = dataclasses.replace(outcome, labels=labels)
    seen = dataclasses.replace(
        found, outcome=outcome, matrix=findings.confusion(outcome), looked=None
    )
    document.render(seen)


# At a run's end, and the command.


def test_a_run_s_last_line_names_its_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERASCNN_REPORT", "1")
    out = tmp_path / "run"
    kerascnn.train("fashion_mlp", **OPTIONS, out=out)
    *_, last = capsys.readouterr().out.splitlines()
    assert last.split() == ["page", str(out / "report.html")]
    assert (out / "report.html").stat().st_size > 1 << 14
    kerascnn.train("fashion_mlp", **OPTIONS, out=tmp_path / "bare", report=False)
    assert not (tmp_path / "bare" / "report.html").exists()


def test_a_page_that_fails_does_not_fail_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERASCNN_REPORT", "1")
    monkeypatch.setattr(evidence.looking, "logits", lambda *_: 1 / 0)
    run = kerascnn.train("fashion_mlp", **OPTIONS, out=tmp_path / "run")
    assert run.finished
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"The page was not written (division by zero). `kerascnn report {run.folder}` "
        "tries again."
    )


def test_report_writes_page_and_figures(lenet, tmp_path, capsys):
    out, folder = tmp_path / "mine.html", tmp_path / "figures"
    words = ["report", str(lenet.folder), "-o", str(out), "--figures", str(folder)]
    assert commands.main([*words, "--svg"]) == 0
    assert out.read_text("utf-8").startswith("<!doctype html>")
    names = {path.stem for path in folder.iterdir()}
    assert names == set(figures.FIGURES) - {"augmentation"}
    assert {path.suffix for path in folder.iterdir()} == {".svg"}
    assert capsys.readouterr().out.splitlines()[0] == str(out)


@pytest.mark.slow
def test_figures_are_drawn_of_transforms_too(found, tmp_path):
    drawn = np.stack([found.shown] * 3, 1)
    seen = dataclasses.replace(found, augmented=drawn)
    files = figures.write(seen, tmp_path)
    assert {path.name for path in files} == {f"{name}.png" for name in figures.FIGURES}
    names = [panel.name for *_, group in panels.grouped(seen) for panel in group]
    assert "augmentation" in names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "there is no run in nothing"),
        (["RUN", "--svg"], "--svg is for --figures FOLDER"),
        (["RUN", "--out", "."], "is a folder: name a file"),
        (["RUN", "--out", "no/such/x.html"], "there is no folder"),
    ],
)
def test_mistakes_are_one_line(words, said, lenet, capsys):
    words = [str(lenet.folder) if word == "RUN" else word for word in words]
    assert commands.main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_other_data_than_the_run_s_are_refused(lenet, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(lenet.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"]["sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="no longer what the run was trained on"):
        Run(folder).report()
    config["data"]["sample"] = False
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UsageError, match="is not here: `kerascnn data get fashion_mn"):
        Run(folder).report()


@pytest.mark.slow
def test_a_run_with_held_out_images_shows_those(tmp_path):
    options = OPTIONS | {"limit": None, "validation": 0.1}
    run = kerascnn.train("fashion_mlp", **options, out=tmp_path / "run")
    seen = evidence.gather(run)
    accuracy = run.result["validation_accuracy"]
    assert seen.outcome.right.mean() == pytest.approx(accuracy, abs=1e-6)
    head = document.head(seen)
    assert (head["of"], head["gap"]) == ("held-out images", None)


def test_the_command_does_the_run_again(lenet):
    config = lenet.config
    words = shlex.split(evidence.command(config))
    assert words[:3] == ["kerascnn", "run", "fashion_lenet"]
    given = parsing.parse(Overrides, words[3:], "kerascnn run")
    expected = {"epochs": 2, "batch_size": 64, "limit": 400, "data": "sample"}
    assert given == Overrides(**expected)
    environment = config["environment"] | {"backend": "torch"}
    options = config["options"] | {"dataset": "mnist", "data_dir": "/home/me/sets"}
    other = config | {"environment": environment, "options": options}
    said = evidence.command(other)
    assert said.endswith("--dataset mnist --data sample --backend torch")
    options = config["options"] | {"dataset": "/home/me/my pets", "data": "auto"}
    data = config["data"] | {"sample": False}
    said = evidence.command(config | {"options": options, "data": data})
    assert said.endswith("--limit 400 --dataset '/home/me/my pets'")


def test_an_option_of_the_page_is_no_change_of_the_run():
    assert Overrides(report=False).changed == []
    assert api.train.__kwdefaults__["report"] is True


def test_the_best_epoch_stands_below_the_result(found, lenet):
    best = max(lenet.history["test_accuracy"])
    shown = document.head(found)["best"]
    assert shown["accuracy"] == pytest.approx(best)
    assert shown["peeking_bonus"] == best - lenet.result["test_accuracy"]
    assert "views of each image" not in document.render(found)
    moved = dataclasses.replace(
        found, metrics=[m | {"test_accuracy": 0.987} for m in found.metrics]
    )
    text = " ".join(document.render(moved).split())
    bonus = 100 * (0.987 - lenet.result["test_accuracy"])
    assert "Best epoch on the test set: 98.70%, epoch 1." in text
    assert f"A peeking bonus of {bonus:.2f} points, and no result" in text
