"""Ctrl-C, SIGTERM and SIGUSR1: before a run trains, and while it does.

This module imports nothing heavy: a program calls `stop_quietly` before all else.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

# New objects after which Python looks for unreachable ones: some times its own number.
_OBJECTS = 10_000

_STOPS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has stopped with a checkpoint."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + number  # as a shell reports it: 130, 143

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows."""
        return [str(self)]


def stop_quietly() -> None:
    """End this process at Ctrl-C and SIGTERM with one line; let SIGUSR1 pass."""
    # For the start of a program, until `Signals` listens: there is nothing to save yet.
    own_process()
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _STOPS:
        if not _ignored(number):
            signal.signal(number, _stop)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def own_process() -> None:
    """Note that this package's command line has this process; collect seldom in it."""
    global _is_program
    _is_program = True
    # Importing Keras and tracing a step make millions of objects that stay, and Python
    # would look through them for unreachable ones all the while.
    gc.set_threshold(_OBJECTS)


def is_program() -> bool:
    """Whether this package's command line has this process to itself."""
    return _is_program


_is_program = False


def _ignored(number: int) -> bool:
    """Whether who started this process wants a signal ignored."""
    # A shell's `&` does, of Ctrl-C, which is for the program in the foreground.
    return signal.getsignal(number) is signal.SIG_IGN


# Functions in which whatever is raised is swallowed: by Keras's `except:`, by Python in
# what its garbage collector calls.
_DEAF = {"pythonify_logs", "__del__", "_xla_gc_callback"}


def _stop(number: int, frame: FrameType | None) -> None:
    while frame:
        # What is raised inside an import may be swallowed, or end as another error.
        importing = frame.f_code.co_filename.startswith("<frozen importlib")
        if importing or frame.f_code.co_name in _DEAF:
            os.write(2, b"kerascnn: stopped.\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise Interrupted(number, "stopped.")


class Signals:
    """Note what a user or a scheduler asks for, while the `with` block runs.

    Ctrl-C (SIGINT) and SIGTERM ask to stop after the step; a second one ends the
    process at once, also while it waits for a long step or for XLA to compile. Before
    `begin` the first one does, in this package's own programs that save: there is
    nothing to save yet, and XLA compiles the first step for up to minutes. SIGUSR1,
    which SLURM can send before time is up, asks for a checkpoint, where there are any.

    Outside the main thread, where Python hears no signals, nothing is noted.
    """

    def __init__(self, say: Callable[[str], None], saves: bool = True):
        self.say = say
        self.saves = saves
        self.stop: int | None = None
        self.save = False
        self._begun = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        # Python calls handlers between two instructions of the main thread, which may
        # sit in XLA for minutes. The number of a signal is written to a descriptor at
        # once, so a thread that reads them can see the second.
        self._wakeup = signal.set_wakeup_fd(
            self._write.fileno(), warn_on_full_buffer=False
        )
        numbers = [*_STOPS]
        if self.saves and hasattr(signal, "SIGUSR1"):  # not on Windows
            numbers.append(signal.SIGUSR1)
        for number in numbers:
            if number not in _STOPS or not _ignored(number):
                self._before[number] = signal.signal(number, lambda number, frame: None)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        signal.set_wakeup_fd(self._wakeup)
        self._write.close()  # ends the thread
        self._watcher.join()
        self._read.close()

    def begin(self) -> None:
        """Note that a step is done: from now on there is something to save."""
        self._begun = True

    def agree(self) -> None:
        """Take in what other processes were asked for: there are none here."""

    def check(self, message: str) -> None:
        """Raise `Interrupted`, for the user to read, if a stop was asked for."""
        if self.stop is not None:
            raise Interrupted(self.stop, message)

    def _watch(self) -> None:
        while numbers := self._read.recv(64):
            for number in numbers:
                if number not in self._before:
                    continue
                if number not in _STOPS:
                    self.save = True
                    self.say("Saving after this step.")
                elif not self._begun and self.saves and is_program():
                    _end(number, "before the first step; the same command begins again")
                elif self.stop is None:
                    self.stop = number
                    self.say("Stopping after this step; once more stops at once.")
                else:
                    _end(number, "at once")


def _end(number: int, how: str) -> NoReturn:
    """End the process from a thread, whatever the main thread waits for."""
    if sys.stdout is not None and sys.stdout.isatty():
        # A progress bar hides the cursor, and is on this line.
        os.write(1, b"\x1b[?25h\n")
    os.write(2, f"kerascnn: stopped {how}.\n".encode())
    os._exit(128 + number)
