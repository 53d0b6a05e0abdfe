"""Layers, optimisers and their settings in the words of the lectures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

# Settings that speak for themselves, and settings that need their name beside them.
PLAIN = (
    *("filters", "kernel_size", "units", "pool_size", "padding", "activation"),
    *("mode", "degrees", "distribution"),
)
DEFAULTS = ("linear", "valid")
FROZEN = ("trainable", False)
NAMED = (
    *("learning_rate", "strides", "rate", "gamma", "l2", "p"),
    *("scale", "offset", "ratio", "minval", "maxval"),
)


def call(kind: str, config: Mapping[str, Any], more: tuple[str, ...] = ()) -> str:
    """Write a layer as a student would, such as `Conv2D(32, 3 × 3)`."""
    if name := scaling(kind, config) or _initializer(kind, config):
        return name
    strides = config.get("strides")
    if strides == config.get("pool_size") or set(strides or [1]) == {1}:
        config = {**config, "strides": None}
    words = [text(config[key]) for key in PLAIN if _matters(config.get(key))]
    words += [setting(key, config[key]) for key in NAMED if _matters(config.get(key))]
    if config.get("trainable") is False:
        words.append(setting("trainable", False))
    words += [
        setting(key, config[key])
        for key in more
        if key in config and key not in (*PLAIN, *NAMED, "trainable")
    ]
    return f"{kind}({', '.join(words)})" if words else kind


def setting(key: str, value: Any) -> str:
    """Write a setting: its name and its value."""
    return "not trained" if (key, value) == FROZEN else f"{key} {text(value)}"


def text(value: Any) -> str:
    """Write the value of a setting."""
    if isinstance(value, Mapping) and "class" in value:
        return call(value["class"], value)
    if isinstance(value, list | tuple):
        words = [text(item) for item in value]
        whole = all(isinstance(item, int) for item in value)
        return " × ".join(words) if whole else f"({', '.join(words)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rule(value: Any) -> str:
    """Write the value of a setting, alike for layers that differ in size only."""
    return re.sub(r"(?<=±1/√)\d+", "n", text(value))


def scaling(kind: str, config: Mapping[str, Any]) -> str | None:
    """Name a `Rescaling` of raw pixels as the lectures do; `None` if they have none."""
    if kind != "Rescaling":
        return None
    scales, offsets = (
        [*value] if isinstance(value, list | tuple) else [value]
        for value in (config["scale"], config["offset"])
    )
    if len(scales) != len(offsets) or min(scales) <= 0:
        return None
    # x * scale + offset is (x / 255 - mean) / deviation.
    deviations = [round(1 / (255 * scale), 4) for scale in scales]
    means = [
        round(-offset / (255 * scale), 4)
        for scale, offset in zip(scales, offsets, strict=True)
    ]
    if {*means} == {0} and {*deviations} == {1}:
        return "unit (0..1)"
    if {*means} == {*deviations} == {0.5}:
        return "pm1 (-1..1)"
    # Pixels in 0..1 deviate by 0.5 at most.
    if min(means) > 0 and max(means) < 1 and max(deviations) <= 0.5:
        mean, deviation = (
            text(numbers if len(numbers) > 1 else numbers[0])
            for numbers in (means, deviations)
        )
        name = "standard (zero mean, unit deviation)"
        return f"{name} from mean {mean}, deviation {deviation}"
    return None


def _initializer(kind: str, config: Mapping[str, Any]) -> str | None:
    """Name an initialiser as the lectures do; `None` if they have none."""
    match kind, config.get("scale"), config.get("mode"), config.get("distribution"):
        case "VarianceScaling", 2, "fan_in", "untruncated_normal":
            return "He normal"
        case "VarianceScaling", 2, "fan_in", "uniform":
            return "He uniform"
        case "HeNormal", *_:
            return "truncated He normal"
        case "GlorotUniform", *_:
            return "Glorot uniform"
        case "RandomUniform", *_ if config["minval"] == -config["maxval"] < 0:
            bound = config["maxval"]
            inputs = max(round(1 / bound**2), 1)
            # Told by the bound alone, of which `describe` keeps seven digits: a layer's
            # settings do not hold how many inputs a unit has.
            if f"{1 / math.sqrt(inputs):.7g}" == f"{bound:.7g}":
                return f"PyTorch's default (uniform, ±1/√{inputs})"
    return None


def _matters(value: Any) -> bool:
    """Whether a setting says more than Keras's default does."""
    return value is not None and not isinstance(value, bool) and value not in DEFAULTS
