"""A model card says what a run's record says, and nothing else."""

import json
import re

import pytest

from kerascnn import UsageError
from kerascnn.cli import commands
from kerascnn.export import card
from kerascnn.prediction import shipped
from kerascnn.runs import Run
from kerascnn.text import duration

yaml = pytest.importorskip("yaml")

SHIPPED = shipped.Shipped(shipped.FOLDER / "cifar10")


def made(folder, config=(), result=()):
    """A run with the record of a network that comes with the package, changed."""
    folder.mkdir()
    run = Run(folder)
    run.write_config(SHIPPED.config | dict(config))
    run.write_result(SHIPPED.result | dict(result))
    return run


def read(text):
    _, head, body = re.split("^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head), body


def numbers(value):
    """Every number of a record, in each form that a text may give it."""
    if isinstance(value, dict):
        return set().union(*map(numbers, value.values()))
    if isinstance(value, list):
        return {str(len(value))}.union(*map(numbers, value))
    if isinstance(value, bool) or value is None:
        return set()
    if isinstance(value, str):
        return set(re.findall(r"[\d.]+", value))
    found = {str(value), f"{value:,}", f"{value:.2%}"}
    return found | set(re.findall(r"\d+", duration(value)))


def test_its_metadata_are_those_of_the_hub():
    head, _ = read(card.card(SHIPPED))
    config, result = SHIPPED.config, SHIPPED.result
    assert head["library_name"] == "keras"
    assert head["license"] == "apache-2.0"
    assert head["pipeline_tag"] == "image-classification"
    assert head["datasets"] == ["cifar10"]
    (model,) = head["model-index"]
    (found,) = model["results"]
    assert model["name"] == config["recipe"]
    assert found["task"] == {"type": "image-classification"}
    assert found["dataset"] == {"name": "cifar10", "type": "cifar10", "split": "test"}
    values = [metric["value"] for metric in found["metrics"]]
    assert values == [
        result["test_accuracy"],
        result["test_accuracy_with_views"],
        result["in_half_precision"]["test_accuracy"],
    ]
    for metric in found["metrics"]:
        assert metric["type"] == "accuracy"
        assert metric["args"] == {"seed": config["seed"], "epochs": result["epochs"]}


@pytest.mark.parametrize(
    ("config", "result"),
    [
        ({}, {}),
        ({"seed": 17, "trained_on_after": [3], "epochs": 8}, {"test_accuracy": 0.71}),
    ],
)
def test_each_figure_is_one_of_the_record(tmp_path, config, result):
    run = made(tmp_path / "run", config, result)
    _, body = read(card.card(run))
    body = re.sub("```python.*?```", "", body, flags=re.DOTALL)
    said = re.findall(r"(?<![\w.-])\d[\d,.]*%?(?![\w-])", body)
    known = numbers(run.config) | numbers(run.result)
    assert len(said) > 8
    assert {each.rstrip(",.") for each in said} <= known


@pytest.mark.parametrize(
    ("config", "result", "said"),
    [
        ({"overrides": ["epochs"]}, {}, "- Changed from the recipe: epochs."),
        ({}, {"finished": False}, "- The training was interrupted"),
        ({"frozen": ["conv2d"]}, {}, "- Frozen, not trained: conv2d."),
        (
            {"data": SHIPPED.config["data"] | {"sample": True}},
            {},
            "- Trained on a small",
        ),
    ],
)
def test_it_says_what_makes_a_run_another(tmp_path, config, result, said):
    assert said in card.card(made(tmp_path / "run", config, result))


def test_held_out_images_are_no_test_set_and_own_images_no_set_of_the_hub(tmp_path):
    data = {k: v for k, v in SHIPPED.config["data"].items() if k != "test_images"}
    data |= {"name": "/home/me/pets", "validation_images": 500, "sample": False}
    config = {"validation": 0.1, "data": data}
    config["options"] = {"dataset": "/home/me/pets", "validation": 0.1}
    text = card.card(made(tmp_path / "run", config, {"validation_accuracy": 0.6}))
    head, body = read(text)
    (found,) = head["model-index"][0]["results"]
    assert found["dataset"]["split"] == "validation"
    assert found["metrics"][0]["value"] == 0.6
    assert "datasets" not in head
    assert head["license"] == "unknown"
    assert "/home/me" not in text
    assert "| validation images | 500 |" in body


def test_the_command_writes_it_and_leaves_what_stands_there(
    tmp_path, monkeypatch, capfd, unchanged
):
    run = made(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    words = ["export", str(run.folder), "--card"]
    assert commands.main(words) == 0
    assert "a model card" in capfd.readouterr().out
    assert (run.folder / "README.md").read_text("utf-8") == card.card(run)
    with unchanged(tmp_path):
        assert commands.main(words) == 2
        assert commands.main([*words, "--to", "keras"]) == 2
        assert commands.main(["export", str(run.folder)]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 3
    assert "README.md exists" in said[0]
    assert "README.md exists" in said[1]
    assert "or --card" in said[2]
    assert commands.main([*words, "--out", "card.md"]) == 0
    assert json.loads((run.folder / "config.json").read_text())  # is as it was
    with pytest.raises(UsageError, match="is no run"):
        card.write(Run(tmp_path), tmp_path / "none.md")
