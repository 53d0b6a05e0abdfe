"""Initialisation: the rules against PyTorch, the passes against autograd."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn import initializers  # noqa: E402
from kerascnn.lessons import initialisation as lesson  # noqa: E402


def kernel_of_pytorch(rule, inputs, outputs):
    layer = torch.nn.Linear(inputs, outputs)
    if rule == "Glorot":
        torch.nn.init.xavier_uniform_(layer.weight)
    elif rule == "He":
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer.weight.detach().numpy().T


@pytest.mark.parametrize("rule", lesson.RULES)
def test_the_rules_equal_pytorch(rule):
    torch.manual_seed(0)
    kernels = (
        kernel_of_pytorch(rule, 600, 400),
        lesson.weights(rule, 600, 400, np.random.default_rng(0)),
        lesson.weights_in_keras(rule, 600, 400, seed=0),
    )
    for kernel in kernels:
        assert kernel.shape == (600, 400)
        # 240,000 draws: the variance is known to within 0.3% for a normal distribution
        # and less for a uniform one.
        assert kernel.var() == pytest.approx(lesson.variance(rule, 600, 400), rel=0.01)
        assert kernel.mean() == pytest.approx(0, abs=float(kernel.std()) / 100)
        largest = np.abs(kernel).max() / kernel.std()
        if rule == "He":
            assert largest > 4  # not truncated
        else:
            assert largest == pytest.approx(np.sqrt(3), rel=0.01)  # uniform


def test_the_slides_formulas():
    # N(0, 1/n) and N(0, 2/n), and PyTorch's uniform in +-1/sqrt(n).
    assert lesson.variance("Glorot", 100, 100) == pytest.approx(1 / 100)
    assert lesson.variance("He", 100, 7) == pytest.approx(2 / 100)
    assert lesson.variance("PyTorch", 100, 7) == pytest.approx((1 / 10) ** 2 / 3)


def test_he_is_the_recipes_he():
    recipe = initializers.he_normal().get_config()
    assert recipe["scale"] / 100 == lesson.variance("He", 100, 50)
    assert (recipe["mode"], recipe["distribution"]) == ("fan_in", "untruncated_normal")


def test_only_pytorch_draws_biases():
    generator = np.random.default_rng(0)
    assert (lesson.biases("He", 9, generator) == 0).all()
    drawn = lesson.biases("PyTorch", 10_000, np.random.default_rng(0))
    # Uniform in +-1/sqrt(10,000).
    assert 0.0099 < np.abs(drawn).max() <= 0.01


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("linear", lambda x: x),
        ("ReLU", torch.relu),
        ("SiLU", torch.nn.functional.silu),
    ],
)
def test_there_and_back_equals_autograd(name, function):
    generator = np.random.default_rng(0)
    x, gradient = generator.normal(size=(5, 6)), generator.normal(size=(5, 6))
    kernels = list(generator.normal(size=(3, 6, 6)))
    shifts = list(generator.normal(size=(3, 6)))
    outputs, gradients = lesson.there_and_back(x, kernels, shifts, name, gradient)

    value, expected = torch.tensor(x), []
    for kernel, shift in zip(kernels, shifts, strict=True):
        sums = value @ torch.tensor(kernel) + torch.tensor(shift)
        value = function(sums).requires_grad_()
        value.retain_grad()
        expected.append(value)
    value.backward(torch.tensor(gradient))
    for ours, ours_gradient, theirs in zip(outputs, gradients, expected, strict=True):
        # float64 on both sides.
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10)
        np.testing.assert_allclose(
            ours_gradient, theirs.grad.numpy(), rtol=1e-10, atol=1e-12
        )


def test_what_is_expected_after_twelve_layers():
    # ReLU passes half of the mean square, forward and backward.
    for rule, factor in (("Glorot", 1 / 2), ("He", 1)):
        forward, backward = lesson.predict(rule, "ReLU")
        np.testing.assert_allclose(forward, factor ** np.arange(1, 13), rtol=1e-6)
        np.testing.assert_allclose(backward, factor ** np.arange(11, -1, -1), rtol=1e-6)
    forward, backward = lesson.predict("PyTorch", "ReLU", width=256)
    bias = 1 / (3 * 256)
    # Each layer: a third of the last one's and the biases', of which ReLU passes half.
    assert forward[0] == pytest.approx((1 / 3 + bias) / 2)
    np.testing.assert_allclose(forward[1:], (forward[:-1] / 3 + bias) / 2, rtol=1e-6)
    assert backward[0] == pytest.approx((1 / 6) ** 11, rel=1e-6)
    forward, backward = lesson.predict("Glorot", "linear")
    np.testing.assert_allclose([forward, backward], 1, rtol=1e-6)


def test_mean_square():
    assert lesson.mean_square(lambda z: z, 4.0) == pytest.approx(4, rel=1e-6)
    # SiLU is nearly z / 2 for a small signal.
    silu = lesson.ACTIVATIONS["SiLU"].value
    assert lesson.mean_square(silu, 1e-6) == pytest.approx(1e-6 / 4, rel=1e-3)
    draws = silu(np.random.default_rng(0).normal(size=10**6))
    assert lesson.mean_square(silu, 1.0) == pytest.approx((draws**2).mean(), rel=0.01)


def test_every_rule_meets_both_activations():
    for activation in ("ReLU", "SiLU"):
        for rule in lesson.RULES:
            assert (activation, rule) in lesson.CASES


@pytest.mark.parametrize("activation", ["ReLU", "SiLU"])
def test_pytorchs_floor_is_the_biases(activation):
    measured, _ = lesson.measure("PyTorch", activation)
    # Without biases: the factors alone, 1/6 for ReLU and about 1/12 for SiLU, take the
    # input to less than 1e-9 in twelve layers.
    assert (1 / 6) ** 12 < 1e-9 < measured[-1] / 1e5
    # From the seventh layer on the activations no longer fall.
    np.testing.assert_allclose(measured[6:], measured[-1], rtol=0.1)


@pytest.mark.parametrize(("activation", "rule"), lesson.CASES)
def test_measured_as_expected(activation, rule):
    # 20 draws of 12 layers of 256 units: the product of twelve chance factors is known
    # to within some 10%, and SiLU's is skewed.
    tolerance = 2 if activation == "SiLU" else 1.35
    for measured, expected in zip(
        lesson.measure(rule, activation), lesson.predict(rule, activation), strict=True
    ):
        ratio = measured / expected
        assert (ratio < tolerance).all()
        assert (ratio > 1 / tolerance).all()


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/initialisation.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    rows = {
        cells[1].strip(): [float(cell) for cell in cells[2:6]]
        for cells in (line.split("│") for line in capsys.readouterr().out.splitlines())
        if len(cells) == 7 and ", " in cells[1]
    }
    assert list(rows) == [f"{activation}, {rule}" for activation, rule in lesson.CASES]
    # Measured, expected: activations, gradient. By hand: 2^-12 and 2^-11.
    assert rows["ReLU, Glorot"][1::2] == [2.4e-4, 4.9e-4]
    assert rows["ReLU, He"][1::2] == [1, 1]
    for name, (forward, _, backward, _) in rows.items():
        largest = 2 if name.endswith("He") or name.startswith("linear") else 1e-3
        assert forward < largest
        assert backward < largest
