"""What makes a GPU compute the same bits each time."""

from __future__ import annotations

import os
import sys

import keras

from kerascnn import UsageError

_XLA_FLAG = "--xla_gpu_deterministic_ops=true"


def variables(backend: str) -> dict[str, str]:
    """Return the environment variables that a deterministic run needs.

    Args:
        backend: Keras's backend.

    Returns:
        Names and values; they must be set before the backend starts.
    """
    match backend:
        case "jax":
            flags = os.environ.get("XLA_FLAGS", "").split()
            return {"XLA_FLAGS": " ".join(dict.fromkeys([*flags, _XLA_FLAG]))}
        case "torch":
            return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        case _:
            return {}


def require() -> None:
    """Have the backend compute the same each time, or refuse what it can't.

    JAX then takes only kernels that add in a fixed order, and does not choose among
    them by timing them; TensorFlow and PyTorch likewise, and they raise an error where
    there is no such kernel.

    Raises:
        UsageError: The environment was not set before the backend started.
    """
    backend = keras.backend.backend()
    for name, value in variables(backend).items():
        if os.environ.get(name) != value:
            raise UsageError(
                f"a deterministic run needs the environment variable {name}={value} "
                "before Python starts (the command line sets it)."
            )
    if backend == "tensorflow":
        sys.modules["tensorflow"].config.experimental.enable_op_determinism()
    elif backend == "torch":
        sys.modules["torch"].use_deterministic_algorithms(True)
