"""The page of a run: one HTML file that needs nothing else, neither server nor network.

Its content security policy lets it load nothing but the pictures inside it, and run
nothing but its own script, which it names by hash: a class or a path that looks like
markup stays text, because Jinja2 escapes it, and would not run if it did not.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kerascnn import UsageError, __version__, runs
from kerascnn.page import panels
from kerascnn.page.evidence import Evidence, command, gather
from kerascnn.page.findings import wilson
from kerascnn.page.pictures import Sheet
from kerascnn.recipe import Course
from kerascnn.report.summary import compared
from kerascnn.runs import Run
from kerascnn.text import duration, option

NAME = "report.html"
_FOLDER = Path(__file__).parent / "templates"


def write(run: Run, path: Path | None = None) -> Path:
    """Write a run's page.

    Args:
        run: A run that has ended.
        path: Where to; by default `report.html` in the run's folder.

    Returns:
        The file.

    Raises:
        UsageError: The run has no model yet, its data are gone, or the file can't be
            written.
    """
    return save(render(gather(run)), path or run.folder / NAME)


def save(text: str, path: Path) -> Path:
    """Write a page whole or not at all.

    Raises:
        UsageError: The file can't be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} can't be written ({error.strerror or error}): name another file "
            "with --out."
        ) from error
    return path


def render(evidence: Evidence) -> str:
    """Return the page's HTML."""
    groups = list(panels.grouped(evidence))
    return filled(
        "page.html",
        [s for *_, found in groups for panel in found for s in panel.sheets],
        head=head(evidence),
        made=made(evidence),
        groups=groups,
    )


def filled(template: str, sheets: Sequence[Sheet], **values: Any) -> str:
    """Fill a template that extends `base.html`.

    Args:
        template: Its file.
        sheets: The pictures that its tiles are taken from.
        values: What it shows.
    """
    look, script = style(), (_FOLDER / "page.js").read_text("utf-8")
    return (
        environment()
        .get_template(template)
        .render(
            style=Markup(look),
            script=Markup(script),
            policy=policy(look, script),
            sheets=sheets,
            version=__version__,
            **values,
        )
    )


