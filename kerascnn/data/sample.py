"""Make the bundled samples from the full sets.

`python -m kerascnn.data.sample FOLDER` writes the samples of both sets into FOLDER, as
they lie in `kerascnn/data/samples`. The rule: of each class, the 250 training and the
100 test images whose SHA-256 are the smallest. It chooses as if by lot, and the same
images whatever order a set is in.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from kerascnn.data.loading import load
from kerascnn.data.official import OFFICIAL
from kerascnn.data.writing import write

PER_CLASS = {"train": 250, "test": 100}


def choose(images: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """Return the int64 indices of each class's images of the smallest SHA-256."""
    digests = np.array(
        [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    )
    ranked = np.argsort(digests, kind="stable")
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[ranked[labels[ranked] == label][:number]] = True
    return ranked[chosen[ranked]]


def make(name: str, folder: str | Path) -> Path:
    """Write the sample of one of the course's sets, which is fully prepared here."""
    full = load(name, data="full")
    splits = {}
    for split, number in PER_CLASS.items():
        whole = getattr(full, split)
        chosen = choose(whole.images, whole.labels, number)
        splits[split] = (whole.images[chosen], whole.labels[chosen])
    with tempfile.TemporaryDirectory() as downloads:
        made = write(name, folder, lambda manager: splits, downloads)
    # The builder's description speaks of the full set.
    file = made / "dataset_info.json"
    info = json.loads(file.read_text("utf-8"))
    info["description"] = (
        f"A class-balanced sample of {name}: of each class, the {PER_CLASS['train']} "
        f"training and the {PER_CLASS['test']} test images whose SHA-256 are the "
        "smallest."
    )
    file.write_text(json.dumps(info, indent=2), "utf-8")
    return made


if __name__ == "__main__":
    for each in OFFICIAL:
        print(make(each, sys.argv[1]))
