"""The lectures' own PyTorch networks, and where this package and they part.

    from kerascnn import recipe
    from kerascnn.parity import twins, weights

    model = recipe.load("fashion_lenet").network()
    module = weights.to_torch(model, twins.load("fashion_lenet").network())

PyTorch is an extra; `check_torch` says how to get it.
"""

import importlib.util

from kerascnn import UsageError


def check_torch() -> None:
    """Raise `UsageError` unless PyTorch is installed: it is an extra."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            "parity compares with PyTorch, which is not installed; "
            "`pip install 'kerascnn[torch]'` installs it."
        )
