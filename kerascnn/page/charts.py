"""Charts as SVG inside a page: drawn here, so that they need no script and print well.

A chart of points carries its values in `data-chart`; the page's script shows them under
the pointer, and without a script the legend shows the last ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup, escape

# In units of the SVG's viewBox; text is 11 units high.
WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 26, 36


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Args:
        name: What the legend calls it.
        role: `"train"` or `"test"`: its colour and dashes.
        values: One for each point; `None` where there is none.
        low, high: The ends of a band around them, one for each point, if there is one.
    """

    name: str
    role: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclasses.dataclass(frozen=True)
class Level:
    """A value to compare with, as a horizontal line."""

    name: str
    role: str
    value: float


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Return an element; `stroke_width` is `stroke-width`, `class_` is `class`."""
    words = [
        f'{key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inside = Markup("").join(children)
    return Markup("<{}>{}</{}>").format(Markup(" ".join([name, *words])), inside, name)


def percent(value: float) -> str:
    """Write a share: `87.5%`."""
    return f"{100 * value:.4g}%"


def number(value: float) -> str:
    """Write a number in four digits."""
    return f"{value:.4g}"


def lines(
    name: str,
    points: Sequence[int],
    series: Sequence[Series],
    *,
    axis: str,
    unit: str = "epoch",
    write: Callable[[float], str] = number,
    levels: Sequence[Level] = (),
    from_zero: bool = True,
    log: bool = False,
) -> Markup:
    """Draw lines over epochs, with a legend that shows the last values.

    Args:
        name: What the chart shows, read aloud in its place.
        points: Whole numbers along the x axis.
        series: The lines.
        axis: What the y axis says.
        unit: What the x axis says.
        write: How a value is written.
        levels: Values to compare with.
        from_zero: Whether the y axis begins at 0.
        log: Whether the y axis goes by powers of ten; values are above 0 then.
    """
    drawn_from = [(*each.values, *each.low, *each.high) for each in series]
    known = [v for each in drawn_from for v in each if v is not None]
    known += [level.value for level in levels]
    ticks = _powers(known) if log else _ticks(*_range(known, from_zero))
    across = _scale(min(points), max(points), LEFT, WIDTH - RIGHT)
    up = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, log)
    drawn = [*_grid(ticks, up, write), _x_axis(points, across, unit)]
    drawn.append(_text(2, TOP - 14, axis, class_="axis"))
    for level in levels:
        y, kind = up(level.value), f"level {level.role}"
        drawn.append(tag("line", class_=kind, x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
    drawn += [_band(each, points, across, up) for each in series if each.low]
    for each in series:
        drawn += _line(each, points, across, up)
    drawn.append(tag("line", class_="cursor", y1=TOP, y2=HEIGHT - BOTTOM, x1=0, x2=0))
    data = {
        "x": [round(across(point), 1) for point in points],
        "at": [f"{unit} {point}" for point in points],
        "values": [_written(each, write) for each in series],
    }
    last = [column[-1] for column in data["values"]]
    svg = tag(
        "svg",
        *drawn,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        tabindex="0",
        aria_label=f"{name}. " + _spoken(series, last, data["at"][-1]),
        data_chart=json.dumps(data),
    )
    return tag("div", svg, _legend(series, last, data["at"][-1], levels), class_="plot")


def loss(epochs: Sequence[int], series: Sequence[Series]) -> Markup:
    """Draw the cross-entropy by epoch."""
    return lines("Loss by epoch", epochs, series, axis="cross-entropy")


def accuracy(
    epochs: Sequence[int], series: Sequence[Series], levels: Sequence[Level] = ()
) -> Markup:
    """Draw the accuracy by epoch, in percent."""
    return lines(
        "Accuracy by epoch",
        epochs,
        series,
        axis="accuracy",
        write=percent,
        levels=levels,
        from_zero=False,
    )


def reliability(
    counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray
) -> Markup:
    """Draw accuracy by confidence: bars to the accuracy, the diagonal to compare."""
    bins, low = len(counts), 62
    bottom = HEIGHT + 60 - BOTTOM
    up = _scale(0, 1, bottom - low, TOP)
    across = _scale(0, 1, LEFT, WIDTH - RIGHT)
    few = _scale(0, max(counts.max(), 1), bottom, bottom - low + 16)
    drawn = _grid([0, 0.25, 0.5, 0.75, 1], up, percent)
    drawn.append(_text(2, TOP - 14, "accuracy", class_="axis"))
    width = across(1 / bins) - across(0) - 2
    for at in range(bins):
        x = across(at / bins) + 1
        edges = f"{at / bins:.0%} to {(at + 1) / bins:.0%} sure"
        if not counts[at]:
            continue
        says = (
            f"{edges}: {counts[at]:,} images, on average {confidence[at]:.1%} sure, "
            f"{accuracy[at]:.1%} right"
        )
        bar, gap = up(accuracy[at]), up(confidence[at])
        kind = "missing" if bar > gap else "more"
        drawn.append(
            tag(
                "g",
                tag("title", says),
                _rect(x, max(bar, gap), width, up(0) - max(bar, gap), "bar"),
                _rect(x, min(bar, gap), width, abs(bar - gap), kind),
                _rect(x, few(counts[at]), width, bottom - few(counts[at]), "count"),
            )
        )
    drawn.append(
        tag("line", class_="diagonal", x1=across(0), y1=up(0), x2=across(1), y2=up(1))
    )
    drawn.append(_text(LEFT, bottom - low + 12, "images in each bin", class_="axis"))
    for share in (0, 0.25, 0.5, 0.75, 1):
        drawn.append(
            _text(across(share), bottom + 14, percent(share), text_anchor="middle")
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    says = "confidence: the probability of the predicted class"
    drawn.append(_text(middle, bottom + 30, says, class_="axis", text_anchor="middle"))
    return tag(
        "svg",
        *drawn,
        viewBox=f"0 0 {WIDTH} {bottom + 36}",
        role="img",
        aria_label="Accuracy by confidence, and the number of images in each bin.",
    )


def interval(low: float, value: float, high: float, floor: float) -> Markup:
    """Draw a share's interval as a bar of one line, from `floor` to 1."""
    across = _scale(floor, 1, 0, 100)
    return tag(
        "svg",
        _rect(0, 5.5, 100, 1, "rail"),
        _rect(across(low), 3, across(high) - across(low), 6, "between"),
        _rect(across(value) - 0.6, 0, 1.2, 12, "value"),
        class_="interval",
        viewBox="0 0 100 12",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def histogram(values: np.ndarray, bins: int = 40) -> Markup:
    """Draw how values are distributed around zero."""
    span = max(float(abs(values).max()), 1e-12)
    counts, _ = np.histogram(values, bins, (-span, span))
    width, height = 160, 56
    up = _scale(0, counts.max(), height, 2)
    step = width / bins
    path = "".join(
        f"L{_short(at * step)} {_short(up(c))}H{_short((at + 1) * step)}"
        for at, c in enumerate(counts)
    )
    ends = [
        _text(0, height + 13, f"{-span:.2g}"),
        _text(width / 2, height + 13, "0", text_anchor="middle"),
        _text(width, height + 13, f"{span:.2g}", text_anchor="end"),
    ]
    return tag(
        "svg",
        tag("path", class_="bar", d=f"M0 {height}{path}V{height}Z"),
        tag("line", class_="zero", x1=width / 2, x2=width / 2, y1=0, y2=height),
        *ends,
        viewBox=f"0 0 {width} {height + 16}",
        role="img",
        aria_label=f"Weights from {number(-span)} to {number(span)}, around zero.",
    )


def heat(
    name: str,
    rows: Sequence[str],
    columns: Sequence[int],
    values: np.ndarray,
    bounds: Sequence[float],
    *,
    worry: np.ndarray | None = None,
    write: Callable[[float], str] = number,
    unit: str = "epoch",
) -> Markup:
    """Draw values as cells, darker where they are larger, with a key to the shades.

    Args:
        name: What the chart shows, read aloud in its place.
        rows: What the rows say.
        columns: Whole numbers along the x axis, rising.
        values: `(rows, columns)`; NaN where there is none.
        bounds: Values that part the shades of blue, four at most.
        worry: Which values are orange, `(rows, columns)`: those above the last bound
            and any others. A 0 has no shade then.
        write: How a value is written.
        unit: What the x axis says.
    """
    left, height = 112, 17
    width = (WIDTH - left) / len(columns)
    drawn = []
    for r, row in enumerate(rows):
        y = r * height
        short = row if len(row) <= 18 else f"{row[:17]}…"
        drawn.append(
            tag("text", short, tag("title", row), x=left - 6, y=y + 12, **_END)
        )
        for c, value in enumerate(values[r]):
            level = int(np.searchsorted(bounds, value, side="right")) + 1
            nothing = not math.isfinite(value) or (worry is not None and value == 0)
            worries = worry is not None and worry[r, c]
            shade = "none" if nothing else "w4" if worries else f"r{level}"
            said = _said(value, write) + ", a worry" * bool(worries)
            drawn.append(
                tag(
                    "rect",
                    tag("title", f"{row}, {unit} {columns[c]}: {said}"),
                    class_=shade,
                    x=round(left + c * width, 2),
                    y=y,
                    width=f"{max(width - 1, 0.5):.2f}",
                    height=height - 1,
                )
            )
    bottom = len(rows) * height
    every = max(math.ceil(len(columns) / 8), 1)
    for c in range(0, len(columns), every):
        x = left + (c + 0.5) * width
        drawn.append(_text(x, bottom + 13, str(columns[c]), text_anchor="middle"))
    middle = (left + WIDTH) / 2
    drawn.append(_text(middle, bottom + 28, unit, class_="axis", text_anchor="middle"))
    last = [f"{row} {_said(v[-1], write)}" for row, v in zip(rows, values, strict=True)]
    svg = tag(
        "svg",
        *drawn,
        class_="heat",
        viewBox=f"0 0 {WIDTH} {bottom + 34}",
        role="img",
        aria_label=f"{name}. At {unit} {columns[-1]}: {', '.join(last)}",
    )
    ends = ["", *map(write, bounds), ""]
    key = [
        f"under {high}" if not low else f"{low} to {high}" if high else f"{low} or more"
        for low, high in itertools.pairwise(ends)
    ]
    items = [tag("li", says, class_=f"r{i + 1}") for i, says in enumerate(key)]
    if worry is not None:
        items[-1] = tag("li", "a worry", class_="w4")
    return tag("div", svg, tag("ul", *items, class_="key"))


_END = {"text_anchor": "end"}


def _said(value: float, write: Callable[[float], str]) -> str:
    return write(value) if math.isfinite(value) else "–"


def small(
    name: str,
    points: Sequence[int],
    low: np.ndarray,
    middle: np.ndarray,
    high: np.ndarray,
    log: bool = False,
) -> Markup:
    """Draw a value and its range over epochs, as one of many small charts.

    Args:
        name: What the chart shows, read aloud in its place.
        points: The epochs.
        low: The range's lower ends, one for each point.
        middle: The values.
        high: The range's upper ends.
        log: Whether the axis goes by powers of ten.
    """
    width, height = 160, 56
    values = [_known(each, log) for each in (low, middle, high)]
    known = [v for each in values for v in each if v is not None] or [1.0]
    bottom, top = _range([min(known), max(known)], from_zero=False)
    across = _scale(min(points), max(points), 0, width)
    up = _scale(bottom, top, height, 2, log)
    series = Series(name, "test", values[1], values[0], values[2])
    if len(points) == 1:  # a line of one point has no length
        points, across = [0, 1], _scale(0, 1, 0, width)
        values = [each * 2 for each in values]
        series = Series(name, "test", values[1], values[0], values[2])
    path = _line(series, points, across, up)[0]
    shown = [v for v in values[1] if v is not None]
    last = f"{number(shown[0])} to {number(shown[-1])}" if shown else "nothing"
    zero = []
    if not log and bottom < 0 < top:
        y = up(0)
        zero = [tag("line", class_="zero", x1=0, x2=width, y1=y, y2=y)]
    return tag(
        "svg",
        _band(series, points, across, up),
        *zero,
        path,
        _text(0, height + 13, f"{bottom:.2g} to {top:.2g}"),
        viewBox=f"0 0 {width} {height + 16}",
        role="img",
        aria_label=f"{name}: {last}, within {number(bottom)} to {number(top)}.",
    )


def _known(values: np.ndarray, log: bool = False) -> list[float | None]:
    """Return numbers, and `None` for what can't be drawn."""
    return [
        float(v) if math.isfinite(v) and (v > 0 or not log) else None for v in values
    ]


def _powers(known: Sequence[float]) -> list[float]:
    """Return powers of ten from below the lowest to above the highest value."""
    low, high = (min(known), max(known)) if known else (0.1, 1.0)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    step = math.ceil((last - first) / 6)
    return [10.0**n for n in range(first, last + step, step)]


def _range(known: Sequence[float], from_zero: bool) -> tuple[float, float]:
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if from_zero:
        low = min(low, 0.0)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from below `low` to above `high`."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(each for each in (1, 2, 2.5, 5, 10) if each * power >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _scale(low: float, high: float, start: float, end: float, log: bool = False):
    if log:
        inside = _scale(math.log10(low), math.log10(high), start, end)
        return lambda value: inside(math.log10(value))
    span = (high - low) or 1.0
    middle = 0.5 if high == low else None

    def place(value: float) -> float:
        share = (value - low) / span if middle is None else middle
        return start + share * (end - start)

    return place


def _grid(ticks: Sequence[float], up, write: Callable[[float], str]) -> list[Markup]:
    drawn = []
    for value in ticks:
        y = up(value)
        drawn.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        drawn.append(_text(LEFT - 5, y + 3.5, write(value), text_anchor="end"))
    return drawn


def _x_axis(points: Sequence[int], across, unit: str) -> Markup:
    first, last = min(points), max(points)
    step = max(math.ceil((last - first) / 6), 1)
    power = 10 ** math.floor(math.log10(step))
    step = next(n for n in (power, 2 * power, 5 * power, 10 * power) if n >= step)
    marks = [n for n in range(first, last + 1) if n % step == 0]
    if not marks or marks[0] - first > step / 2:
        marks.insert(0, first)
    y = HEIGHT - BOTTOM
    drawn = [_text(across(n), y + 15, str(n), text_anchor="middle") for n in marks]
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(_text(middle, y + 30, unit, class_="axis", text_anchor="middle"))
    return tag("g", *drawn)


def _written(series: Series, write: Callable[[float], str]) -> list[str]:
    """Write a series' values, with the ends of its band."""
    said = ["–" if v is None else write(v) for v in series.values]
    ends = zip(series.low, series.high, strict=True)
    for at, (low, high) in enumerate(ends):
        if low is not None and high is not None:
            said[at] += f" ({write(low)} to {write(high)})"
    return said


def _band(series: Series, points: Sequence[int], across, up) -> Markup:
    """Draw the area between the ends of a band, broken where there are none."""
    parts: list[list[tuple[int, float, float]]] = [[]]
    for point, low, high in zip(points, series.low, series.high, strict=True):
        if low is None or high is None:
            parts.append([])
        else:
            parts[-1].append((point, low, high))
    path = ""
    for part in filter(None, parts):
        edge = [(point, high) for point, _, high in part]
        edge += [(point, low) for point, low, _ in reversed(part)]
        corners = (f"{_short(across(x))} {_short(up(y))}" for x, y in edge)
        path += f"M{'L'.join(corners)}Z"
    return tag("path", class_=f"band {series.role}", d=path or None)


def _line(series: Series, points: Sequence[int], across, up) -> list[Markup]:
    """Draw a line, broken where a value is missing, and dots where points are few."""
    path, gap = "", True
    dots = []
    for point, value in zip(points, series.values, strict=True):
        if value is None:
            gap = True
            continue
        x, y = _short(across(point)), _short(up(value))
        path += f"{'M' if gap else 'L'}{x} {y}"
        gap = False
        if len(points) < 12:
            dots.append(tag("circle", class_=series.role, cx=x, cy=y, r=2.6))
    return [tag("path", class_=f"line {series.role}", d=path or None), *dots]


def _legend(
    series: Sequence[Series], last: list[str], at: str, levels: Sequence[Level]
) -> Markup:
    items = [
        tag("li", each.name, " ", tag("b", value, class_="now"), class_=each.role)
        for each, value in zip(series, last, strict=True)
    ]
    items += [tag("li", level.name, class_=f"level {level.role}") for level in levels]
    return tag(
        "div",
        tag("span", at, class_="at"),
        tag("ul", *items),
        class_="legend",
        aria_live="polite",
    )


def _spoken(series: Sequence[Series], last: list[str], at: str) -> str:
    pairs = zip(series, last, strict=True)
    return f"At {at}: " + ", ".join(f"{each.name} {value}" for each, value in pairs)


def _text(x: float, y: float, words: str, **attributes: object) -> Markup:
    return tag("text", words, x=x, y=y, **attributes)


def _rect(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    return tag(
        "rect", class_=kind, x=x, y=y, width=max(width, 0), height=max(height, 0)
    )


def _short(value: object) -> object:
    """Round a place: a tenth of a unit is less than a pixel."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
