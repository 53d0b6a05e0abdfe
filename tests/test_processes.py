"""Children that answer line by line: what they say, and that none is left."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from kerascnn import processes

CHILD = """
import os, signal, sys
from kerascnn import processes
processes.answers()
print("a library's word")  # must not mix with the answers
def answer(line):
    if line == "die":
        print("out of memory", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if line == "wait":
        signal.pause()
    return {"line": line, "pid": os.getpid()}
processes.serve(answer)
"""

PARENT = """
import sys, time
from kerascnn import processes
from kerascnn.process import signals
signals.stop_quietly()
with processes.Child("child", []) as child:
    print(child.ask("hello")["pid"], flush=True)
    child.ask("wait")
"""


@pytest.fixture(autouse=True)
def child(tmp_path, monkeypatch):
    (tmp_path / "child.py").write_text(CHILD)
    path = [str(tmp_path), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def gone(pid):
    """Whether a process has ended within ten seconds."""
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_lines_are_answered_one_by_one():
    with processes.Child("child", []) as child:
        assert [child.ask(line)["line"] for line in ("a", "b c")] == ["a", "b c"]
        pid = child.process.pid
    assert gone(pid)


def test_a_child_that_dies_says_why():
    with (
        processes.Child("child", []) as child,
        pytest.raises(processes.EndedError) as caught,
    ):
        child.ask("die")
    assert (caught.value.code, caught.value.why) == (-signal.SIGKILL, "out of memory")


def test_a_child_that_cannot_start_says_why():
    with (
        processes.Child("no_such_module", []) as child,
        pytest.raises(processes.EndedError, match="No module named no_such_module"),
    ):
        child.answer()


@pytest.mark.skipif(not os.path.exists("/proc"), reason="reads /proc")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_child_is_left(name):
    """Ctrl-C and SIGTERM close it; where its parent was killed, it ends by itself."""
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pid = int(parent.stdout.readline())
    parent.send_signal(getattr(signal, name))
    parent.communicate(timeout=30)
    assert gone(pid)
