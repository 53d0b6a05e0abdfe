import numpy as np
import pytest

from kerascnn import UsageError, data

# Lecture 4's figures, to four places.
LECTURE_MEAN, LECTURE_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def random_images(shape):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, shape, np.uint8)
    images[..., 0] //= 2  # the channels must not be mixed up
    return images


@pytest.mark.parametrize("shape", [(7, 5, 4, 3), (10, 28, 28, 1), (1, 1, 1, 2)])
@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_statistics_are_numpy_float64s(shape, chunk):
    images = random_images(shape)
    scaled = images.astype(np.float64) / 255
    mean, std = data.statistics(images, chunk)
    # NumPy rounds each of its sums: a few units in the sixteenth place.
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-12, atol=1e-15)


def test_statistics_are_exact():
    # Half black, half white: mean and deviation are one half to the last bit.
    images = np.zeros((4, 2, 2, 1), np.uint8)
    images[:2] = 255
    assert data.statistics(images) == ((0.5,), (0.5,))
    # One value alone deviates by nothing; in floating point it often does.
    assert data.statistics(np.full((3, 7, 7, 1), 77, np.uint8)) == ((77 / 255,), (0,))


@pytest.mark.full_data
def test_statistics_of_cifar_are_the_lectures(full_data):
    images = full_data("cifar10").train.images
    mean, std = data.statistics(images)
    # The lecture gives four places: half a unit of the fourth.
    np.testing.assert_allclose(mean, LECTURE_MEAN, rtol=0, atol=5e-5)
    np.testing.assert_allclose(std, LECTURE_STD, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 3, 1), np.float32),
        np.zeros((2, 3, 3), np.uint8),
        np.zeros((0, 3, 3, 1), np.uint8),
    ],
)
def test_statistics_refuse_other_arrays(images):
    with pytest.raises(UsageError, match="expected uint8"):
        data.statistics(images)
