"""The learning rate: decay and optimisers against PyTorch's."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn.lessons import learning_rate as lesson  # noqa: E402


@pytest.mark.parametrize("gamma", [0.96, 0.9])
def test_decay_equals_pytorch(gamma):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=gamma)
    for epoch in range(60):
        # PyTorch multiplies again and again, in float64.
        expected = optimizer.param_groups[0]["lr"]
        assert lesson.exponential(1e-3, gamma, epoch) == pytest.approx(
            expected, rel=1e-12
        )
        optimizer.step()
        scheduler.step()


def test_the_slides_decay():
    # gamma 0.96 after every epoch, worked out by hand: 0.96^2 = 0.9216.
    rates = [lesson.exponential(1e-3, 0.96, epoch) for epoch in (0, 1, 2)]
    assert rates == pytest.approx([0.001, 0.00096, 0.0009216], rel=1e-12)
    # It halves in about 17 epochs.
    assert lesson.exponential(1.0, 0.96, 17) == pytest.approx(0.5, abs=0.001)


def walk_of_pytorch(optimizer, learning_rate, steps):
    point = torch.tensor(lesson.START, requires_grad=True)
    optimizer = optimizer([point], lr=learning_rate)
    points = [lesson.START]
    for _ in range(steps):
        optimizer.zero_grad()
        ((point[0] ** 2 + 25 * point[1] ** 2) / 2).backward()
        optimizer.step()
        points.append(point.detach().numpy().copy())
    return np.array(points)


@pytest.mark.parametrize(
    ("update", "optimizer", "learning_rate"),
    [
        (lesson.sgd, torch.optim.SGD, 0.07),
        (lesson.adam, torch.optim.Adam, 0.2),
        (lesson.adam, torch.optim.Adam, 1e-3),
    ],
)
def test_the_walk_equals_pytorchs(update, optimizer, learning_rate):
    walk = lesson.descend(update(), [learning_rate] * 60)
    expected = walk_of_pytorch(optimizer, learning_rate, 60)
    np.testing.assert_allclose(walk, expected, rtol=1e-9, atol=1e-12)


def test_the_slope_is_the_heights():
    point = np.array([0.7, -0.3])
    for axis in np.eye(2):
        difference = (
            lesson.height(point + 1e-6 * axis) - lesson.height(point - 1e-6 * axis)
        ) / 2e-6
        assert lesson.slope(point) @ axis == pytest.approx(difference, rel=1e-8)


def test_sgd_leaps_out_above_2_25():
    start = lesson.height(lesson.START)
    inside, outside = (
        lesson.height(lesson.descend(lesson.sgd(), [rate] * 2000)[-1])
        for rate in (0.0799, 0.0801)
    )
    assert inside < start / 100
    assert outside > start


def test_adam_does_not_notice_the_scale():
    once = lesson.descend(lesson.adam(), [0.2] * 60)
    steep = lesson.descend(lesson.adam(), [0.2] * 60, scale=100.0)
    # Epsilon, 1e-8, is not scaled along.
    np.testing.assert_allclose(once, steep, rtol=1e-5, atol=1e-6)


def test_decay_settles_where_a_constant_rate_does_not():
    constant, decayed = lesson.noisy_descent(1.0), lesson.noisy_descent(0.96)
    assert constant[0] == decayed[0] == lesson.height(lesson.START)
    assert decayed[-5:].mean() < constant[-5:].mean() / 5


@pytest.mark.slow
def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    losses = {}
    train = lesson.train

    def remember(runs):
        adam = ("Adam", 1e-3, 1.0)
        *values, again = train([*runs, adam])
        losses.update(zip(runs, values, strict=True))
        # Each run begins anew, whatever ran before it.
        assert again == losses[adam]
        return values

    monkeypatch.setattr(lesson, "train", remember)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/learning_rate.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    assert "8.64e-05" in capsys.readouterr().out  # 0.001 x 0.96^60
    # The lesson's claims about the recipe.
    last = {run: values[-1] for run, values in losses.items()}
    assert last["SGD", 1e-3, 1.0] > 3 * last["SGD", 1e-1, 1.0]
    assert last["Adam", 1e-2, 0.85] < 0.8 * last["Adam", 1e-2, 1.0]
