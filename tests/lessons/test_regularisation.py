"""L2 by hand against PyTorch, Keras and the exact minimum."""

import time

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn import optim  # noqa: E402
from kerascnn.lessons import regularisation as lesson  # noqa: E402

SLIDE = 5e-4  # Adam(..., weight_decay=5e-4)


def kernels():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(5, 4)), rng.normal(size=(3, 3, 2, 2))]


def test_the_penalty_is_lambda_times_the_squared_weights():
    first, second = kernels()
    squares = np.sum(first**2) + np.sum(second**2)
    # weight_decay 5e-4 is a lambda of 2.5e-4.
    assert lesson.penalty([first, second], SLIDE) == pytest.approx(2.5e-4 * squares)


def test_the_penalty_equals_keras():
    kernel = kernels()[1].astype("float32")
    expected = float(optim.weight_decay(SLIDE)(kernel))
    # float32 sums of 36 squares.
    assert lesson.penalty([kernel], SLIDE) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_the_penaltys():
    kernel = kernels()[0].astype("float32")
    gradient = jax.grad(lambda w: SLIDE / 2 * (w**2).sum())(kernel)
    np.testing.assert_allclose(
        lesson.penalty_gradient(kernel, SLIDE), gradient, rtol=1e-6
    )


def test_the_step_equals_pytorchs_weight_decay():
    kernel, gradient = np.random.default_rng(1).normal(size=(2, 6, 5))
    parameter = torch.tensor(kernel, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1, weight_decay=SLIDE)
    parameter.grad = torch.tensor(gradient)
    optimizer.step()
    np.testing.assert_allclose(
        lesson.step(kernel, gradient, 0.1, SLIDE),
        parameter.detach().numpy(),
        rtol=1e-12,
        atol=1e-15,
    )


@pytest.mark.parametrize("weight_decay", [0.01, 0.1, 1.0])
def test_two_equal_inputs_share_the_weight(weight_decay):
    w = lesson.two_equal_inputs(weight_decay, steps=50_000)
    # From (w1 + w2 - 1) + weight_decay w = 0 for both.
    np.testing.assert_allclose(w, 1 / (2 + weight_decay), rtol=1e-6)


def test_without_l2_two_equal_inputs_keep_what_they_have():
    assert lesson.two_equal_inputs(0.0).tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained = []
    train = lesson.train

    def remember(*arguments):
        trained.append(train(*arguments))
        return trained[-1]

    monkeypatch.setattr(lesson, "train", remember)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/regularisation.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    assert "0.0005" in capsys.readouterr().out
    # The lesson's claims: the weights shrink, and the gap closes under strong decay.
    squares = [lesson.penalty(net.kernels, 2.0) for net in trained]
    assert squares[0] > 1.1 * squares[1] > 5 * squares[2]
    gaps = [net.train - net.test for net in trained]
    assert gaps[2] < gaps[0] / 2
    assert trained[2].test > 0.75
