"""The stages of a fit: the points, the measures, and the lesson's claims."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import keras  # noqa: E402

from kerascnn.lessons import fit as lesson  # noqa: E402


def test_the_points():
    points, classes = lesson.cloud_and_ring(20_000, seed=0)
    assert np.bincount(classes).tolist() == [10_000, 10_000]
    for number, radius in ((0, 0.3), (1, 1.2)):
        # The mean of x^2 + y^2: radius^2 and twice the noise's variance. Five standard
        # errors of 10,000 are below 0.04.
        squares = np.sum(points[classes == number] ** 2, axis=1)
        assert squares.mean() == pytest.approx(radius**2 + 2 * 0.4**2, abs=0.04)
        assert np.abs(points[classes == number].mean(axis=0)).max() < 0.05
    exact, _ = lesson.cloud_and_ring(100, seed=0, noise=0.0)
    np.testing.assert_allclose(np.hypot(*exact.T), [0.3, 1.2] * 50, rtol=1e-6)


def test_cross_entropy_equals_pytorch():
    rng = np.random.default_rng(0)
    logits, classes = rng.normal(size=(50, 2)) * 300, rng.integers(0, 2, 50)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(classes)
    )
    assert lesson.cross_entropy(logits, classes) == pytest.approx(
        expected.item(), rel=1e-12
    )


def test_the_networks_initial_weights_follow_he():
    model = lesson.network()
    kernel = model.get_weights()[2]
    assert kernel.shape == (128, 128)
    # 16,384 draws: the deviation is known to within 0.6%.
    assert kernel.std() == pytest.approx(np.sqrt(2 / 128), rel=0.03)
    assert model.count_params() == 3 * 128 + 129 * 128 + 129 * 2


def test_following_counts_steps_and_learns_from_the_training_set_alone():
    points, classes = lesson.cloud_and_ring(10, seed=0)
    sets = {"training": (points, classes), "validation": (points, 1 - classes)}
    model = lesson.network(nodes=8)
    moments = lesson.follow(model, sets, looks=(1, 4, 40))
    assert [moment.step for moment in moments] == [0, 1, 4, 40]
    assert int(model.optimizer.iterations) == 40
    assert moments[3].loss["training"] < moments[0].loss["training"]
    for moment in moments:
        assert moment.accuracy["training"] + moment.accuracy["validation"] == 1

    # The same steps one by one.
    again = lesson.network(nodes=8)
    again.compile(
        optimizer=model.optimizer.from_config(model.optimizer.get_config()),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for _ in range(4):
        again.train_on_batch(points, classes)
    for one, other in zip(again.get_weights(), moments[2].weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_stages():
    moments = [
        lesson.Moment(step, [], {"validation": loss}, {})
        for step, loss in ((0, 0.9), (1, 0.7), (40, 0.5), (90, 0.3), (200, 0.8))
    ]
    named = lesson.stages(moments)
    assert list(named) == ["before training", "beginning", "robust", "overfit"]
    assert [moment.step for moment in named.values()] == [0, 40, 90, 200]


@pytest.mark.slow
def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = {}
    stages = lesson.stages

    def remember(moments):
        found.update(stages(moments))
        return dict(found)

    monkeypatch.setattr(lesson, "stages", remember)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/fit.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    assert "robust" in capsys.readouterr().out
    # The slides' words. Random at first:
    test = {name: moment.accuracy["test"] for name, moment in found.items()}
    assert test["before training"] == pytest.approx(0.5, abs=0.1)
    # then a better and a robust fit; in the end "perfect training loss",
    assert test["before training"] < test["beginning"] < test["robust"]
    assert found["overfit"].loss["training"] < 0.01
    # and worse on new points.
    assert test["overfit"] < test["robust"] - 0.02
    assert found["overfit"].loss["test"] > 2 * found["robust"].loss["test"]
