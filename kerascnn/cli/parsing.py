"""Arguments by tyro; a mistake of the user is one line and exit code 2."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import errno
import importlib.util
import inspect
import io
import itertools
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from kerascnn import UsageError, suggestions
from kerascnn.process import signals
from kerascnn.process.backend import check_backend, restart_for_memory, say_loading
from kerascnn.text import check_place, choose, expanded, printable, quietly, warn

# Options that say where something is written.
_WRITTEN = {"explain", "figures", "fix", "out"}


def parse(
    options: type[Any],
    arguments: Sequence[str],
    program: str,
    examples: Sequence[str] = (),
) -> Any:
    """Fill a dataclass, whose fields are the options, from command-line arguments."""
    import tyro

    from kerascnn.training.options import Command

    check_words(arguments)
    options_known, of_run = names(options), names(Command)
    for word in arguments:
        if word.startswith("--") and word != "--":
            option = word.partition("=")[0]
            if option in of_run and option not in options_known:
                near = suggestions.nearest(option, options_known, most=1)
                hint = (
                    f"did you mean {near[0]}?" if near else f"see `{program} --help`."
                )
                raise UsageError(
                    f"`{program}` does not take {option}, an option of `kerascnn run`: "
                    f"{hint}"
                )
            choose(
                *(option, [*options_known, "--help", "--quiet"], "option"),
                otherwise=f"see `{program} --help`.",
            )
    description = None
    if {"-h", "--help"} & {*arguments}:
        _join_lines(options)
        shown = [f"    {example}" for example in examples]
        lines = "\n".join(["For example:", *shown]) if shown else ""
        parts = inspect.getdoc(options), lines, f"-q, --quiet: {ALONE}."
        description = "\n\n".join(filter(None, parts))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            filled = tyro.cli(
                options, args=list(arguments), prog=program, description=description
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(
            f"{_one_line(complaint.getvalue())} (see `{program} --help`)"
        ) from None
    for field in dataclasses.fields(options):
        value = getattr(filled, field.name)
        if isinstance(value, str | os.PathLike):
            expanded(value)  # whoever uses it would raise a RuntimeError
            if field.name in _WRITTEN and value != field.default:
                check_place(f"--{field.name}", value)
    return filled


def _join_lines(options: type[Any]) -> None:
    """Give tyro each option's text as one paragraph, where it looks first."""
    # Of a text below a field it keeps the ends of lines that are indented.
    texts: dict[str, str] = {}
    for kind in reversed(options.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        for field, below in itertools.pairwise(tree.body):  # type: ignore[attr-defined]
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value)
                texts[ast.unparse(field.target)] = " ".join(text.split())
    for field in dataclasses.fields(options):
        if field.name in texts:
            field.metadata = {**field.metadata, "help": texts[field.name]}


def names(options: type[Any]) -> list[str]:
    """Return the options that a dataclass's fields are."""
    found = []
    for field in dataclasses.fields(options):
        # A field can't be called `break`: `break_` is the option --break.
        name = field.name.rstrip("_").replace("_", "-")
        found += [f"--{name}"]
        found += [f"--no-{name}"] * isinstance(field.default, bool)
    return found


def parsed_numbers(words: str, example: str) -> list[int]:
    """Return the numbers that `--devices 1,2,4` means, each once, the least first."""
    parts = words.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"--devices {words}: expected numbers above 0, such as {example}."
        )
    return sorted({int(part) for part in parts})


QUIET = {"-q", "--quiet"}
ALONE = "print results, warnings and errors alone"


def told(words: Sequence[str]) -> tuple[list[str], bool]:
    """Return a command's words without -q, --quiet, and whether it was there."""
    return [word for word in words if word not in QUIET], bool(QUIET & {*words})


