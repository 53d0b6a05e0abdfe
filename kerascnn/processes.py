"""Processes that a command starts, asks line by line, and ends.

`Child` is the side of the command: a line of words goes in, a line of JSON comes out.
In the child, `answer` writes the line; `serve` reads the questions too.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

# In a child's environment: the process that started it.
PARENT = "KERASCNN_PARENT"


class EndedError(Exception):
    """A child ended without an answer; `code` is negative where a signal ended it."""

    def __init__(self, code: int, why: str):
        super().__init__(f"ended with code {code}: {why}")
        self.code = code
        self.why = why


class Child:
    """A process that runs a module of this package and answers in lines of JSON.

    Leaving the `with` block ends the process; a child of this package also ends where
    its parent was killed. Where its standard error is not `shown`, the last line of it
    is in the `EndedError`.
    """

    def __init__(
        self,
        module: str,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
        shown: bool = False,
    ):
        # `close` closes it.
        self._errors = None if shown else tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._lock = threading.Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            env={**(environment or os.environ), PARENT: str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, line: str) -> Any:
        """Write a line and return the answer; raise `EndedError` if there is none."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # `answer` says why
            print(line, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self) -> Any:
        """Wait for an answer; raise `EndedError` if the process ends without one."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line.endswith("\n"):  # else it was killed, perhaps while it wrote
            return json.loads(line)
        raise EndedError(self.process.wait(), self._why())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        with self._lock:
            if self._errors:
                self._errors.close()

    def _why(self) -> str:
        lines: list[str] = []
        with self._lock:
            if self._errors and not self._errors.closed:
                self._errors.seek(0)
                lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else "no word of why"


@functools.cache
def answers() -> TextIO:
    """Return this process's standard output, for answers to the one that started it."""
    # All else that is printed goes to standard error from now on.
    sys.stdout.flush()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _end_with_parent()
    return io.TextIOWrapper(output)


def answer(value: Any) -> None:
    """Write a line of JSON to the process that started this one."""
    print(json.dumps(value), file=answers(), flush=True)


def serve(answer_to: Callable[[str], Any]) -> None:
    """Answer each line of standard input, until its end."""
    answers()
    for line in sys.stdin:
        answer(answer_to(line.strip()))


def _end_with_parent() -> None:
    """Leave Ctrl-C to the process that started this one; end soon after it."""
    if PARENT not in os.environ:
        return  # a person or a test did
    parent = int(os.environ[PARENT])
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.name == "posix":  # elsewhere a dead parent's number stays
        threading.Thread(target=watch, daemon=True).start()
