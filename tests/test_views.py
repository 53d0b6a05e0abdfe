"""The views of an evaluation, against PyTorch's padding."""

import contextlib

with contextlib.suppress(ImportError):
    import torch  # before TensorFlow, or the two crash

import numpy as np
import pytest

from kerascnn import views


@pytest.mark.needs("torch")
@pytest.mark.parametrize("pixels", [1, 2])
def test_the_six_views_are_airbench_s(pixels):
    shape = (3, 9, 7, 2)
    images = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    x = torch.from_numpy(images).float().permute(0, 3, 1, 2)
    padded = torch.nn.functional.pad(x, (pixels,) * 4, "reflect")
    last = 2 * pixels
    crops = [x, padded[:, :, last:, last:], padded[:, :, :-last, :-last]]
    expected = [view for crop in crops for view in (crop, crop.flip(-1))]
    found = list(views.flips_and_shifts(images, pixels))
    assert len(found) == 6
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, theirs.permute(0, 2, 3, 1).numpy())
