"""Layers, optimisers and their settings in the words of the lectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Settings that speak for themselves, and settings that need their name beside them.
PLAIN = (
    *("filters", "kernel_size", "units", "pool_size", "padding", "activation"),
    *("mode", "degrees", "distribution"),
)
DEFAULTS = ("linear", "valid")
NAMED = (
    *("learning_rate", "strides", "rate", "gamma", "l2", "p"),
    *("scale", "offset", "ratio", "minval", "maxval"),
)


def call(kind: str, config: Mapping[str, Any], more: tuple[str, ...] = ()) -> str:
    """Write a layer as a student would: its class and what matters of its settings.

    Args:
        kind: The name of its class.
        config: Its Keras configuration.
        more: Settings to write down besides.

    Example:
        >>> call("Conv2D", {"filters": 32, "kernel_size": (3, 3), "use_bias": True})
        'Conv2D(32, 3 × 3)'
    """
    strides = config.get("strides")
    if strides == config.get("pool_size") or set(strides or [1]) == {1}:
        config = {**config, "strides": None}
    words = [text(config[key]) for key in PLAIN if _matters(config.get(key))]
    words += [
        f"{key} {text(config[key])}" for key in NAMED if _matters(config.get(key))
    ]
    words += [
        f"{key} {text(config[key])}"
        for key in more
        if key in config and key not in (*PLAIN, *NAMED)
    ]
    return f"{kind}({', '.join(words)})" if words else kind


def text(value: Any) -> str:
    """Write the value of a setting."""
    if isinstance(value, Mapping) and "class" in value:
        return call(value["class"], value)
    if isinstance(value, list | tuple):
        words = [text(item) for item in value]
        whole = all(isinstance(item, int) for item in value)
        return " × ".join(words) if whole else f"({', '.join(words)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _matters(value: Any) -> bool:
    """Whether a setting says more than Keras's default does."""
    return value is not None and not isinstance(value, bool) and value not in DEFAULTS
