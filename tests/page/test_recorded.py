"""The panels of what a run has recorded show its numbers, and only where it has any."""

import dataclasses
import html
import json
import re

import numpy as np
import pytest

from kerascnn import data
from kerascnn.page import document, figures, panels, recorded


def charted(chart):
    """Return what a chart says under the pointer."""
    return json.loads(html.unescape(re.search('data-chart="([^"]*)"', chart).group(1)))


def made(steps, epochs=0):
    """Return a record of many steps and layers."""
    rng = np.random.default_rng(1)
    found = {
        "step": np.arange(1, steps + 1),
        "loss": rng.random(steps, "float32"),
        "learning_rate": np.linspace(0.1, 0, steps, dtype="float32"),
        "gradient_norm": np.exp(rng.normal(0, 1, steps)).astype("float32"),
    }
    if epochs:
        names = np.array([f"Conv2D {n}" for n in range(1, 4)])
        shape = epochs, len(names)
        found |= {
            "epoch": np.arange(1, epochs + 1),
            "kernel_layers": names,
            "activation_layers": names,
            "norm_layers": names,
            "gradient_to_weight": rng.random(shape),
            "update_to_weight": rng.random(shape) / 100,
            "dead": rng.random(shape) * [0, 1, np.nan],
            "activation_mean": rng.normal(0, 1, shape),
            "activation_deviation": rng.random(shape),
            "moving_mean": np.sort(rng.normal(0, 1, (*shape, 3))),
            "moving_variance": np.sort(rng.random((*shape, 3))),
        }
    return found


@pytest.mark.parametrize("steps", [1, 7, 240, 241, 5000])
def test_charts_of_steps_show_means_of_neighbours(found, steps):
    record = made(steps)
    panel = recorded.steps(dataclasses.replace(found, recorded=record))
    together = panel.data["together"]
    assert -(-steps // together) <= 240
    for name, key in (("Loss", "loss"), ("Learning rate", "learning_rate")):
        said = charted(panel.data["charts"][name])
        places = np.arange(steps) // together
        sums = np.bincount(places, record[key].astype("float64"))
        means = sums / np.bincount(places)
        # The range of the neighbours stands behind the mean.
        shown = [float(value.partition(" (")[0]) for value in said["values"][0]]
        np.testing.assert_allclose(shown, means, rtol=1e-3, atol=1e-12)
        assert said["at"][-1] == f"step {steps}"


def test_steps_that_were_not_finite_leave_a_gap(found):
    record = made(5)
    record["loss"][2] = np.nan
    record["gradient_norm"][:] = np.inf
    panel = recorded.steps(dataclasses.replace(found, recorded=record))
    assert charted(panel.data["charts"]["Loss"])["values"][0][2] == "–"
    assert "Gradient norm" not in panel.data["charts"]


def test_a_map_s_cells_say_their_values(found):
    record = made(30, epochs=3)
    panel = recorded.by_layer(dataclasses.replace(found, recorded=record))
    maps = {title: str(chart) for title, _, chart in panel.data["maps"]}
    assert list(maps) == ["Dead units", "Gradient / weight", "Update / weight"]
    cells = re.findall(
        r'<rect class="(\w+)".*?<title>Conv2D (\d), epoch (\d): (.*?)</title>',
        maps["Update / weight"],
    )
    assert len(cells) == 9
    for shade, layer, epoch, value in cells:
        exact = record["update_to_weight"][int(epoch) - 1, int(layer) - 1]
        assert float(value) == pytest.approx(exact, rel=1e-3)
        level = 1 + sum(exact >= bound for bound in (1e-5, 1e-4, 1e-3, 1e-2))
        assert shade == f"r{level}"
    # The first layer has no dead unit, the last no ReLU.
    assert maps["Dead units"].count('class="none"') == 3
    assert "Conv2D 3" not in maps["Dead units"]


@pytest.mark.parametrize(
    ("shares", "worry"),
    [
        ((0.33, 0.32, 0.36), (False, False, False)),  # a healthy dense layer
        ((0.02, 0.05, 0.15), (False, False, True)),
        ((0.55, 0.5, 0.49), (True, True, False)),
    ],
)
def test_dead_units_are_orange_where_they_are_many_or_grow(found, shares, worry):
    record = made(30, epochs=3)
    record["dead"][:, 1] = shares
    panel = recorded.by_layer(dataclasses.replace(found, recorded=record))
    _, says, chart = panel.data["maps"][0]
    cells = re.findall(
        r'<rect class="(\w+)"[^>]*><title>Conv2D 2, epoch \d: (.*?)<', chart
    )
    assert [shade == "w4" for shade, _ in cells] == list(worry)
    assert [said.endswith(", a worry") for _, said in cells] == list(worry)
    # 256, of the 400 that the run was trained on.
    assert "each of the same 256 training images" in says


def test_the_band_of_relu_s_answers_ends_at_0(found):
    record = made(30, epochs=3)
    record["activation_mean"][:], record["activation_deviation"][:] = 1, 3
    panel = recorded.activations(dataclasses.replace(found, recorded=record))
    lowest = [
        float(re.search(r"within (\S+) to ", chart).group(1))
        for _, chart in panel.data["rows"][0][1]
    ]
    assert lowest == [0, 0, -2]  # the last layer is no ReLU


def test_the_loss_has_penalties_where_the_recipe_has_some(found):
    kernel = {"class": "Conv2D", "kernel_regularizer": {"class": "L2", "l2": 0.01}}
    described = found.config["description"] | {"network": [kernel]}
    penal = found.config | {"description": described}
    for config, axis in ((found.config, "loss"), (penal, "loss with penalties")):
        panel = recorded.steps(dataclasses.replace(found, config=config))
        assert f">{axis}</text>" in panel.data["charts"]["Loss"]


def test_a_page_shows_what_there_is_and_no_empty_panel(found):
    def names(record):
        groups = panels.grouped(dataclasses.replace(found, recorded=record))
        return [panel.name for *_, of_group in groups for panel in of_group]

    layers = {"by_layer", "activations", "statistics"}
    assert not {"steps", *layers} & {*names(None)}
    light = {*names(made(30))}
    assert "steps" in light
    assert not layers & light
    assert layers < {*names(made(30, epochs=3))}
    assert "statistics" not in names(found.recorded)  # LeNet has no BatchNorm
    text = document.render(dataclasses.replace(found, recorded=None))
    assert "step by step" not in text


def test_one_step_of_one_epoch_is_drawn(found):
    record = made(1, epochs=1)
    document.render(dataclasses.replace(found, recorded=record))


def test_the_figure_has_the_rate_of_every_step(found):
    record = made(50)
    figure = figures.learning_rate(dataclasses.replace(found, recorded=record))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "step"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), record["learning_rate"])
    of_epochs = figures.learning_rate(dataclasses.replace(found, recorded=None))
    assert of_epochs.axes[0].get_xlabel() == "epoch"


