"""Prepare a set from arrays with tfds' own builder: what tfds itself would write."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerascnn import UsageError, text
from kerascnn.data.archives import Splits
from kerascnn.data.official import OFFICIAL
from kerascnn.data.reading import quiet

# What identifies an image in a set's examples, if anything does.
_IDENTIFIERS = {"cifar10": "{split}_{index:05d}", "fashion_mnist": None}


def write(
    name: str,
    data_dir: str | os.PathLike,
    source: Callable[[Any], Splits],
    download_dir: str | os.PathLike,
) -> Path:
    """Prepare a set in ArrayRecord form from its images and labels; return its folder.

    tfds shuffles by the index of an example: the same images in the same original order
    give the same set as its own preparation. `source` takes tfds' download manager and
    returns images and labels of "train" and "test".
    """
    import tensorflow_datasets

    def examples(
        split: str, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            # tfds would encode an array with TensorFlow; it takes bytes as they are.
            example = {"image": _png(image), "label": int(label)}
            if identifier := _IDENTIFIERS[name]:
                example["id"] = identifier.format(split=split, index=index)
            yield index, example

    builder: Any = tensorflow_datasets.builder(
        name, data_dir=os.fspath(data_dir), file_format="array_record"
    )
    builder.info.features["label"].names = list(OFFICIAL[name].classes)
    # On the instance: a subclass would enter tfds' registry under the same name.
    builder._split_generators = lambda manager: {
        split: examples(split, *arrays) for split, arrays in source(manager).items()
    }
    with quiet(), progress_bars():
        builder.download_and_prepare(download_dir=os.fspath(download_dir))
    folder = Path(builder.data_dir)
    # tfds takes any folder of this name for the finished set.
    if not (folder / "dataset_info.json").is_file():
        raise UsageError(
            f"{folder} is there but holds no prepared set: delete it and try again."
        )
    return folder


@contextlib.contextmanager
def progress_bars() -> Iterator[None]:
    """Let tfds draw progress bars if there is a terminal, and print nothing else."""
    import tensorflow_datasets

    tensorflow_datasets.display_progress_bar(sys.stderr.isatty() and not text.quiet)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    pixels = image[:, :, 0] if image.shape[-1] == 1 else image
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
