"""Augmentation: the slides' settings and order, and what the draws add up to."""

import time

import numpy as np
import pytest

from kerascnn import data
from kerascnn.lessons import augmentation as lesson

# Lecture 3 and 4, Normalize; a black pixel after it.
MEAN, STD = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
BLACK = -MEAN / STD


@pytest.fixture(scope="module")
def image():
    return data.load("cifar10", data="sample").train.images[lesson.IMAGE]


@pytest.fixture(scope="module")
def many(image):
    # As many as the lesson draws: JAX compiles each operation once for all tests.
    return np.repeat(image[None], lesson.DRAWS, axis=0)


def test_the_slides_settings():
    assert lesson.crop().padding == 2
    assert lesson.rotation().degrees == (-5, 5)
    erasing = lesson.erasing()
    assert (erasing.p, erasing.scale, erasing.ratio) == (0.75, (0.01, 0.3), (1, 1))
    assert erasing.value == 0


def test_the_slides_order():
    order = [type(layer).__name__ for layer in lesson.rows()["all"]]
    assert order == [
        "RandomCrop",
        "RandomFlip",
        "RandomRotation",
        "Rescaling",
        "RandomErasing",
    ]


def test_the_crops_border_is_black_and_the_erased_square_is_the_mean(many):
    crops = lesson.apply(lesson.rows()["crop"], many)
    offsets = np.asarray(lesson.crop().draw(many.shape))
    # A crop from row 0 of the padded image begins with two rows of border.
    for crop, (top, left) in zip(crops[:100], offsets, strict=False):
        for border in (crop[: max(2 - top, 0)], crop[:, : max(2 - left, 0)]):
            black = np.broadcast_to(BLACK, border.shape)
            np.testing.assert_allclose(border, black, rtol=1e-5)
    erased = lesson.apply(lesson.rows()["erase"], many)
    everywhere = np.all(erased == 0, axis=3)
    assert everywhere.any()
    shown = lesson.for_the_eye(erased)[everywhere]
    np.testing.assert_allclose(shown, np.broadcast_to(MEAN, shown.shape), rtol=1e-6)


def test_for_the_eye_undoes_the_normalising(image):
    shown = lesson.for_the_eye(lesson.apply(lesson.rows()["as it is"], image[None]))
    np.testing.assert_allclose(shown[0], image / 255, atol=1e-6)


def test_shares():
    before = np.ones((4, 2, 2, 3))
    after = before.copy()
    after[1, 0, 0, 2] = 0  # changed, but not erased: one channel
    after[3, 1] = 0  # two of four pixels
    assert lesson.share_changed(before, after) == 0.5
    assert lesson.share_erased(after) == 2 / 16
    assert lesson.places(np.array([[0, 1], [1, 0], [0, 1]])) == 2


def test_the_share_erased_by_torchvisions_rule():
    # torchvision's loop for one image, many times; a square of this scale always fits.
    rng = np.random.default_rng(0)
    sides = np.zeros(200_000)
    for i in np.flatnonzero(rng.random(len(sides)) < 0.75):
        sides[i] = round(np.sqrt(rng.uniform(0.01, 0.3) * 32 * 32))
    shares = sides**2 / 32**2
    error = shares.std() / np.sqrt(len(shares))
    expected = lesson.share_erased_by_the_rule()
    assert expected == pytest.approx(shares.mean(), abs=4 * error)
    # Without rounding: 3/4 of the mean of 0.01 and 0.3.
    assert expected == pytest.approx(0.75 * 0.155, abs=0.001)


def test_one_seed_draws_the_same(many):
    first = lesson.apply(lesson.rows(seed=1)["all"], many)
    np.testing.assert_array_equal(first, lesson.apply(lesson.rows(seed=1)["all"], many))
    places = [np.asarray(lesson.crop(seed).draw(many.shape)) for seed in (1, 2)]
    assert np.any(places[0] != places[1])


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shares = {}
    share_changed = lesson.share_changed

    def remember(before, after):
        share = share_changed(before, after)
        shares[len(shares)] = share
        return share

    monkeypatch.setattr(lesson, "share_changed", remember)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/augmentation.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    assert "2,000 draws" in capsys.readouterr().out
    same, erase, crop, flip, _rotate, everything = shares.values()
    # Five standard errors of a share among 2,000.
    assert same == 0
    assert erase == pytest.approx(0.75, abs=0.05)
    assert crop == pytest.approx(24 / 25, abs=0.022)
    assert flip == pytest.approx(0.5, abs=0.056)
    assert everything > 0.98
