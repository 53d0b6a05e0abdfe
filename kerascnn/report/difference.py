"""What one recipe does that another does not, in the words of the lectures."""

from __future__ import annotations

import ast
import collections
import difflib
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from kerascnn import describe
from kerascnn import recipe as recipes
from kerascnn.report import wording

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe

COLOURS = {"-": "red", "+": "green", "@": "cyan"}


def show(old: Recipe, new: Recipe, console: Console | None = None) -> None:
    """Print how one recipe differs from another: part by part, then in code."""
    console = console or Console()
    changes = between(describe.describe(old), describe.describe(new))
    if old.parameters != new.parameters:
        changes["parameters"] = [f"- {old.parameters:,}", f"+ {new.parameters:,}"]
    for part, lines in changes.items():
        console.print(Text(part, "bold"))
        _print(lines, console)
    if not changes:
        console.print(f"{old.name} and {new.name} compute the same.")
    console.print(Text("\ncode", "bold"))
    before, after = _code(old), _code(new)
    files = (
        str(recipe.own_file or f"kerascnn/recipes/{recipe.name}.py")
        for recipe in (old, new)
    )
    _print(difflib.unified_diff(before, after, *files, lineterm="", n=2), console)


def between(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[str]]:
    """Return how two descriptions differ: by part, lines with -, + or space first."""
    # Where the layers are the same one for one, the settings that change are named,
    # each once for all layers that change; else the layers are listed.
    old, new = recipes.EXTRAS | old, recipes.EXTRAS | new
    return {
        part: _lines(old[part], new[part])
        for part in (*recipes.PARTS, *recipes.EXTRAS)
        if old[part] != new[part]
    }


def _lines(old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        old, new = [old], [new]
    if not isinstance(old, list):
        return [f"- {wording.text(old)}", f"+ {wording.text(new)}"]
    old, new = _with_sources(old), _with_sources(new)
    if [item["class"] for item in old] == [item["class"] for item in new]:
        return _settings(old, new)
    return _listed(old, new)


def _listed(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """List all layers. What feeds them is said, but makes no other layer of one."""
    old, new = _with_biases(old), _with_biases(new)
    # A setting that the words leave out counts where it is not the same in both.
    more = _varying(old, new)
    short, long = (
        [
            [wording.call(layer["class"], layer, settings) for layer in side]
            for side in (old, new)
        ]
        for settings in (more, (*more, "of"))
    )
    lines = []
    matcher = difflib.SequenceMatcher(None, *short, autojunk=False)
    for tag, start, end, new_start, new_end in matcher.get_opcodes():
        after = long[1][new_start:new_end]
        if tag == "equal":
            lines += [f"  {line}" for line in after]
        else:
            lines += [f"- {line}" for line in long[0][start:end]]
            lines += [f"+ {line}" for line in after]
    return lines


def _settings(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """Write each change of a setting once, with the layers that it happens in."""
    changes: dict[tuple[str, str], collections.Counter[str]] = {}
    for before, after in zip(old, new, strict=True):
        for words in _changed(before, after):
            counter = changes.setdefault(words, collections.Counter())
            counter[before["class"]] += 1
    lines = []
    for words, layers in changes.items():
        where = ", ".join(
            f"{n} {kind}" if n > 1 else kind for kind, n in layers.items()
        )
        lines += [f"{line}  ({where})" for line in words if line]
    return lines


def _changed(
    before: dict[str, Any], after: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the old and the new words, where there are any, for what changes."""
    names = [wording.scaling(layer["class"], layer) for layer in (before, after)]
    if all(names) and names[0] != names[1]:
        yield f"- {names[0]}", f"+ {names[1]}"
        return
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            yield _setting("-", key, before), _setting("+", key, after)


def _setting(sign: str, key: str, layer: dict[str, Any]) -> str:
    return f"{sign} {wording.setting(key, layer[key])}" if key in layer else ""


def _varying(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the settings whose values in the two lists are not the same."""
    # They are compared class by class, but for how weights start: there a layer of
    # another class may take the place of one that goes.
    sides = []
    for layers in (old, new):
        values = collections.defaultdict(set)
        for layer in layers:
            for key, value in layer.items():
                kind = "" if key.endswith("_initializer") else layer["class"]
                values[key, kind].add(wording.rule(value))
        sides.append(values)
    before, after = sides
    return tuple(
        dict.fromkeys(
            key
            for key, kind in before
            if (key, kind) in after
            and before[key, kind] != after[key, kind]
            and key != "of"
        )
    )


def _with_sources(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say which layers feed one that does not simply follow the layer before it."""
    return [
        {key: value for key, value in layer.items() if key != "inputs"}
        | {"of": " and ".join(layers[i]["class"] for i in layer["inputs"])}
        if "inputs" in layer
        else layer
        for layer in layers
    ]


def _with_biases(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out how a bias starts in the layers that have none."""
    return [
        {key: value for key, value in layer.items() if key != "bias_initializer"}
        if layer.get("use_bias") is False
        else layer
        for layer in layers
    ]


def _code(recipe: Recipe) -> Sequence[str]:
    """Return the lines of a recipe's file below its docstring."""
    source = inspect.getsource(sys.modules[recipe.network.__module__])
    return source.splitlines()[ast.parse(source).body[0].end_lineno :]


def _print(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        console.print(Text(line, COLOURS.get(line[:1], "")), soft_wrap=True)
