"""The NumPy rules, against PyTorch and by hand."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.nn import functional as F

from kerascnn.twins import rules


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 9, 12, 3), "uint8")


def test_normalize_by_hand():
    pixels = np.uint8([0, 51, 255]).reshape(3, 1, 1, 1)
    found = rules.Normalize((0.5,), (0.25,)).apply(pixels, None)
    np.testing.assert_allclose(found.ravel(), [-2, -1.2, 2], atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("size", [6, 20])  # smaller, larger
def test_resize_is_interpolate(images, size):
    rule = rules.ResizeAndCenterCrop(size)
    found = rule.apply(images.astype("float32"), None)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double()
    # 9 x 12: the shorter side becomes `size`, the other a third longer, cut to a whole.
    longer = {6: 8, 20: 26}[size]
    x = F.interpolate(x, (size, longer), mode="bilinear", antialias=True)
    left = (longer - size) // 2
    expected = x.numpy().transpose(0, 2, 3, 1)[:, :, left : left + size]
    # 0..255 in float32: half a unit of its last digit is 8e-6.
    np.testing.assert_allclose(found, expected, atol=2e-5)
    whole = rule.apply(images, None)
    assert (whole == np.rint(whole)).all()
    np.testing.assert_allclose(whole, expected, atol=0.5 + 1e-6)


def test_crop_is_pad_and_slice(images):
    draw = np.array([[0, 0], [4, 4], [2, 2], [1, 3], [4, 0]])
    found = rules.RandomCrop(2).apply(images, draw)
    for image, (top, left), crop in zip(images, draw, found, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        np.testing.assert_array_equal(padded[top : top + 9, left : left + 12], crop)


def test_rotation_is_grid_sample(images):
    """`affine_grid` and `grid_sample`, nearest: what torchvision itself calls."""
    images = images[:, :, :9]  # square: torchvision's grid is in pixels, not shares
    angles = np.array([0.0, 90, -5, 3.3, 17])
    found = rules.RandomRotation((-30, 30)).apply(images, angles)
    turn = np.radians(angles)
    matrix = np.stack(
        [
            np.stack([np.cos(turn), -np.sin(turn), 0 * turn], -1),
            np.stack([np.sin(turn), np.cos(turn), 0 * turn], -1),
        ],
        axis=1,
    )
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double()
    grid = F.affine_grid(torch.from_numpy(matrix), list(x.shape), align_corners=False)
    expected = F.grid_sample(x, grid, mode="nearest", align_corners=False)
    np.testing.assert_array_equal(found, expected.numpy().transpose(0, 2, 3, 1))


def test_erasing_by_hand():
    image = np.arange(1, 10).reshape(1, 3, 3, 1)
    rule = rules.RandomErasing(p=1, scale=(0.01, 0.3), ratio=(1, 1))
    found = rule.apply(image, np.array([[0, 1, 2, 2]]))
    assert found[0, :, :, 0].tolist() == [[1, 0, 0], [4, 0, 0], [7, 8, 9]]
    assert image[0, 0, 1, 0] == 2  # the argument stays


def test_draws_are_torchvision_s():
    dice = np.random.default_rng(0)
    shape = (4000, 32, 32, 3)
    crops = rules.RandomCrop(2).draw(dice, shape)
    assert np.unique(crops).tolist() == [0, 1, 2, 3, 4]
    boxes = rules.RandomErasing(0.75, (0.01, 0.3), (1.0, 1.0)).draw(dice, shape)
    erased = boxes[:, 2] > 0
    # Four standard errors of a share of 0.75 among 4,000: 2.7 points.
    assert abs(erased.mean() - 0.75) < 0.027
    assert (boxes[:, 2] == boxes[:, 3]).all()
    sides = boxes[erased, 2]
    assert sides.min() == round(math.sqrt(0.01 * 1024))
    assert sides.max() == round(math.sqrt(0.3 * 1024))
    assert (boxes[:, :2] + boxes[:, 2:] <= 32).all()
    flips = rules.RandomHorizontalFlip().draw(dice, shape)
    assert abs(flips.mean() - 0.5) < 0.032
    angles = rules.RandomRotation((-5, 5)).draw(dice, shape)
    assert -5 <= angles.min() < -4.9
    assert 4.9 < angles.max() <= 5
