"""Pieces of Markdown that the cookbook is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, without a line end after it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def card(name: str) -> str:
    """Return a link from `recipes/README.md` to a recipe's card."""
    return f"[{name}]({name}/README.md)"
