"""Decode a prepared set: ArrayRecord through tfds, TFRecord through TensorFlow."""

import contextlib
import importlib.util
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kerascnn import UsageError
from kerascnn.data.decoding import AS_THEY_ARE, RESIZING, Form, all_brought
from kerascnn.text import install, one_line

_CHUNK = 256
# Of a set with nothing to test on, every tenth example is held out.
_HELD_OUT = 10


@dataclass(frozen=True)
class Prepared:
    """A prepared set whose metadata are read and whose images are not yet.

    `splits` names the splits that serve as "train" and "test"; where both are the same
    one, every tenth example is the test set's.
    """

    folder: Path
    name: str
    version: str
    classes: tuple[str, ...]
    splits: dict[str, str]
    builder: Any
    changed: Counter[str] = field(default_factory=Counter)

    def count(self, role: str) -> int:
        """How many examples the set's record says that "train" or "test" holds."""
        number = self.builder.info.splits[self.splits[role]].num_examples
        if not self.held_out:
            return number
        held = number // _HELD_OUT
        return held if role == "test" else number - held

    @property
    def held_out(self) -> bool:
        """Whether the test set is held out of the only split there is."""
        return self.splits["train"] == self.splits["test"]

    def chunks(self, role: str, form: Form) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield a role's images and labels in order, a few hundred at a time."""
        split = self.builder.info.splits[self.splits[role]]
        if self.count(role) == 0:
            few = "is empty" if split.num_examples == 0 else "has too few examples"
            raise UsageError(f"{self.folder}: the split {split.name} {few}.")
        array_record = self.builder.info.file_format.value == "array_record"
        examples = self._array_record if array_record else self._tfrecord
        if None not in self.builder.info.features["image"].shape and not form.exact:
            form = AS_THEY_ARE
        shape, total = None, 0
        for batch in examples(split):
            images = [np.asarray(example["image"]) for example in batch]
            if form != AS_THEY_ARE:
                images = all_brought(images, form, self.changed)
            shape = shape or images[0].shape
            for image in images:
                if image.shape != shape:
                    raise UsageError(
                        f"{self.name} has images of unequal size, such as {shape} and "
                        f"{image.shape}: take a recipe whose transform begins "
                        f"with {RESIZING}."
                    )
            labels = self._labels(batch, split.name)
            number = np.arange(total, total + len(labels))
            total += len(labels)
            if self.held_out:
                chosen = self._holds(number, role)
                images = [
                    image for image, take in zip(images, chosen, strict=True) if take
                ]
                labels = labels[chosen]
            if len(labels):
                yield np.stack(images), labels
        if total != split.num_examples:
            raise _damaged(
                split.filepaths[0],
                self,
                f"{total} examples instead of {split.num_examples}",
            )

    def places(self, role: str) -> np.ndarray:
        """Return the numbers of a role's examples in their split, `(n,)`."""
        split = self.builder.info.splits[self.splits[role]]
        # Of millions of examples, each process that decodes holds these numbers.
        small = split.num_examples < 2**31
        every = np.arange(split.num_examples, dtype="int32" if small else "int64")
        return every[self._holds(every, role)] if self.held_out else every

    def _holds(self, number: np.ndarray, role: str) -> np.ndarray:
        """Whether a role has the examples of these numbers, where one is held out."""
        return (number % _HELD_OUT == _HELD_OUT - 1) == (role == "test")

    def _labels(self, batch: list[dict], name: str) -> np.ndarray:
        labels = np.array([example["label"] for example in batch], np.int32)
        if len(labels) and (labels.min() < 0 or labels.max() >= len(self.classes)):
            raise UsageError(
                f"{self.name} has unlabelled images in its split {name} "
                f"(label {labels.min()}): this version loads labelled sets."
            )
        return labels

    def open_records(self, role: str) -> "Records":
        """Open a role's examples to be read in any order.

        Raises:
            UsageError: The set is not in ArrayRecord form, or a file is damaged.
        """
        split = self.builder.info.splits[self.splits[role]]
        if self.builder.info.file_format.value != "array_record":
            raise UsageError(
                f"{self.folder} is in {self.builder.info.file_format.value} form, and "
                "a stream reads array_record: fetch the set into another folder with "
                f"`kerascnn data get {self.name} --data-dir FOLDER`."
            )
        _require_array_record(self.folder)
        for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
            self._check_shard(path, expected)
        return Records(self, split)

    def _check_shard(self, path: Any, expected: int) -> None:
        from array_record.python.array_record_module import (  # type: ignore
            ArrayRecordReader,
        )

        with _errors_name(path, self):
            # The data source trusts the set's record: a file with more or fewer
            # examples than that would be read in part, or end in its IndexError.
            reader = ArrayRecordReader(str(path))
            found = reader.num_records()
            reader.close()
            if found != expected:
                raise ValueError(f"{found} examples instead of {expected}")

    def _array_record(self, split) -> Iterator[list[dict]]:
        _require_array_record(self.folder)
        for shard, path in enumerate(split.filepaths):
            expected = split.shard_lengths[shard]
            self._check_shard(path, expected)
            with _errors_name(path, self):
                source = self.builder.as_data_source(f"{split.name}[{shard}shard]")
            for start in range(0, expected, _CHUNK):
                with _errors_name(path, self):
                    indices = range(start, min(start + _CHUNK, expected))
                    # One by one, ArrayRecord reads many times as long.
                    batch = source.__getitems__(list(indices))
                yield batch

    def _tfrecord(self, split) -> Iterator[list[dict]]:
        if importlib.util.find_spec("tensorflow") is None:
            raise UsageError(
                f"{self.folder} is in {self.builder.info.file_format.value} form, "
                f"which takes TensorFlow to read: {install('tensorflow')}, "
                f"or fetch it into another folder: kerascnn data get {self.name} "
                "--data-dir FOLDER."
            )
        import tensorflow
        import tensorflow_datasets

        # TensorFlow only reads here: left alone it would take all of a GPU's memory.
        with contextlib.suppress(RuntimeError):
            tensorflow.config.set_visible_devices([], "GPU")
        for shard, path in enumerate(split.filepaths):
            with _errors_name(path, self):
                rows = iter(
                    tensorflow_datasets.as_numpy(
                        self.builder.as_dataset(f"{split.name}[{shard}shard]")
                    )
                )
            batch = []
            while True:
                with _errors_name(path, self):
                    row = next(rows, None)
                if row is not None:
                    batch.append(row)
                if batch and (row is None or len(batch) == _CHUNK):
                    yield batch
                    batch = []
                if row is None:
                    break


