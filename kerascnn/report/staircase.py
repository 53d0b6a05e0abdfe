"""The ladder as a picture, `recipes/staircase.svg`: the course's accuracy and ours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from pathlib import Path

from kerascnn.report import records
from kerascnn.report.ladder import Rung, lecture

NAME = "staircase.svg"
DATASET = "cifar10"  # the ladder's longest climb

# Sizes in the unit of the picture, in which a rung's name has 14. README shows it at
# about nine tenths of them.
WIDTH, LEFT, PLOT, EDGE = 940, 28, 386, 722
COURSE, OURS, GAP = 804, 866, WIDTH - LEFT  # where the figures end
ROW, HEAD, TOP, BOTTOM = 38, 40, 118, 44
STYLE = """\
text { font-family: -apple-system, "Segoe UI", "Noto Sans", Helvetica, sans-serif;
  font-size: 14px; fill: #1b1f24; }
.title { font-size: 21px; font-weight: 600; } .name, .lecture { font-weight: 600; }
.lecture { font-size: 15px; } .soft { fill: #59626e; font-size: 12.5px; }
.axis { fill: #59626e; font-size: 12px; } .right { text-anchor: end; }
.middle { text-anchor: middle; } .below { fill: #a33b00; } .above { fill: #00694f; }
.grid { stroke: #e3e7eb; } .rule { stroke: #c5ccd4; }
.ours { fill: #1b6ca8; } .step { fill: #1b6ca8; opacity: 0.16; }
.course { fill: none; stroke: #b84d00; stroke-width: 2; }
.open { stroke: #b84d00; stroke-dasharray: 3 4; } .spread { stroke: #1b6ca8; }
"""


def path() -> Path:
    """Return where the cookbook keeps the picture."""
    return records.FOLDER / NAME


def render(rungs: Sequence[Rung]) -> str:
    """Draw the rungs of the ladder's longest climb that have a figure, as SVG.

    Args:
        rungs: All of the ladder, in its order.
    """
    shown = [r for r in rungs if r.item.dataset == DATASET and r.has_figure]
    drawn, y = [], TOP
    for name, group in itertools.groupby(shown, lambda rung: lecture(rung.item)):
        y += HEAD
        drawn.append(_text(LEFT, y - 12, name.capitalize(), "lecture"))
        drawn.append(f'<path class="rule" d="M{LEFT} {y - 4}H{WIDTH - LEFT}"/>')
        for rung in group:
            drawn += _rung(rung, y)
            y += ROW
    title = "CIFAR-10, rung after rung"
    spoken = "; ".join(_spoken(rung) for rung in shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + BOTTOM}" '
        f'width="{WIDTH}" height="{y + BOTTOM}" role="img" '
        'aria-labelledby="title desc">',
        f'<title id="title">{title}</title>',
        f'<desc id="desc">Test accuracy by recipe. {escape(spoken)}.</desc>',
        f"<style>\n{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{y + BOTTOM}" fill="#ffffff"/>',
        _text(LEFT, 38, title, "title"),
        *_legend(),
        *_axis(y),
        *drawn,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _place(accuracy: float) -> float:
    """Return where an accuracy lies from left to right."""
    return round(PLOT + accuracy * (EDGE - PLOT), 1)


def _legend() -> list[str]:
    y = 66
    at = (
        (LEFT, "Test accuracy, in percent; the gap in points"),
        (PLOT + 14, "ours, after the last epoch"),
    )
    marks = [_text(x, y, words, "soft") for x, words in at]
    marks.append(f'<circle class="ours" cx="{PLOT + 4}" cy="{y - 4}" r="4"/>')
    marks.append(f'<circle class="course" cx="{PLOT + 196}" cy="{y - 4}" r="6.5"/>')
    marks.append(_text(PLOT + 210, y, "the course’s", "soft"))
    marks.append(f'<path class="open" d="M{PLOT + 312} {y - 4}h28"/>')
    marks.append(_text(PLOT + 350, y, "ours is not measured yet", "soft"))
    return marks


def _axis(bottom: int) -> list[str]:
    drawn = []
    for percent in range(0, 101, 20):
        x = _place(percent / 100)
        drawn.append(f'<path class="grid" d="M{x} {TOP - 8}V{bottom}"/>')
        for y in (TOP - 14, bottom + 18):
            drawn.append(_text(x, y, f"{percent}%", "axis middle"))
    for x, word in ((COURSE, "course"), (OURS, "ours"), (GAP, "gap")):
        drawn.append(_text(x, TOP - 14, word, "axis right"))
    return drawn


def _rung(rung: Rung, y: int) -> list[str]:
    """Draw a rung: its name, what changes, its step, and its figures."""
    item, ours, course = rung.item, rung.ours(), rung.item.course
    middle = y + ROW / 2
    drawn = [
        _text(LEFT, y + 16, item.name, "name"),
        _text(LEFT, y + 32, _short(rung.what), "soft"),
    ]
    if ours:
        width = round(_place(ours[0]) - PLOT, 1)
        drawn.append(
            f'<rect class="step" x="{PLOT}" y="{y + 6}" width="{width}" '
            f'height="{ROW - 12}"/>'
        )
    if course.test is not None:
        x = _place(course.test)
        if not ours:
            drawn.append(f'<path class="open" d="M{PLOT} {middle}H{x - 6.5}"/>')
        drawn.append(f'<circle class="course" cx="{x}" cy="{middle}" r="6.5"/>')
    if ours:
        x = _place(ours[0])
        if ours[1]:
            ends = _place(ours[0] - ours[1]), _place(ours[0] + ours[1])
            drawn.append(
                f'<path class="spread" d="M{ends[0]} {middle}H{ends[1]}'
                f'M{ends[0]} {middle - 5}v10M{ends[1]} {middle - 5}v10"/>'
            )
        drawn.append(f'<circle class="ours" cx="{x}" cy="{middle}" r="4"/>')
    base = middle + 5
    drawn.append(_text(COURSE, base, course.figure("test") or "–", "right"))
    drawn.append(_text(OURS, base, f"{ours[0]:.1%}" if ours else "–", "right"))
    if rung.gap is not None:
        kind = "right below" if rung.gap < 0 else "right above"
        gap = f"{rung.gap:+.1f}".replace("-", "−")
        drawn.append(_text(GAP, base, gap, kind))
    return drawn


def _spoken(rung: Rung) -> str:
    ours, course = rung.ours(), rung.item.course.figure("test")
    said = [f"the course {course}"] * bool(course)
    said += [f"ours {ours[0]:.1%}"] if ours else []
    return f"{rung.item.name}: {', '.join(said)}"


def _short(words: str, most: int = 56) -> str:
    """Return what fits beside the plot, whole words."""
    if len(words) <= most:
        return words
    return words[: most - 1].rsplit(" ", 1)[0].rstrip(",:") + " …"


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x}" y="{y:g}" class="{kind}">{escape(words)}</text>'
