"""Arguments by tyro; a mistake of the user is one line and exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from kerascnn import UsageError, suggestions


def parse(options: type[Any], arguments: Sequence[str], program: str) -> Any:
    """Fill a dataclass from command-line arguments.

    Args:
        options: A dataclass; each field is an option, its docstring the help.
        arguments: The words after the program's name.
        program: The name that the help shows, such as `"kerascnn show"`.

    Raises:
        UsageError: The arguments do not fit; the message is one line.
        SystemExit: Code 0, after `--help`.
    """
    import tyro

    check_words(arguments)
    options_known = []
    for field in dataclasses.fields(options):
        # A field can't be called `break`: `break_` is the option --break.
        name = field.name.rstrip("_").replace("_", "-")
        options_known += [f"--{name}"]
        options_known += [f"--no-{name}"] * isinstance(field.default, bool)
    for word in arguments:
        if word.startswith("--") and word != "--":
            option = word.partition("=")[0]
            if option in suggestions.RUN_OPTIONS and option not in options_known:
                near = suggestions.nearest(option, options_known, most=1)
                hint = (
                    f"did you mean {near[0]}?" if near else f"see `{program} --help`."
                )
                raise UsageError(
                    f"`{program}` does not take {option}, an option of `kerascnn run`: "
                    f"{hint}"
                )
            choose(
                *(option, [*options_known, "--help"], "option"),
                otherwise=f"see `{program} --help`.",
            )
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            filled = tyro.cli(options, args=list(arguments), prog=program)
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
    return filled


def check_words(words: Sequence[str]) -> None:
    """Check that no word is empty: as a path it would mean the present folder.

    Raises:
        UsageError: One is, as after a variable of the shell that is not set.
    """
    for before, word in zip(["", *words], words, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            after = f" after {before}" if before else ""
            which = f"{word!r} says nothing" if word else f"an empty word{after}"
            raise UsageError(f"{which}: expected a value (a variable that is not set?)")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path whose `~` or `~user` is written out.

    Raises:
        UsageError: That home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:  # the latter for a null byte
        raise UsageError(
            f"{path}: the home folder {Path(path).parts[0]} is not known here: write "
            "the path out."
        ) from error


def choose(
    word: str, known: Iterable[str], what: str, otherwise: str | None = None
) -> str:
    """Return `word` if it is one of `known`.

    Args:
        what: What the words name, for the message: `"command"`.
        otherwise: What the message says where no word is near; by default all words.

    Raises:
        UsageError: It is not; the message offers the nearest words.
    """
    known = list(known)
    if word in known:
        return word
    hint = suggestions.hint(word, known, otherwise or f"expected {', '.join(known)}.")
    raise UsageError(f"there is no {what} {word!r}: {hint}")


def check_positive(options: Any, *names: str) -> None:
    """Check that options, where they are given, are 1 or more.

    Args:
        options: What holds them as attributes.
        names: The attributes' names.

    Raises:
        UsageError: One is not; the message names the option.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} {value}: expected 1 or more.")


def printable(text: str) -> str:
    r"""Return text as one line that any terminal shows as it is.

    A file's name may hold line ends, escape sequences and bytes of no encoding: they
    are written as in Python, such as `\x1b`.
    """
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def one_line(error: BaseException, most: int = 500) -> str:
    """Return what an error says, or else its name, in a line of at most `most`."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def _joined(text: str) -> str:
    return printable(" ".join(text.split()))


def say(line: str) -> None:
    """Tell the user something beside the results: on standard error."""
    print(line, file=sys.stderr, flush=True)


def answers() -> BinaryIO:
    """Return this process's standard output, for answers to the one that started it.

    Anything else that is printed must not mix with them: from now on it goes to
    standard error.
    """
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return output


def restart(variables: Mapping[str, str]) -> NoReturn:
    """Start this process again, as it was called, with other environment variables.

    Args:
        variables: The variables to set; the others stay.
    """
    _flush()
    command = [sys.executable, *sys.orig_argv[1:]]
    environment = {**os.environ, **variables}
    if os.name == "nt":  # there `execve` neither waits nor quotes
        import subprocess

        sys.exit(subprocess.call(command, env=environment))
    os.execve(sys.executable, command, environment)


def run(program: Callable[[], object]) -> int:
    """Run a program and turn how it ended into an exit code.

    Returns:
        0; 2 after a `UsageError`, whose message goes to standard error as one line (or
        the error's own `exit_code`); 130 after Ctrl-C (likewise).
    """
    _replace_what_cannot_be_encoded()
    try:
        _finish(program)
    except UsageError as mistake:
        print(f"kerascnn: {_joined(str(mistake))}", file=sys.stderr)
        return mistake.exit_code
    except KeyboardInterrupt as stop:
        print(f"kerascnn: {str(stop) or 'stopped.'}", file=sys.stderr)
        return getattr(stop, "exit_code", 130)
    except BrokenPipeError:
        # The reader has left (`kerascnn list | head`): nothing more to say.
        sys.stderr.close()
        return 141
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


def _replace_what_cannot_be_encoded() -> None:
    """Let a letter that an output's encoding lacks be a question mark, not an error.

    Python raises otherwise, because a file or a terminal may be Latin-1 or ASCII, and
    the name of a file may hold bytes of no encoding.
    """
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
    """Leave nothing that Python would try to write once more, and complain, at its end.

    Source: the note on SIGPIPE in https://docs.python.org/3/library/signal.html
    """
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
