"""Dropout by hand against Keras, PyTorch and the exact distribution."""

import itertools
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import keras  # noqa: E402

from kerascnn.lessons import dropout as lesson  # noqa: E402


def layer(seed=0):
    return np.random.default_rng(seed).normal(size=(30, 40)).astype("float32")


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.8])
def test_the_two_meanings_of_the_number(p):
    shape = (200, 500)
    bound = 5 * np.sqrt(p * (1 - p) / 100_000)  # five standard errors of a share
    slide = lesson.mask_keeping(p, shape, np.random.default_rng(0))
    assert np.mean(slide == 0) == pytest.approx(1 - p, abs=bound)
    np.testing.assert_allclose(np.unique(slide), [0, 1 / p])
    for mask in (
        lesson.mask_dropping(p, shape, np.random.default_rng(0)),
        lesson.keras_mask(p, shape, seed=0),
        torch.nn.Dropout(p)(torch.ones(shape)).numpy(),
    ):
        assert np.mean(mask == 0) == pytest.approx(p, abs=bound)
        np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - p)], rtol=1e-6)


def test_the_slide_and_keras_agree_at_one_half_only():
    def same(p):
        keeping = lesson.mask_keeping(p, (50, 50), np.random.default_rng(1))
        dropping = lesson.mask_dropping(p, (50, 50), np.random.default_rng(1))
        return np.array_equal(keeping, dropping)

    assert [p for p in (0.1, 0.25, 0.5, 0.75, 0.9) if same(p)] == [0.5]


def test_half_of_the_nodes_are_dropped():
    # The slide's picture: "about 50% of the nodes".
    mask = lesson.mask_keeping(0.5, (10_000,), np.random.default_rng(0))
    assert np.mean(mask == 0) == pytest.approx(0.5, abs=0.025)  # five standard errors


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_the_passes_equal_keras(rate):
    x, upstream = layer(0), layer(1)
    mask = lesson.keras_mask(rate, x.shape, seed=3)
    trained = keras.random.dropout(x, rate, seed=3)
    # A product of two float32 numbers: one rounding.
    np.testing.assert_allclose(lesson.forward(x, mask), trained, rtol=2e-7)
    np.testing.assert_allclose(
        lesson.backward(upstream, mask),
        lesson.keras_backward(x, upstream, rate, seed=3),
        rtol=2e-7,
    )


def test_the_passes_equal_pytorch():
    x = torch.tensor(layer(0), requires_grad=True)
    torch.manual_seed(0)
    mask = torch.nn.functional.dropout(torch.ones_like(x), 0.3).numpy()
    torch.manual_seed(0)
    output = torch.nn.functional.dropout(x, 0.3)
    output.backward(torch.tensor(layer(1)))
    hand = lesson.forward(layer(0), mask)
    np.testing.assert_allclose(hand, output.detach().numpy(), rtol=2e-7)
    hand = lesson.backward(layer(1), mask)
    np.testing.assert_allclose(hand, x.grad.numpy(), rtol=2e-7)


def test_evaluation_changes_nothing():
    x = layer()
    np.testing.assert_array_equal(lesson.forward(x, None), x)
    np.testing.assert_array_equal(lesson.backward(x, None), x)
    keras_layer = keras.layers.Dropout(0.5)
    np.testing.assert_array_equal(keras_layer(x, training=False), x)


def test_the_noise_of_a_sum_of_three_nodes():
    x, rate = np.array([1.0, -2.0, 0.5]), 0.3
    mean = variance = 0.0
    for kept in itertools.product((0, 1), repeat=3):
        probability = np.prod([1 - rate if keep else rate for keep in kept])
        total = np.sum(x * kept) / (1 - rate)
        mean += probability * total
        variance += probability * (total - x.sum()) ** 2
    assert mean == pytest.approx(x.sum(), abs=1e-12)
    assert lesson.noise(x, rate) == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/dropout.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    assert "slide, prob=p" in capsys.readouterr().out
