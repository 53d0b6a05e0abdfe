"""Normalisation: the slides' statistics, and what a linear change leaves behind."""

import time

import numpy as np
import pytest

from kerascnn import data
from kerascnn.lessons import normalisation as lesson

# Lecture 3, Normalize([...], [...]), over the 50,000 training images.
SLIDE_MEAN = [0.4914, 0.4822, 0.4465]
SLIDE_STD = [0.2470, 0.2435, 0.2616]


@pytest.fixture(scope="module")
def images():
    return data.load("cifar10", data="sample").train.images


def test_the_slides_statistics(images):
    mean, std = lesson.of_a_data_set(images)
    # The means of single images deviate by 0.12: that of 2,500 by 0.0024, times four.
    np.testing.assert_allclose(mean, SLIDE_MEAN, rtol=0, atol=0.01)
    np.testing.assert_allclose(std, SLIDE_STD, rtol=0, atol=0.01)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1024])
def test_two_passes_equal_one_look_at_everything(images, batch_size):
    some = images[:50]
    mean, std = lesson.of_a_data_set(some, batch_size)
    # Sums in float64: 15 digits, of which adding up 51,200 numbers costs a few.
    np.testing.assert_allclose(mean, (some / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (some / 255).std((0, 1, 2)), rtol=1e-12)


def test_two_passes_equal_the_exact_statistics(images):
    for two_passes, exact in zip(
        lesson.of_a_data_set(images), data.statistics(images), strict=True
    ):
        np.testing.assert_allclose(two_passes, exact, rtol=1e-11)


def test_the_mean_of_deviations_leaves_out_how_images_differ():
    # Two even images, black and white: each deviates by 0, together they do by 1/2.
    images = np.zeros((2, 4, 4, 1), np.uint8)
    images[1] = 255
    assert lesson.mean_of_deviations(images).tolist() == [0.0]
    assert lesson.of_a_data_set(images)[1].tolist() == [0.5]
    # Two images of the same mean: nothing is left out.
    images = np.array([[0, 255], [255, 0]], np.uint8).reshape(2, 1, 2, 1)
    assert lesson.mean_of_deviations(images).tolist() == [0.5]
    assert lesson.of_a_data_set(images)[1].tolist() == [0.5]


@pytest.mark.parametrize(("gain", "offset"), [(0.4, 0.0), (0.4, 0.5), (255.0, -3.0)])
def test_a_linear_change_is_gone(images, gain, offset):
    image = images[0] / 255
    expected = lesson.normalise(image, *lesson.of_one_image(image))
    changed = gain * image + offset
    np.testing.assert_allclose(
        lesson.normalise(changed, *lesson.of_one_image(changed)), expected, atol=1e-12
    )
    # A negative factor leaves its sign.
    changed = -gain * image + offset
    np.testing.assert_allclose(
        lesson.normalise(changed, *lesson.of_one_image(changed)), -expected, atol=1e-12
    )


def test_by_the_sets_statistics_only_a_change_of_all_images_is_gone(images):
    mean, std = lesson.of_a_data_set(images)
    image = images[0] / 255
    expected = lesson.normalise(image, mean, std)
    stored = lesson.normalise(images[0].astype(float), 255 * mean, 255 * std)
    np.testing.assert_allclose(stored, expected, atol=1e-12)
    darker = lesson.normalise(0.4 * image, mean, std)
    np.testing.assert_allclose(expected - darker, 0.6 * image / std, atol=1e-12)


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/normalisation.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "0.4914" in printed
    assert "0.2616" in printed