def environment(*folders: Path) -> Environment:
    """Return what fills templates: those of folders, and this room's."""
    made = Environment(
        loader=FileSystemLoader([*folders, _FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"share": _share, "signed": _signed}
    return made


def style() -> str:
    """Return the style of all pages."""
    return (_FOLDER / "page.css").read_text("utf-8")


def policy(style: str, script: str, *more: str) -> str:
    """Return a content security policy for one style and one script.

    Args:
        style: The page's.
        script: The page's.
        more: What else `script-src` allows.
    """
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_hash(style)}'",
            " ".join((f"script-src '{_hash(script)}'", *more)),
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


_SEEN = "_accuracy_with_views"  # of the test set, or of held-out images


def head(evidence: Evidence) -> dict[str, Any]:
    """Return what the top of the page says: figures, machine, what to bear in mind."""
    config, result = evidence.config, evidence.result
    data, environment = config["data"], config["environment"]
    course = Course(**config["course"])
    ours = runs.evaluated(result, "accuracy")
    images = len(evidence.outcome)
    right = int(evidence.outcome.right.sum())
    if ours is None:
        ours = right / images
    low, high = wilson(round(ours * images), images)
    figures = {} if evidence.held_out else compared(config)
    printed = figures.get("test")
    epochs = result["epochs"]
    return {
        "name": config["recipe"],
        "idea": evidence.idea.partition("\n")[0],
        "when": environment["time"][:10],
        "accuracy": ours,
        "of": evidence.evaluated,
        "images": images,
        "low": low,
        "high": high,
        "course": printed,
        **_whose(course),
        "gap": 100 * (ours - course.test) if printed and course.test else None,
        "inside": bool(printed and course.test and low <= course.test <= high),
        "partial": data["sample"] or "limit" in config["overrides"],
        **_seen(result, images),
        "views": result.get("views"),
        "best": _best(evidence),
        "train": result["train_accuracy"],
        "time": duration(result["seconds"]),
        "epochs": f"{epochs} epoch{'s' * (epochs != 1)}, "
        f"batches of {config['batch_size']}",
        "device": environment["device"],
        "processor": environment["processor"],
        "backend": f"{environment['backend']} "
        f"{environment['versions'][environment['backend']]}",
        "cores": environment["cores"],
        "data": data["name"],
        "train_images": data["train_images"],
        "notes": _notes(evidence, right / images, ours),
    }


def _whose(course: Course) -> dict[str, str | None]:
    """Return whose figure ours stands beside, where it is printed, and what it says.

    A source that is no lecture is named itself. The speed-runs' figures are those of
    several views, so that they stand in what they say, at its beginning.
    """
    whose, source = "The course’s", course.source
    if not source.startswith("lecture"):
        whose, source = source.removeprefix("speed-run, "), None
    says, printed = course.says, None
    if found := re.match(r"(~?[\d.]+%) (.*)", says or ""):
        printed, says = found.groups()
    return {"whose": whose, "source": source, "says": says, "printed": printed}


def _seen(result: dict[str, Any], images: int) -> dict[str, Any]:
    """Return the accuracy with several views of each image, and its interval."""
    seen = next((v for k, v in result.items() if k.endswith(_SEEN)), None)
    low, high = wilson(round((seen or 0) * images), images)
    return {"seen": seen, "low_seen": low, "high_seen": high}


def _best(evidence: Evidence) -> dict[str, Any] | None:
    """Return the best epoch on the test set, of several, for the page's top."""
    if evidence.held_out or len(evidence.metrics) < 2:
        return None
    return runs.peeked(evidence.metrics, evidence.result)


def made(evidence: Evidence) -> list[tuple[str, str, bool]]:
    """Return what it takes to do the run again: a name, a value, whether it is code."""
    config, result = evidence.config, evidence.result
    environment, data = config["environment"], config["data"]
    memory = result.get("peak_memory_bytes")
    versions = ", ".join(f"{n} {v}" for n, v in environment["versions"].items())
    rows = [
        ("command", command(config), True),
        ("started", environment["time"], False),
        ("seed", str(config["seed"]), False),
        ("engine", f"{config['engine']}, {config['precision']}", False),
        ("device", f"{environment['device']}, {environment['processor']}", False),
        ("system", f"{environment['system']}, {environment['cores']} cores", False),
        ("peak memory", f"{memory / 2**20:,.0f} MiB" if memory else "", False),
        ("versions", versions, False),
        ("commit", environment.get("commit") or "", True),
        ("data", f"{data['name']} {data['version']}", False),
        ("data, SHA-256", data["sha256"], True),
        ("recipe, fingerprint", config["fingerprint"], True),
        ("weights, SHA-256", result.get("weights_sha256") or "", True),
    ]
    return [row for row in rows if row[1]]


def _notes(evidence: Evidence, counted: float, ours: float) -> list[str]:
    """Return what a reader must bear in mind, in sentences."""
    config, result, notes = evidence.config, evidence.result, []
    data = config["data"]
    if data["sample"]:
        notes.append(
            f"Trained on the bundled sample, {data['train_images']:,} images: the "
            "figures do not show how far the recipe gets on the full set."
        )
    if config["overrides"]:
        changed = ", ".join(option(*each) for each in runs.changes(config).items())
        notes.append(f"Changed from the recipe: {changed}.")
    if evidence.held_out:
        notes.append(
            f"Evaluated on {config['validation']:.0%} of the training set, held out; "
            "the course's figures are of the test set."
        )
    if not result["finished"]:
        notes.append("The run was interrupted: this is what it had learned by then.")
    if left_out := result.get("steps_left_out"):
        notes.append(
            f"{left_out} steps were left out: their loss or gradient was not finite."
        )
    if abs(counted - ours) > 0.001:
        notes.append(
            f"On this machine the model gets {counted:.2%} of the images right; the "
            f"run recorded {ours:.2%}."
        )
    return notes


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def _share(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
