"""Fine-tuning: a small set of another kind is learned better from given weights."""

import statistics

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

import kerascnn

TRAIN, TEST = 100, 600
SEEDS = (0, 1, 2)


@pytest.fixture
def digits(tmp_path):
    """Handwritten digits, scikit-learn's 8 x 8, as a folder of 28 x 28 images."""
    found = datasets.load_digits()
    for number in range(TRAIN + TEST):
        split = "train" if number < TRAIN else "test"
        folder = tmp_path / "digits" / split / f"digit {found.target[number]}"
        folder.mkdir(parents=True, exist_ok=True)
        grey = np.uint8(found.images[number] * 255 / 16)
        image = Image.fromarray(grey).resize((24, 24), Image.Resampling.BICUBIC)
        Image.fromarray(np.pad(image, 2)).save(folder / f"{number}.png")
    return tmp_path / "digits"


@pytest.mark.slow
def test_clothes_help_to_read_digits(digits, tmp_path, capsys):
    """LeNet's weights of Fashion-MNIST, on 100 digits: above a fresh start."""

    def trained(seed, weights):
        run = kerascnn.train(
            "fashion_lenet",
            dataset=str(digits),
            batch_size=20,
            epochs=5,
            seed=seed,
            weights=weights,
            record="off",
            report=False,
            out=tmp_path / f"{weights}-{seed}",
        )
        return run.result["test_accuracy"]

    fresh, tuned = (
        [trained(seed, weights) for seed in SEEDS] for weights in (None, "fashion")
    )
    with capsys.disabled():
        for name, shares in (("fresh", fresh), ("tuned", tuned)):
            print(f"\n{name}: {', '.join(f'{share:.1%}' for share in shares)}", end="")
    assert min(tuned) > max(fresh)
    assert statistics.mean(tuned) > statistics.mean(fresh) + 0.05
