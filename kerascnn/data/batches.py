"""The batches of a run in their order, made ahead of it by Grain."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from kerascnn import UsageError, text
from kerascnn.data.arrays import Split
from kerascnn.data.selection import order
from kerascnn.data.streamed import StreamedSplit
from kerascnn.process import cores

Batch = tuple[np.ndarray, np.ndarray]  # images, uint8, and labels, int32

# Batches that wait in this process where no other makes them.
_AHEAD = 2
# Processes that decode, at most, where no number is asked for: half of the cores, since
# the others compute.
_MOST = 16


class Batches:
    """The batches of a run: of each epoch those to train on, then those to evaluate on.

    Which images make a batch is a function of seed, epoch and step, so that a run's
    position is two numbers, and no state of an iterator. Batches are made in their
    order, ahead of the one that is asked for; one out of order begins anew there.

    Args:
        train: The training images.
        test: The images to evaluate on after each epoch.
        seed: Decides the order, as `data.order` says.
        epochs: How many there are.
        batch_size: Images of a training batch, of all processes together.
        drop_last: Leave out an epoch's last batch where it is smaller.
        evaluated: The images of each batch of an evaluation, int `(images,)` each.
        workers: Processes that decode; 0 decodes in this one, as splits of arrays
            always are.
        share: `(index, count)`: of each batch make only the `index`th of `count`
            contiguous parts, for a run of several processes. The parts of a batch whose
            images `count` does not divide differ by one image.

    Raises:
        UsageError: Grain is not installed.
    """

    def __init__(
        self,
        train: Split,
        test: Split,
        seed: int,
        epochs: int,
        batch_size: int,
        drop_last: bool = False,
        evaluated: tuple[np.ndarray, ...] = (),
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
    ):
        require()
        index, count = share
        if not 0 <= index < count:
            raise ValueError(f"share={share}: expected an index from 0 below a count.")
        self._made = _Made(
            train, test, seed, epochs, batch_size, drop_last, evaluated, share
        )
        streamed = any(isinstance(each, StreamedSplit) for each in (train, test))
        self.workers = workers if streamed else 0
        self._iterator: Any = None
        self._began = self._next = 0

    def training(self, epoch: int, step: int = 0) -> Iterator[Batch]:
        """Yield an epoch's training batches from a step on, both counted from 0."""
        first = epoch * self._made.an_epoch
        return self._from(first + step, first + self._made.steps)

    def evaluation(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of the evaluation after an epoch."""
        first = epoch * self._made.an_epoch + self._made.steps
        return self._from(first, first + len(self._made.evaluated))

    def _from(self, first: int, end: int) -> Iterator[Batch]:
        for number in range(first, end):
            iterator = self._iterator
            if iterator is None or number != self._next:
                iterator = self._begin(number)
            # Each of the first batches is the first of another process.
            starts = number - self._began < self.workers
            try:
                with _workers_start() if starts else contextlib.nullcontext():
                    images, labels = next(iterator)
            except UsageError:
                del iterator
                self.close()
                raise
            except RuntimeError as error:
                del iterator
                self.close()
                if "Worker process" not in str(error):
                    raise
                raise UsageError(
                    "a process that decodes images has died, as where memory is short "
                    f"({error}): go on with `kerascnn resume RUN`, with fewer "
                    "--workers or with none, --workers 0."
                ) from error
            del iterator
            self._next = number + 1
            # Copies: a worker's arrays lie in memory that the processes share, which
            # is given back only when nothing refers to it.
            batch = np.array(images), np.array(labels)
            del images, labels
            yield batch

    def _begin(self, number: int) -> Iterator[Batch]:
        """Have batches made from one on."""
        import grain

        self.close()
        left = dataclasses.replace(self._made, first=number)
        ahead = 0 if self.workers else 1
        reading = grain.ReadOptions(ahead, ahead * _AHEAD)
        dataset = grain.MapDataset.source(left).to_iter_dataset(reading)
        if self.workers:
            from absl import flags

            # Grain's settings are flags, which no one reads from the command line.
            flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(self.workers)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_begin_worker)
        self._iterator = iter(dataset)
        self._began = self._next = number
        return self._iterator

    def close(self) -> None:
        """End the processes; a batch that is asked for later begins them anew."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            iterator.close()
            del iterator
            # The batches that were ahead lie in memory that the processes share, which
            # the system keeps until nothing refers to it. They are in circles.
            gc.collect()


@dataclasses.dataclass(frozen=True)
class _Made:
    """A run's batches by their number, from a first one on: what Grain reads."""

    train: Split
    test: Split
    seed: int
    epochs: int
    batch_size: int
    drop_last: bool
    evaluated: tuple[np.ndarray, ...]
    share: tuple[int, int]
    first: int = 0

    @property
    def steps(self) -> int:
        """Training batches of an epoch."""
        whole, rest = divmod(len(self.train), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def an_epoch(self) -> int:
        """Batches of an epoch and the evaluation after it."""
        return self.steps + len(self.evaluated)

    def __len__(self) -> int:
        return self.epochs * self.an_epoch - self.first

    def __getitem__(self, index: int) -> Batch:
        epoch, place = divmod(index + self.first, self.an_epoch)
        if place < self.steps:
            start = place * self.batch_size
            chosen = _order(self.seed, epoch, len(self.train))
            return self.train.batch(self._own(chosen[start : start + self.batch_size]))
        return self.test.batch(self._own(self.evaluated[place - self.steps]))

    def _own(self, chosen: np.ndarray) -> np.ndarray:
        index, count = self.share
        images = len(chosen)
        return chosen[index * images // count : (index + 1) * images // count]


@functools.lru_cache(maxsize=1)
def _order(seed: int, epoch: int, images: int) -> np.ndarray:
    found = order(seed, epoch, images)
    # Each process that decodes holds it.
    return found.astype("int32") if images < 2**31 else found


def default_workers() -> int:
    """Return how many processes decode where no number is asked for."""
    return max(1, min(_MOST, cores.available() // 2))


def is_installed() -> bool:
    """Whether Grain, which makes batches ahead, is installed."""
    return importlib.util.find_spec("grain") is not None


def require() -> None:
    """Raise `UsageError` unless Grain is installed."""
    if not is_installed():
        raise UsageError(
            f"images are read as a stream by Grain: {text.install('stream')}. "
            "Macs with Intel processors have no build of it: make the images fit the "
            "memory there, with a smaller --image-size."
        )


def _begin_worker(index: int, count: int) -> None:
    """Have a worker end with its parent, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@contextlib.contextmanager
def _workers_start() -> Iterator[None]:
    """Keep the processes that begin from running the program's own file again."""
    # The module `spawn` would import it for what is pickled, and nothing here is of it.
    # It may import Keras, or train where a script has no `if __name__ == "__main__"`.
    main = vars(sys.modules["__main__"])
    hidden = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
    main["__spec__"] = None  # which `multiprocessing` reads
    try:
        yield
    finally:
        del main["__spec__"]
        main.update(hidden)
