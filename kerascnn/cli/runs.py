"""The commands `kerascnn runs` and `runs clean`."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kerascnn import UsageError, text
from kerascnn import runs as folders
from kerascnn.runs import Run
from kerascnn.training import checkpoint

if TYPE_CHECKING:
    from rich.console import Console

Below = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
STYLES = {"running": "green", "interrupted": "yellow", "damaged": "red"}
# Columns in the order of a line, and the terminal's width from which each is shown.
COLUMNS = {"run": 0, "seed": 70, "accuracy": 0, "epochs": 0, "time": 70, "size": 60}
COLUMNS["state"] = 0


@dataclasses.dataclass
class Runs:
    """List runs: what each changes in its recipe, how far it came, and its size.

    The accuracy is the last epoch's, on the test images or those held out. The state is
    finished, interrupted, running (by another process) or damaged.
    """

    folder: Below = Path("runs")
    """Where to look, in this folder and those below it."""
    json: bool = False
    """Print a JSON list, for each run: run, state, recipe, seed, begun, changed (by
    option), sample; epochs, of_epochs, evaluated_on ("test" or "validation"), accuracy,
    train_accuracy, best_epoch (epoch, accuracy, peeking_bonus); seconds, bytes,
    checkpoint_bytes. Shares are 0 to 1; null is what is not known."""

    def __call__(self) -> None:
        found = [record(run) for run in _runs(self.folder)]
        if self.json:
            text.print_json(found, indent=2)
        else:
            show(found, self.folder)


@dataclasses.dataclass
class Clean:
    """Remove the checkpoints of finished runs, after asking.

    Models, records and pages stay, and all that a run needs which has not finished. A
    finished run without checkpoints can't be given a lost model again.
    """

    folder: Below = Path("runs")
    """Where to look, in this folder and those below it."""
    yes: bool = False
    """Remove them without asking."""

    def __call__(self) -> None:
        found = [run for run in _runs(self.folder) if _cleanable(run)]
        freed = sum(_bytes(run.folder / checkpoint.FOLDER) for run in found)
        if not found:
            print(f"No finished run in {self.folder} has checkpoints.")
            return
        kept = f"the checkpoints of {len(found)} finished run{'s' * (len(found) > 1)}"
        kept += f", {text.size(freed)}"
        if not self.yes and not _agreed(f"Remove {kept}? Models and records stay."):
            print("Nothing was removed.")
            return
        freed = sum(map(_clean, found))
        print(f"Freed {text.size(freed)}.")


def record(run: Run) -> dict[str, Any]:
    """Return what is known of a run, as JSON values; null where its records fail."""
    state = run.state
    config, metrics = _read(run, "config") or {}, _read(run, "metrics") or []
    result = _read(run, "result") if state != "running" else None
    try:
        found = _record(config, metrics, result or {})
    except (AttributeError, TypeError, ValueError):  # JSON of another shape
        state, found = "damaged", _record({}, [], {})
    return {
        "run": str(run.folder),
        "state": state,
        **found,
        "bytes": _bytes(run.folder),
        "checkpoint_bytes": _bytes(run.folder / checkpoint.FOLDER),
    }


def _record(
    config: dict[str, Any], metrics: list[dict[str, Any]], result: dict[str, Any]
) -> dict[str, Any]:
    last = metrics[-1] if metrics else {}
    end = result or last
    held_out = bool(config.get("validation"))
    evaluated = "validation" if held_out else "test"
    # Older runs say `test_` of held-out images too.
    found = [
        r.get(f"{evaluated}_accuracy", r.get("test_accuracy")) for r in (end, last)
    ]
    accuracy = found[1] if found[0] is None else found[0]  # stopped inside an epoch
    trained = result.get("train_accuracy", last.get("accuracy"))
    taken = sum(each.get("seconds") or 0 for each in metrics)
    return {
        "recipe": config.get("recipe"),
        "seed": config.get("seed"),
        "begun": config.get("environment", {}).get("time"),
        "changed": folders.changes(config),
        "sample": config.get("data", {}).get("sample"),
        "epochs": int(last.get("epoch", 0)),
        "of_epochs": config.get("epochs"),
        "evaluated_on": evaluated,
        "accuracy": None if accuracy is None else float(accuracy),
        "train_accuracy": None if trained is None else float(trained),
        "best_epoch": None if held_out else folders.peeked(metrics, end),
        "seconds": float(result.get("seconds") or taken),
    }


def show(
    found: Sequence[dict[str, Any]], folder: Path, console: Console | None = None
) -> None:
    """Print runs, those of a folder and recipe together."""
    from rich.text import Text

    console = console or text.console()
    if not found:
        print(f"No runs in {folder}: `kerascnn run fashion_mlp` makes one.")
        return
    columns = [name for name, least in COLUMNS.items() if console.width >= least]
    rows = [_row(each) for each in found]
    widths = {c: max(len(c), *(len(row[c]) for row in rows)) for c in columns}
    head = "  ".join(_placed(c, c, widths[c]) for c in columns)
    console.print(Text(f"  {head}".rstrip(), "bold"), soft_wrap=True)
    pairs = zip(found, rows, strict=True)
    for (parent, recipe), group in itertools.groupby(pairs, lambda pair: _of(pair[0])):
        name = "" if Path(parent).name == recipe else f"  {recipe or 'unknown recipe'}"
        console.print(Text.assemble((parent, "bold"), name), soft_wrap=True)
        for _, row in group:
            cells = [_placed(c, row[c], widths[c]) for c in columns]
            fits = sum(map(len, cells)) + 2 * len(cells) + 2 + len(row["changed"])
            beside = row["changed"] and fits <= console.width
            line = Text("  " + "  ".join(cells[:-1]) + "  ")
            line.append(cells[-1] if beside else row["state"], STYLES.get(row["state"]))
            if beside:
                line.append(f"  {row['changed']}", "dim")
            console.print(line, soft_wrap=True)
            below = [] if beside else textwrap.wrap(row["changed"], console.width - 6)
            for part in below:
                console.print(Text(f"      {part}", "dim"), soft_wrap=True)
    console.print(Text(f"\n{_total(found, folder)}"), soft_wrap=True)


def _of(each: dict[str, Any]) -> tuple[str, str | None]:
    """Return what a run is listed under: its parent's path, and its recipe."""
    return str(Path(each["run"]).parent), each["recipe"]


