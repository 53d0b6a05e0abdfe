"""How fast: README's table of what `kerascnn bench ... --add` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kerascnn.report import markdown, records

BEGIN = "<!-- measured: recipes/bench.jsonl -->\n"
DASH = "–"
HEAD = ("recipe", "one", "batch", "machine", "kerascnn", "/ Keras on JAX")
HEAD += ("/ Keras on PyTorch", "/ PyTorch", "memory", "PyTorch's", "measured")


def rendered(readme: str) -> str:
    """Return README with the latest measurements between its markers, if it has any."""
    return markdown.between(readme, BEGIN, f"{table(records.read('bench'))}\n")


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the latest record of each case on each machine."""
    latest = {}
    for record in found:
        case = [record[key] for key in ("recipe", "kind", "batch", "images")]
        latest[(*case, _machine(record["environment"]))] = record
    order = sorted(latest, key=lambda case: (case[-1], case[1] != "step", case[0]))
    return markdown.table(HEAD, [_row(latest[case]) for case in order])


def _row(record: Mapping[str, Any]) -> list[str]:
    results = {each["name"]: each for each in record["results"]}
    ours = results["kerascnn"]
    plain = [each for name, each in results.items() if name.startswith("torch-")]
    best = min(plain, key=lambda each: each["seconds"], default=None)
    ratios = [results.get("keras-jax"), results.get("keras-torch"), best]
    environment = record["environment"]
    what = record["kind"]
    if what == "epoch":
        what += f" of {record['images']:,} images"
    return [
        f"`{record['recipe']}`",
        what,
        str(record["batch"]),
        _machine(environment),
        time(ours["seconds"]),
        *(f"{ours['seconds'] / each['seconds']:.2f}" if each else DASH
          for each in ratios),
        _memory(ours),
        _memory(best),
        f"{environment['time'][:10]}, `{(environment['commit'] or DASH)[:7]}`",
    ]  # fmt: skip


def time(seconds: float) -> str:
    """Write the time of a step or an epoch."""
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{seconds * 1e3:.2f} ms"


def _memory(result: Mapping[str, Any] | None) -> str:
    if result is None or result["memory"] is None:
        return DASH
    return f"{result['memory'] / 2**20:,.0f} MiB"


def _machine(environment: Mapping[str, Any]) -> str:
    if environment["device"] != "cpu":
        return environment["device"]
    return f"{environment['processor']}, {environment['cores']} cores"
