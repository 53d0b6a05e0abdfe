"""Which images of a batch count, where others fill the batch up.

Devices take equally many images each. A batch that the devices do not divide is filled
up with images that count in no mean: neither in the loss nor in BatchNorm's statistics.
"""

import contextlib
import contextvars

_counted = contextvars.ContextVar("counted", default=None)


@contextlib.contextmanager
def only(counted):
    """Have layers take their means over these images, while a function is traced.

    `counted` is a bool array, `(batch,)`; with None all images count.
    """
    token = _counted.set(counted)
    try:
        yield
    finally:
        _counted.reset(token)


def images():
    """Which images of the batch count, bool `(batch,)`; None where all do."""
    return _counted.get()
