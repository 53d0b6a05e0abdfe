"""How a training step gets faster, or takes more images, with the number of devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kerascnn.bench import measure


@dataclasses.dataclass
class Scaled:
    """A step on some devices.

    Attributes:
        scaling: `"strong"`, the same batch for all, or `"weak"`, the same batch for
            each device.
        devices: The number of devices.
        batch: Images a step, of all devices together.
        images_per_second: Images a second, of all devices together.
        efficiency: A device's images a second, divided by the same figure on the
            fewest devices.
        result: The times.
    """

    scaling: str
    devices: int
    batch: int
    images_per_second: float
    efficiency: float
    result: measure.Result


def measured(
    recipe: str, batch: int, numbers: Sequence[int], rounds: int
) -> tuple[list[Scaled], list[str]]:
    """Return a recipe's steps on numbers of devices, and what could not be measured.

    Args:
        recipe: The recipe's name.
        batch: Images a step; in weak scaling, on the fewest devices.
        numbers: Numbers of devices. On a CPU each process keeps to so many cores.
        rounds: Turns of each.
    """
    found, missing = [], []
    for scaling in ("strong", "weak"):
        sizes = [
            batch if scaling == "strong" else batch * number // numbers[0]
            for number in numbers
        ]
        cases = [
            (f"kerascnn@{number}", f"{number}", [recipe, str(size), "0", "fixed"])
            for number, size in zip(numbers, sizes, strict=True)
        ]
        results, left_out = measure.compare(cases, rounds)
        missing += left_out
        found += rows(scaling, dict(zip(numbers, sizes, strict=True)), results)
    return found, missing


def rows(
    scaling: str, sizes: dict[int, int], results: Sequence[measure.Result]
) -> list[Scaled]:
    """Return results, whose names are numbers of devices, with their efficiency."""
    speeds = {int(each.name): sizes[int(each.name)] / each.seconds for each in results}
    least = min(speeds)
    return [
        Scaled(
            scaling,
            devices := int(each.name),
            sizes[devices],
            speeds[devices],
            speeds[devices] / devices / (speeds[least] / least),
            each,
        )
        for each in results
    ]
