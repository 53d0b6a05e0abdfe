"""Networks that are only looked at: shapes and settings, no weights."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Built = TypeVar("Built")


def without_weights(build: Callable[[], Built]) -> Built:
    """Build networks whose weights have shapes and are never drawn.

    A Keras variable made in a `StatelessScope` waits for its value in a list, and the
    next thing that Keras makes draws all that wait: minutes for large networks, and an
    error for those that no memory holds. The list belongs to a thread, so `build` runs
    in one of its own. Of this thread's settings the other has the data type policy and
    the context variables alone. Whoever asks for a weight's value has it drawn, each
    time anew.
    """
    import keras

    policy = keras.config.dtype_policy()

    def run() -> Built:
        keras.config.set_dtype_policy(policy)
        with keras.StatelessScope(initialize_variables=False):
            return build()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, run).result()
