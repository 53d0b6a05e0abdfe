"""The smoothed cross-entropy against PyTorch's."""

import contextlib

with contextlib.suppress(ImportError):
    import torch  # before TensorFlow, or the two crash

import keras
import numpy as np
import pytest

from kerascnn.engine import losses

LOGITS = np.random.default_rng(0).normal(scale=4, size=(32, 10)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 10, 32).astype("int32")


@pytest.mark.needs("torch")
@pytest.mark.parametrize("smoothing", [0.0, 0.09, 0.5, 1.0])
def test_smoothed_cross_entropy_is_pytorch_s(smoothing):
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(LOGITS),
        torch.from_numpy(LABELS).long(),
        label_smoothing=smoothing,
        reduction="none",
    )
    ours = losses.crossentropy(LABELS, LOGITS, smoothing)
    ours = keras.ops.convert_to_numpy(ours)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)
    mean = losses.SmoothedCrossentropy(smoothing)(LABELS, LOGITS)
    assert float(mean) == pytest.approx(float(theirs.mean()), rel=1e-5)


def test_the_loss_is_saved_with_its_smoothing():
    loss = losses.SmoothedCrossentropy(0.25)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, losses.SmoothedCrossentropy)
    assert again.label_smoothing == 0.25
