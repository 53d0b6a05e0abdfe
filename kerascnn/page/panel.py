"""A panel of the page: data for a template, and how to read it."""

from __future__ import annotations

import dataclasses
from typing import Any

from kerascnn.page.pictures import Sheet


@dataclasses.dataclass(frozen=True)
class Panel:
    """A part of the page.

    Args:
        name: Its template and its anchor.
        title: Its heading.
        reading: How to read it, and what would worry: one or two plain sentences.
        data: What its template shows.
        sheets: The pictures that it shows tiles of.
    """

    name: str
    title: str
    reading: str
    data: dict[str, Any]
    sheets: tuple[Sheet, ...] = ()