class Records:
    """The examples of a split in ArrayRecord form, read in any order."""

    def __init__(self, prepared: Prepared, split: Any):
        self._prepared, self._split = prepared, split
        self._ends = np.cumsum(split.shard_lengths)
        self._undecoded: Any = None
        with _errors_name(split.filepaths[0], prepared):
            self._whole = prepared.builder.as_data_source(split.name)

    def read(self, places: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
        """Return images as they are stored, and labels, int32."""
        batch = self._examples(self._whole, places)
        images = [np.asarray(example["image"]) for example in batch]
        return images, self._prepared._labels(batch, self._split.name)

    def labels(self, places: Sequence[int]) -> np.ndarray:
        """Return labels, int32, without decoding an image."""
        from tensorflow_datasets import decode

        if self._undecoded is None:  # each reader holds an index of all examples
            skipped: Any = {"image": decode.SkipDecoding()}
            as_source = self._prepared.builder.as_data_source
            self._undecoded = as_source(self._split.name, decoders=skipped)
        batch = self._examples(self._undecoded, places)
        return self._prepared._labels(batch, self._split.name)

    def _examples(self, source: Any, places: Sequence[int]) -> list[dict]:
        with self._names(places):
            try:
                return source.__getitems__(list(places))
            except Exception:
                # Of many examples no error says in which file the bad one lies.
                for place in places:
                    with self._names([place]):
                        source.__getitems__([place])
                raise

    def _names(self, places: Sequence[int]) -> Any:
        shard = int(np.searchsorted(self._ends, places[0], "right")) if places else 0
        return _errors_name(self._split.filepaths[shard], self._prepared)


def _require_array_record(folder: Path) -> None:
    if importlib.util.find_spec("array_record") is None:
        raise UsageError(
            f"{folder} is in array_record form, and there is no package "
            "array_record for this platform: on Windows, work in WSL."
        )


def read(folder: Path) -> Prepared:
    """Read a prepared set's metadata, or raise `UsageError` where they are none."""
    import tensorflow_datasets

    try:
        with quiet():
            builder = tensorflow_datasets.builder_from_directory(folder)
            info: Any = builder.info
            features = dict(info.features.items())
            splits = list(info.splits)
    except Exception as error:
        raise UsageError(
            f"{folder} cannot be read as a prepared set ({one_line(error)}): "
            "delete it and prepare the set anew."
        ) from error
    name = info.full_name.rpartition("/")[0]
    image, label = features.get("image"), features.get("label")
    if not (
        isinstance(image, tensorflow_datasets.features.Image)
        and image.np_dtype == np.uint8
        and isinstance(label, tensorflow_datasets.features.ClassLabel)
    ):
        found = ", ".join(
            f"{key} ({type(feature).__name__})"
            for key, feature in sorted(features.items())
        )
        raise UsageError(
            f"{name} has the features {found}: expected an image classification set, "
            "with an 8-bit image and a label."
        )
    if "train" not in splits:
        raise UsageError(
            f"{name} has the splits {', '.join(splits)}: expected train and test, "
            "train and validation, or train alone."
        )
    test = next(each for each in ("test", "validation", "train") if each in splits)
    return Prepared(
        folder=folder,
        name=name,
        version=str(builder.version),
        classes=tuple(label.names),
        splits={"train": "train", "test": test},
        builder=builder,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep from the user what tfds logs about itself, such as advice on OpenCV."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _errors_name(path, prepared: Prepared) -> Iterator[None]:
    try:
        with quiet():
            yield
    except UsageError:
        raise
    # ArrayRecord, Pillow and TensorFlow each raise what they like on damaged bytes.
    except Exception as error:
        raise _damaged(path, prepared, one_line(error)) from error


def _damaged(path, prepared: Prepared, reason: str) -> UsageError:
    return UsageError(
        f"{path} is damaged ({reason}): delete {prepared.folder} and prepare the set "
        f"anew with `kerascnn data get {prepared.name}`."
    )