def check_words(words: Sequence[str]) -> None:
    """Check that no word is empty: as a path it would mean the present folder."""
    # A word is, after a variable of the shell that is not set.
    for before, word in zip(["", *words], words, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            after = f" after {before}" if before else ""
            which = f"{word!r} says nothing" if word else f"an empty word{after}"
            raise UsageError(f"{which}: expected a value (a variable that is not set?)")


def _joined(text: str) -> str:
    return printable(" ".join(text.split()))


def run(program: Callable[[], object], quiet: bool = False) -> int:
    """Run a program; return its exit code, and say a user's mistake in a line.

    With `quiet` it prints results, warnings and errors alone.
    """
    _replace_what_cannot_be_encoded()
    try:
        with quietly(quiet):
            _finish(program)
    except UsageError as mistake:
        print(f"kerascnn: {_joined(str(mistake))}", file=sys.stderr)
        return mistake.exit_code
    except KeyboardInterrupt as stop:
        warn(f"kerascnn: {str(stop) or 'stopped.'}")
        return getattr(stop, "exit_code", 130)
    except BrokenPipeError:
        # The reader has left (`kerascnn list | head`): nothing more to say.
        sys.stderr.close()
        return 141
    except ModuleNotFoundError as error:
        # Of this package's own needs, which an installation may have lost.
        name = (error.name or "").partition(".")[0]
        if name in ("", "kerascnn"):
            raise
        print(
            f"kerascnn: {name} can't be imported: `pip install --upgrade kerascnn` "
            "installs what is missing.",
            file=sys.stderr,
        )
        return UsageError.exit_code
    except OSError as error:
        if error.filename is None and error.errno not in _FULL:
            raise
        # A file that the user named, or one that the disk has lost, or `> /dev/full`.
        line = f"{error.filename or 'the output'}: {error.strerror or error}."
        print(f"kerascnn: {_joined(line)}", file=sys.stderr)
        return UsageError.exit_code
    finally:
        _drop_output()
    return 0


def begin_program(package: str, computes: bool = False) -> None:
    """Begin a `python -m` of a module of a package, before it imports Keras.

    What `main` would do after seconds: where the backend is missing, the program ends
    in one line; one that `computes` starts again where glibc can keep its memory.
    """
    # Python's word for a program that it is looking for is "-m".
    if sys.argv[:1] != ["-m"]:
        return
    if code := run(check_backend):
        sys.exit(code)
    begin, _, name = sys.orig_argv[-len(sys.argv)].removeprefix("-m").rpartition(".")
    if begin == package and importlib.util.find_spec(f"{package}.{name}"):
        signals.stop_quietly()
        if computes:
            restart_for_memory()
        with quietly(told(sys.argv)[1]):
            say_loading()


def _replace_what_cannot_be_encoded() -> None:
    """Let a letter that an output's encoding lacks be a question mark, not an error."""
    # A file or a terminal may be Latin-1 or ASCII, and a file's name bytes of no
    # encoding.
    for stream in (sys.stdout, sys.stderr):
        strict = getattr(stream, "errors", None) in ("strict", "surrogateescape")
        if strict and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


# What writing to a file that is open may raise; it names no file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _finish(program: Callable[[], object]) -> None:
    """Run a program and write what it printed: Python's own end is too late to fail."""
    try:
        program()
    except SystemExit:  # after --help
        _flush()
        raise
    _flush()


def _flush() -> None:
    if sys.stdout is not None:  # as it is after `>&-`
        sys.stdout.flush()


def _drop_output() -> None:
    """Leave nothing that Python would write at its end, and complain."""
    # https://docs.python.org/3/library/signal.html, the note on SIGPIPE
    try:
        _flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# What tyro and Python say of a word that is no number: which kind, and the word.
_NO_NUMBER = (
    r"no type matching \{None\}\|(INT|FLOAT) could be instantiated from \[(.*)\]",
    r"(?:could not convert string to float|invalid literal for (int).*?): (.*)",
)


def _expected_number(mistake: re.Match[str]) -> str:
    kind, word = mistake.groups()
    return f"expected a {'whole ' * (kind in ('INT', 'int'))}number, not {word}"


def _one_line(box: str) -> str:
    """Take the message, and the option that was meant, out of tyro's framed text."""
    lines = [line.strip("│ \t") for line in box.splitlines()]
    if len(lines) > 1 and re.fullmatch("-+", lines[1]):
        del lines[:2]  # a terminal without Unicode: the title, and a line below it
    lines = [line for line in lines if line and not re.match(r"[╭╰]", line)]
    sections: list[list[str]] = [[]]
    for line in lines:
        if line.startswith(("──", "--------")):
            sections.append([])
        else:
            sections[-1].append(line)
    message = " ".join(sections[0]).split("Got errors:")[0].strip().rstrip(".:")
    message = re.sub(r"^Error parsing (?:\w+: |(?=--))", "", message)
    message = re.sub(r"^Missing from .*?: ([A-Z]+)\b.*", r"\1 is missing", message)
    for mistake in _NO_NUMBER:
        message = re.sub(mistake, _expected_number, message)
    meant = [
        re.match(r"--[\w-]+", line)
        for section in sections
        if section and section[0].startswith("Perhaps you meant")
        for line in section
    ]
    options = list(dict.fromkeys(match[0] for match in meant if match))
    hint = f"; did you mean {' or '.join(options[:2])}?" if options else ""
    return f"{message}{hint}"
