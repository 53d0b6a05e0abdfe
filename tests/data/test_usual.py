"""Images unlike a set: one in a hundred of its own at most, of others nearly all."""

import numpy as np
import pytest

from kerascnn import data
from kerascnn.data import usual


@pytest.mark.parametrize("number", [10, 20, 60, 200, 1000, 2500])
@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_few_images_are_enough_to_know_others_of_the_set(name, number):
    """The extremes of sixty photographs would exclude one of their kind in twenty."""
    found = data.load(name, "sample")
    train, test = np.asarray(found.train.images), np.asarray(found.test.images)
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(10):
        some = train[rng.choice(len(train), number, replace=False)]
        said = usual.unlike(test, usual.ranges(some))
        shares.append(np.mean([bool(each) for each in said]))
    assert np.mean(shares) < 0.01


@pytest.mark.parametrize("number", [10, 60, 2500])
def test_clothes_on_a_white_ground_are_unlike_those_on_black(number):
    found = data.load("fashion_mnist", "sample")
    ranges = usual.ranges(np.asarray(found.train.images[:number]))
    said = usual.unlike(255 - np.asarray(found.test.images[:100]), ranges)
    assert np.mean(["its border is brighter" in each for each in said]) > 0.98


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_ranges_are_the_quantiles_of_numpy(name):
    images = np.asarray(data.load(name, "sample").train.images)
    exact = images.astype(np.float64).mean(-1)
    framed = np.ones(exact.shape[1:], bool)
    framed[1:-1, 1:-1] = False
    expected = {
        "border": exact[:, framed].mean(1),
        "brightness": exact.mean((1, 2)),
        "contrast": exact.std((1, 2)),
    }
    found = usual.ranges(images)
    for measure, values in expected.items():
        quantiles = np.quantile(values, (0.0005, 0.9995))
        # They are rounded to a decimal.
        np.testing.assert_allclose(found[measure], quantiles, atol=0.051)


def test_one_image_alone_excludes_nothing():
    image = np.full((1, 8, 8, 3), 7, "uint8")
    assert usual.unlike(255 - image, usual.ranges(image)) == [[]]