def _row(each: dict[str, Any]) -> dict[str, str]:
    changed = [text.option(name, value) for name, value in each["changed"].items()]
    changed += ["on the sample"] if each["sample"] else []
    accuracy = "–" if each["accuracy"] is None else f"{each['accuracy']:.2%}"
    held_out = "*" if each["evaluated_on"] == "validation" else ""
    return {
        "run": Path(each["run"]).name,
        "seed": "–" if each["seed"] is None else str(each["seed"]),
        "accuracy": accuracy + held_out,
        "epochs": f"{each['epochs']}/{each['of_epochs'] or '?'}",
        "time": text.duration(each["seconds"]) if each["seconds"] else "–",
        "size": text.size(each["bytes"]),
        "state": each["state"],
        "changed": ", ".join(changed),
    }


def _placed(column: str, word: str, width: int) -> str:
    return f"{word:<{width}}" if column in ("run", "state") else f"{word:>{width}}"


def _total(found: Sequence[dict[str, Any]], folder: Path) -> str:
    count = f"{len(found)} run{'s' * (len(found) > 1)}"
    lines = [f"{count}, {text.size(sum(each['bytes'] for each in found))}"]
    clean = [e["checkpoint_bytes"] for e in found if e["state"] == "finished"]
    if freed := sum(clean):
        where = "" if folder == Path("runs") else f" {shlex.quote(str(folder))}"
        lines[0] += f", of it {text.size(freed)} checkpoints of finished runs"
        lines.append(f"`kerascnn runs clean{where}` removes those")
    if any(each["evaluated_on"] == "validation" for each in found):
        lines.append("* on images held out of the training set")
    return "\n".join(f"{line}." for line in lines)


def _runs(folder: Path) -> list[Run]:
    path = text.expanded(folder)
    if not path.is_dir():
        raise UsageError(
            f"there is no folder {folder}: expected one with runs in it, as `kerascnn "
            "run` makes `runs` below the present folder."
        )
    return folders.below(path)


def _read(run: Run, name: str) -> Any:
    """Return a run's record, `None` where it can't be read."""
    try:
        return getattr(run, name)
    except UsageError:
        return None


def _bytes(folder: Path) -> int:
    """Return the size of a folder's files."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # a run that trains replaces its checkpoints
                continue
    return total


def _cleanable(run: Run) -> bool:
    return run.state == "finished" and (run.folder / checkpoint.FOLDER).is_dir()


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask at: pass --yes to remove them.")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False


def _clean(run: Run) -> int:
    """Remove a finished run's checkpoints; return how much that frees."""
    path = run.folder / checkpoint.FOLDER
    with run.lock():  # so that no other process goes on with it meanwhile
        if not run.finished:
            return 0
        size = _bytes(path)
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise UsageError(
                f"{path} can't be removed ({error.strerror or error})."
            ) from error
        return size
