"""Words: names that were misspelt, paths as typed, texts of one line."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError, suggestions

if TYPE_CHECKING:
    from rich.console import Console

# What extras of this package install for a command, and its backend, as pip takes it.
EXTRAS = {
    "gpu": "'jax[cuda12]'",
    "heic": "pillow-heif",
    "jax": "jax",
    "onnx": "onnx onnxruntime",
    "stream": "grain",
    "sweep": "optuna",
    "tensorboard": "tensorboardX",
    "tensorflow": "tensorflow",
    "torch": "torch",
}
_UNCUT = 10_000  # letters in a line of a pipe or a file: more than any table has


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path whose `~` or `~user` is written out."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:  # the latter for a null byte
        raise UsageError(
            f"{path}: the home folder {Path(path).parts[0]} is not known here: write "
            "the path out."
        ) from error


def check_place(option: str, path: str | os.PathLike[str]) -> None:
    """Check that something can be written at a path, whose folders may be missing."""
    folder = path = expanded(path)
    try:
        while not folder.is_dir() and folder != folder.parent:
            if folder != path and folder.exists():
                raise UsageError(f"{option} {path}: {folder} is a file, and no folder.")
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        # What /proc says of any new file is not the reason.
        named = error.strerror if error.errno != errno.ENOENT else None
        reason = f" ({named})" if named else ""
        raise UsageError(
            f"{option} {path}: nothing can be written there{reason}: name another "
            "place."
        ) from error


def choose(
    word: str, known: Iterable[str], what: str, otherwise: str | None = None
) -> str:
    """Return `word` if it is among `known`; else offer the nearest, or `otherwise`."""
    known = list(known)
    if word in known:
        return word
    hint = suggestions.hint(word, known, otherwise or f"expected {', '.join(known)}.")
    if what in ("command", "option") and (way := suggestions.elsewhere(word)):
        hint = f"{way}."
    raise UsageError(f"there is no {what} {word!r}: {hint}")


def check_positive(options: Any, *names: str) -> None:
    """Check that these options, where they are given, are 1 or more."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} {value}: expected 1 or more.")


def printable(text: str) -> str:
    """Return text as one line that any terminal shows as it is."""
    # A file's name may hold line ends, escape sequences and bytes of no encoding.
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def listed(words: Iterable[str], most: int = 6) -> str:
    """List words; of many the first, how many are left out, and the last."""
    words = list(words)
    if len(words) > most + 1:  # "1 more" is no shorter than a word
        words[most - 1 : -1] = [f"{len(words) - most} more"]
    return ", ".join(words)


def install(*extras: str) -> str:
    """Return the command that installs what this package's extras need.

    By the names of the packages: an extra is one of an installed package or of a
    checkout, and only there is known how it was installed.
    """
    return f"pip install {' '.join(EXTRAS[extra] for extra in extras)}"


def one_line(error: BaseException, most: int = 500) -> str:
    """Return what an error says, or else its name, in a line of at most `most`."""
    return " ".join(str(error).split())[:most] or type(error).__name__


silent = False  # whether another process of the same run speaks
quiet = False  # whether only results, warnings and errors are printed


@contextlib.contextmanager
def quietly(wanted: bool = True) -> Iterator[None]:
    """Print no progress and no notices in a block, if that is wanted."""
    global quiet
    before, quiet = quiet, quiet or wanted
    try:
        yield
    finally:
        quiet = before


def show(line: str) -> None:
    """Print a line of a computation's progress, or of what it works on."""
    if not quiet:
        print(line, flush=True)


def say(line: str) -> None:
    """Tell the user something beside the results: on standard error."""
    if not quiet:
        warn(line)


def warn(line: str) -> None:
    """Tell the user what the results may suffer from: on standard error."""
    if not silent:
        print(line, file=sys.stderr, flush=True)


def as_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, whose numbers are finite: null in place of others."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON has no words for, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON: letters as they are, where the output has them."""
    line = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        line.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # or of a file's name, which may be no letters
        line = json.dumps(value, indent=indent)
    print(line)


def duration(seconds: float) -> str:
    """Write a time span as people say it: `"42 s"`, `"3 min 5 s"`, `"2 h 10 min"`."""
    seconds = round(seconds)
    minutes, rest = divmod(seconds, 60)
    if minutes == 0:
        return f"{seconds} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def option(name: str, value: Any) -> str:
    """Write an option and its value as people say them: `"batch size 64"`."""
    name = name.replace("_", " ")
    value = " ".join(map(str, value)) if isinstance(value, list) else value
    return f"{name} {value:g}" if type(value) in (int, float) else f"{name} {value}"


def size(count: float) -> str:
    """Write a number of bytes as people say it: `"812 kB"`, `"2.3 MB"`, `"41 GB"`."""
    unit, count = "kB", count / 1000
    for larger in ("MB", "GB", "TB"):
        if count < 999.5:
            break
        unit, count = larger, count / 1000
    return f"{count:.1f} {unit}" if 0 < count < 9.95 else f"{count:.0f} {unit}"


def console() -> Console:
    """Return a console for tables: as wide as the terminal; elsewhere nothing is cut.

    `COLUMNS` in the environment says another width.
    """
    from rich.console import Console

    wide = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    return Console(width=_UNCUT if wide else None)


def notebook() -> Any:
    """Return IPython's shell where a notebook shows the output, else `None`."""
    ipython = sys.modules.get("IPython")  # in a notebook it is imported
    shell = ipython.get_ipython() if ipython else None
    return shell if getattr(shell, "kernel", None) is not None else None