@pytest.mark.needs("torch")
def test_pytorch_finds_the_same_activations_and_dead_filters(found):
    """LeNet's layers, from the weights in `model.keras`."""
    import torch
    from torch.nn import functional

    train = data.load("fashion_mnist", "sample").train
    images = train.images[: found.config["data"]["train_images"]]
    chosen = np.linspace(0, len(images) - 1, 256).round().astype(int)
    x = torch.tensor(images[chosen].astype("float32").transpose(0, 3, 1, 2)) / 127.5 - 1
    weights = [torch.tensor(w) for w in found.run.model().get_weights()]
    answers = []
    for at, padding in ((0, 2), (2, 0)):
        kernel, bias = weights[at].permute(3, 2, 0, 1), weights[at + 1]
        x = functional.relu(functional.conv2d(x, kernel, bias, padding=padding))
        answers.append(x)
        x = functional.max_pool2d(x, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    for at in (4, 6):
        x = functional.relu(x @ weights[at] + weights[at + 1])
        answers.append(x)
    last = {name: values[-1] for name, values in found.recorded.items() if len(values)}
    for at, answer in enumerate(answers):
        units = answer.transpose(0, 1).flatten(1)
        dead = (units == 0).all(1).double().mean()
        exact = answer.double()
        assert last["dead"][at] == pytest.approx(float(dead))
        assert last["activation_mean"][at] == pytest.approx(float(exact.mean()), 1e-4)
        deviation = float(exact.std(unbiased=False))
        assert last["activation_deviation"][at] == pytest.approx(deviation, 1e-4)
