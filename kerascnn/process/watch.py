"""Sees that a process of a group has died, and ends the others with a line.

A process that waits in a collective for one that is gone waits on: XLA has no time
limit of its own for all of them. So each process holds a connection to process 0, over
which both say every few seconds that they are there. A connection that is closed
without a word, or silent for `SILENCE` seconds, is a process that has died.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

# Seconds between two words, without any after which a process is taken for dead, and
# for which a process that hears of another's error goes on, because it may come to the
# same error by itself.
BEAT, SILENCE, GRACE = 4.0, 20.0, 4.0
GO_ON = ": `kerascnn resume RUN`, begun in each process, goes on"
# What a process ends with whose group has lost another one.
EXIT_CODE = 4


@dataclasses.dataclass
class _Peer:
    process: int
    name: str
    socket: socket.socket
    heard: float
    unread: bytes = b""
    left: bool = False


class Watch:
    """One process's connections: process 0's to all others, another's to process 0."""

    def __init__(
        self, process: int, name: str, token: str, end: Callable[[str], object]
    ):
        self.process, self.name = process, name
        self.token, self._end = token, end
        self._peers: list[_Peer] = []
        self._listening: socket.socket | None = None
        self._closing = False
        self._lock = threading.Lock()

    def listen(self) -> int:
        """Wait for the other processes in the background; return the port."""
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._listening = socket.create_server(
            ("", 0), family=family, dualstack_ipv6=both
        )
        self._begin()
        return self._listening.getsockname()[1]

    def connect(self, addresses: Sequence[str], port: int, name: str) -> None:
        """Connect to process 0, which is at one of several addresses."""
        errors = []
        for address in addresses:
            try:
                found = socket.create_connection((address, port), timeout=SILENCE)
            except OSError as error:
                errors.append(f"{address}: {error.strerror or error}")
                continue
            found.settimeout(None)
            peer = _Peer(0, name, found, time.monotonic())
            hello = {"process": self.process, "name": self.name, "token": self.token}
            self._send(peer, hello)
            self._peers.append(peer)
            self._begin()
            return
        raise ConnectionError("; ".join(errors))

    def leave(self, error: str | None = None) -> None:
        """Say that this process ends, and of what error where it is none of all."""
        self._closing = True
        word = {"left": True} if error is None else {"failed": error}
        for peer in self._peers:
            self._send(peer, word)

    def wait_for_others(self, seconds: float) -> None:
        """Return when all others have left, or after so many seconds."""
        # JAX's service is process 0's: with it gone, JAX would end the others first.
        end = time.monotonic() + seconds
        while self.process == 0 and time.monotonic() < end:
            if all(peer.left for peer in self._peers):
                return
            time.sleep(0.1)

    def _begin(self) -> None:
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _send(self, peer: _Peer, word: dict[str, Any]) -> None:
        with self._lock, contextlib.suppress(OSError):
            peer.socket.sendall(json.dumps(word).encode() + b"\n")

    def _run(self) -> None:
        said = time.monotonic()
        while True:
            sockets = [peer.socket for peer in self._peers if not peer.left]
            listening = [self._listening] if self._listening else []
            ready = select.select([*sockets, *listening], [], [], BEAT / 4)[0]
            now = time.monotonic()
            if now - said > SILENCE:  # this process stood still itself, as after Ctrl-Z
                for peer in self._peers:
                    peer.heard = now
            if now - said > BEAT:
                said = now
                for peer in self._peers:
                    self._send(peer, {})
            for peer in [*self._peers]:
                if peer.socket in ready:
                    self._read(peer, now)
                elif not peer.left and now - peer.heard > SILENCE:
                    self._lost(peer, f"has not been heard of for {SILENCE:.0f} s")
            if self._listening in ready:
                taken = self._listening.accept()[0]
                self._peers.append(_Peer(-1, "?", taken, now))

    def _read(self, peer: _Peer, now: float) -> None:
        try:
            found = peer.socket.recv(65536)
        except OSError:
            found = b""
        if not found:
            peer.left = True
            self._lost(peer, "has died")
            return
        peer.heard = now
        *lines, peer.unread = (peer.unread + found).split(b"\n")
        for line in lines:
            try:
                word = json.loads(line)
                if peer.process < 0 and word["token"] == self.token:
                    peer.process, peer.name = word["process"], word["name"]
            except (ValueError, LookupError, TypeError):
                word = None
            if word is None or peer.process < 0:  # no process of this group
                peer.left = True
                peer.socket.close()
                return
            if "left" in word:
                peer.left = True
            if "failed" in word:
                peer.left = True
                self._failed(peer, word["failed"])
            if "stop" in word:
                self._stop(word["stop"], word["grace"])

    def _lost(self, peer: _Peer, what: str) -> None:
        if peer.process < 0:
            peer.left = True
            return
        self._all_stop(f"process {peer.process} ({peer.name}) {what}{GO_ON}", 0)

    def _failed(self, peer: _Peer, error: str) -> None:
        self._all_stop(f"process {peer.process} ({peer.name}) ended: {error}", GRACE)

    def _all_stop(self, line: str, grace: float) -> None:
        if self._closing:
            return
        for peer in self._peers:
            if not peer.left:
                self._send(peer, {"stop": line, "grace": grace})
        self._stop(line, grace)

    def _stop(self, line: str, grace: float) -> None:
        end = time.monotonic() + grace
        while time.monotonic() < end and not self._closing:
            time.sleep(0.1)
        if not self._closing:
            self._end(line)


def end_process(line: str) -> None:
    """End this process at once: what it waits for never comes."""
    if sys.stdout is not None and sys.stdout.isatty():
        # A progress bar hides the cursor, and is on this line.
        with contextlib.suppress(OSError):
            os.write(1, b"\x1b[?25h\n")
    with contextlib.suppress(OSError):
        os.write(2, f"kerascnn: {line}\n".encode(errors="replace"))
    os._exit(EXIT_CODE)
