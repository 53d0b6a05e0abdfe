"""Prepare a set from arrays with tfds' own builder: what tfds itself would write."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kerascnn import UsageError
from kerascnn.data.reading import quiet

# The sets that can be written: those tfds' builders of which are known to take these
# examples, with the feature that identifies an image, if there is one.
_IDENTIFIERS = {"cifar10": "{split}_{index:05d}", "fashion_mnist": None}


def write(
    name: str,
    data_dir: str | os.PathLike,
    classes: Sequence[str],
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
    indices: dict[str, np.ndarray] | None = None,
) -> Path:
    """Prepare a set in ArrayRecord form from its images and labels.

    tfds shuffles by the index of an example: the same images in the same original
    order give the same files as its own preparation.

    Args:
        name: "cifar10" or "fashion_mnist".
        data_dir: the folder of prepared sets.
        classes: the names of the classes.
        splits: for "train" and "test", uint8 images (n, height, width, channels) and
            integer labels (n,), in the original order.
        indices: for each split, the original index of each image; None means 0 to n-1.

    Returns:
        The folder of the prepared set. It appears under its name when it is whole.

    Raises:
        UsageError: the folder cannot be written.
    """
    import tensorflow_datasets

    def examples(split: str) -> Iterator[tuple[int, dict]]:
        images, labels = splits[split]
        order = range(len(labels)) if indices is None else indices[split]
        for index, image, label in zip(order, images, labels, strict=True):
            # tfds would encode an array with TensorFlow; it takes bytes as they are.
            example = {"image": _png(image), "label": int(label)}
            if identifier := _IDENTIFIERS[name]:
                example["id"] = identifier.format(split=split, index=index)
            yield int(index), example

    try:
        # tfds makes a folder for downloads, of which there are none.
        with quiet(), _progress_bar(), tempfile.TemporaryDirectory() as downloads:
            builder = tensorflow_datasets.builder(
                name, data_dir=str(data_dir), file_format="array_record"
            )
            builder.info.features["label"].names = list(classes)
            # On the instance: a subclass would enter tfds' registry under this name.
            builder._split_generators = lambda dl_manager: {
                split: examples(split) for split in ("train", "test")
            }
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        raise UsageError(
            f"{data_dir} cannot be written ({error.strerror or error}): make room or "
            "pass another folder with --data-dir."
        ) from error
    return Path(builder.data_dir)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    pixels = image[:, :, 0] if image.shape[-1] == 1 else image
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


@contextlib.contextmanager
def _progress_bar() -> Iterator[None]:
    """Let tfds draw its progress on a terminal, and nothing else print its notes."""
    import sys

    import tensorflow_datasets

    tensorflow_datasets.display_progress_bar(sys.stderr.isatty())
    with contextlib.redirect_stdout(io.StringIO()):
        yield
