"""Make the bundled samples from the full sets.

    python -m kerascnn.data.sample FOLDER

writes the samples of every set into FOLDER, as they lie in `kerascnn/data/samples`.
The rule: the first 250 training and the first 100 test images of each class, in the
order in which tensorflow-datasets prepares the set.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from kerascnn.data.loading import load
from kerascnn.data.official import OFFICIAL
from kerascnn.data.writing import write

PER_CLASS = {"train": 250, "test": 100}


def first_of_each_class(labels: np.ndarray, number: int) -> np.ndarray:
    """The indices of the first images of each class, in ascending order.

    Args:
        labels: integers (n,).
        number: how many images of each class.

    Returns:
        int64 indices (classes * number,).
    """
    chosen = [np.flatnonzero(labels == each)[:number] for each in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def make(name: str, folder: str | Path) -> Path:
    """Write the sample of one set.

    Args:
        name: "cifar10" or "fashion_mnist", fully prepared on this machine.
        folder: the folder of samples.

    Returns:
        The folder of the sample.

    Raises:
        UsageError: the full set is not prepared, or the folder cannot be written.
    """
    full = load(name, data="full")
    splits, indices = {}, {}
    for split, number in PER_CLASS.items():
        whole = getattr(full, split)
        indices[split] = first_of_each_class(whole.labels, number)
        splits[split] = (whole.images[indices[split]], whole.labels[indices[split]])
    with tempfile.TemporaryDirectory() as downloads:
        made = write(name, folder, lambda manager: splits, downloads, indices)
    # The builder's description speaks of the full set.
    file = made / "dataset_info.json"
    info = json.loads(file.read_text())
    info["description"] = (
        f"A class-balanced sample of {name}: the first {PER_CLASS['train']} training "
        f"and the first {PER_CLASS['test']} test images of each class, in the order in "
        "which tensorflow-datasets prepares the set."
    )
    file.write_text(json.dumps(info, indent=2))
    return made


if __name__ == "__main__":
    for each in OFFICIAL:
        print(make(each, sys.argv[1]))
