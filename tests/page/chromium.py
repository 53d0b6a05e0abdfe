"""A headless Chromium, driven over a pipe by its DevTools protocol."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")

# The protocol is spoken on file descriptors 3 and 4: a process that becomes the browser
# lays the pipes there, because code of ours between fork and exec may hang beside JAX.
LAY = """
import fcntl, os, sys
high = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]]
for number, descriptor in zip((3, 4), high):
    os.dup2(descriptor, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


def path():
    """Return the browser's file: of CHROME_PATH, or on the path; None of neither."""
    found = os.environ.get("CHROME_PATH") or next(
        filter(None, map(shutil.which, NAMES)), None
    )
    return found if found and Path(found).exists() else None


class Page:
    """A page of a browser; `events` holds what the browser has told of it."""

    def __init__(self, profile):
        self.events, self._answers, self._number = [], {}, 0
        self._arrived = threading.Condition()
        ours, theirs = os.pipe(), os.pipe()  # to the browser, and from it

        self._process = subprocess.Popen(
            [
                *(sys.executable, "-S", "-c", LAY, str(ours[0]), str(theirs[1])),
                *(path(), "--headless", "--no-sandbox", "--disable-gpu"),
                *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
                *("--no-first-run", "--disable-dev-shm-usage", "about:blank"),
            ],
            pass_fds=(ours[0], theirs[1]),
            env={**os.environ, "LANG": "en_US.UTF-8"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from = ours[1], os.fdopen(theirs[0], "rb")
        threading.Thread(target=self._listen, daemon=True).start()
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        words = {"targetId": target, "flatten": True}
        self._session = self._send("Target.attachToTarget", **words)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def _listen(self):
        text = b""
        while part := os.read(self._from.fileno(), 1 << 20):
            text += part
            *whole, text = text.split(b"\0")
            with self._arrived:
                for message in map(json.loads, whole):
                    if "id" in message:
                        self._answers[message["id"]] = message
                    else:
                        self.events.append(message)
                self._arrived.notify_all()

    def _send(self, method, session=None, **words):
        self._number += 1
        message = {"id": self._number, "method": method, "params": words}
        if session:
            message["sessionId"] = session
        number, data = self._number, json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        with self._arrived:
            if not self._arrived.wait_for(lambda: number in self._answers, 60):
                raise TimeoutError(method)
            answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def send(self, method, **words):
        return self._send(method, self._session, **words)

    def open(self, file):
        self.events.clear()
        self.send("Page.navigate", url=Path(file).resolve().as_uri())
        with self._arrived:
            loaded = "Page.loadEventFired"
            assert self._arrived.wait_for(lambda: self.heard(loaded), 30)

    def heard(self, method):
        return [e["params"] for e in self.events if e["method"] == method]

    def value(self, expression):
        words = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.send("Runtime.evaluate", **words)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def see(self, width, height=900, dark=False):
        """Set the window's size and the colours that the reader prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.send("Emulation.setDeviceMetricsOverride", **size, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, selector):
        self.value(
            f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})"
        )
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            button = {"button": "left", "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def middle(self, selector, share=0.5):
        box = self.value(
            f"(() => {{const b = document.querySelector({selector!r})"
            ".getBoundingClientRect(); return [b.left, b.top, b.width, b.height]})()"
        )
        return box[0] + share * box[2], box[1] + box[3] / 2

    def picture(self, file, whole=True):
        words = {"captureBeyondViewport": whole}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            words["clip"] = {**size, "scale": 1}
        data = self.send("Page.captureScreenshot", **words)["data"]
        Path(file).write_bytes(base64.b64decode(data))

    def close(self):
        with contextlib.suppress(Exception):
            self._send("Browser.close")
        for _ in range(50):
            if self._process.poll() is not None:
                return
            time.sleep(0.1)
        self._process.kill()
