"""What makes a process one of several, and how one sees that another has died."""

import os
import queue
import socket
import time

import pytest

from kerascnn import UsageError
from kerascnn.process import hosts, watch
from kerascnn.process.hosts import Group
from kerascnn.process.signals import Interrupted, Signals

FROM_ELSEWHERE = (*hosts.VARIABLES, "JOB_COMPLETION_INDEX", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*FROM_ELSEWHERE, "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def named(**variables):
    return {f"KERASCNN_{name}": value for name, value in variables.items()}


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ((None, None, None), {}, None),
        (("node:1", 1, None), {}, None),
        ((None, 1, None), named(COORDINATOR="node:1"), None),
        (("node:84", 4, 0), {}, ("node:84", 4, 0)),
        (("[::1]:84", 2, 1), {}, ("[::1]:84", 2, 1)),
        (
            *((None, None, None),),
            named(COORDINATOR="a:84", NUM_PROCESSES="3", PROCESS_ID="2"),
            ("a:84", 3, 2),
        ),
        # An option goes before the environment.
        ((None, 5, None), named(COORDINATOR="a:84", PROCESS_ID="2"), ("a:84", 5, 2)),
        (
            *((None, None, None),),
            named(COORDINATOR="a:84", NUM_PROCESSES="3")
            | {"JOB_COMPLETION_INDEX": "1"},
            ("a:84", 3, 1),
        ),
        # A Job's index alone says nothing of a run.
        ((None, None, None), {"JOB_COMPLETION_INDEX": "1"}, None),
        ((None, None, None), {"SLURM_STEP_NUM_TASKS": "8"}, (None, None, None)),
        ((None, None, None), {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ((None, None, None), {"OMPI_COMM_WORLD_SIZE": "8"}, (None, None, None)),
        ((None, 1, None), {"SLURM_STEP_NUM_TASKS": "8"}, None),
    ],
)
def test_the_group_that_options_and_environment_name(
    given, environment, expected, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = hosts.wanted(*given)
    if expected is None:
        assert found is None
    else:
        assert (found.coordinator, found.processes, found.process) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("node:84", None, None), "--num-processes .* and --process-id"),
        ((None, 2, 0), "--coordinator"),
        ((None, None, 0), "also need --coordinator"),
        (("node", 2, 0), "expected HOST:PORT"),
        (("node:0", 2, 0), "expected HOST:PORT"),
        ((":84", 2, 0), "expected HOST:PORT"),
        (("node:84", 2, 2), "--process-id 2: expected 0 to 1"),
        (("node:84", 2, -1), "--process-id -1: expected 0 to 1"),
    ],
)
def test_what_is_missing_or_wrong_is_a_line(given, said):
    with pytest.raises(UsageError, match=said):
        hosts.wanted(*given)


def test_a_variable_that_is_no_number_is_a_line(monkeypatch):
    monkeypatch.setenv("KERASCNN_NUM_PROCESSES", "two")
    with pytest.raises(UsageError, match="KERASCNN_NUM_PROCESSES two: expected"):
        hosts.wanted()


def test_a_process_that_has_computed_is_too_late():
    import jax

    if os.environ["KERAS_BACKEND"] != "jax":
        pytest.skip("JAX's")
    jax.devices()
    with pytest.raises(UsageError, match="must meet before JAX has computed"):
        hosts.join(Group("--coordinator", "node:84", 2, 0))


class Watched:
    """Three processes' watches, connected to each other in this process."""

    def __init__(self):
        self.lines = [queue.Queue() for _ in range(3)]
        self.watches = [
            watch.Watch(place, f"host{place}", "token", self.lines[place].put)
            for place in range(3)
        ]
        port = self.watches[0].listen()
        self.port = port
        for each in self.watches[1:]:
            each.connect(["no.such.host.invalid", "127.0.0.1"], port, "host0")
        end = time.monotonic() + 10
        while len(self.named()) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)

    def named(self):
        return [p for p in self.watches[0]._peers if p.process > 0]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(watch, "BEAT", 0.1)
    monkeypatch.setattr(watch, "SILENCE", 1.0)
    monkeypatch.setattr(watch, "GRACE", 0.2)


def test_a_connection_that_ends_is_a_process_that_has_died(quick):
    group = Watched()
    peer = group.watches[2]._peers[0]
    peer.left = True  # its own watch is gone with it
    peer.socket.shutdown(socket.SHUT_RDWR)
    for place in (0, 1):
        line = group.lines[place].get(timeout=10)
        assert line == f"process 2 (host2) has died{watch.GO_ON}"


def test_process_0_s_death_is_seen_by_all(quick):
    group = Watched()
    group.watches[0]._closing = True  # its own watch is gone with it
    for peer in group.watches[0]._peers:
        peer.left = True
        peer.socket.shutdown(socket.SHUT_RDWR)
    for place in (1, 2):
        line = group.lines[place].get(timeout=10)
        assert line == f"process 0 (host0) has died{watch.GO_ON}"


def test_a_silent_process_is_taken_for_dead(quick, monkeypatch):
    group = Watched()
    monkeypatch.setattr(group.watches[1], "_send", lambda *_: None)
    line = group.lines[0].get(timeout=10)
    assert line == f"process 1 (host1) has not been heard of for 1 s{watch.GO_ON}"
    assert group.lines[2].get(timeout=10) == line


def test_an_error_of_one_is_told_to_all(quick):
    group = Watched()
    group.watches[1].leave("no room on the disk.")
    for place in (0, 2):
        line = group.lines[place].get(timeout=10)
        assert line == "process 1 (host1) ended: no room on the disk."


def test_processes_that_leave_end_nobody_and_strangers_neither(quick):
    group = Watched()
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b'{"stop": "x", "grace": 0}\n'):
        with socket.create_connection(("127.0.0.1", group.port)) as stranger:
            stranger.sendall(words)
    for each in reversed(group.watches):
        each.leave()
    time.sleep(2.5)  # longer than the silence
    assert all(lines.empty() for lines in group.lines)


def test_what_a_run_asks_of_its_signals_a_group_s_answer_too():
    asked = {name for name in vars(Signals) if not name.startswith("_")}
    group = hosts.Agreed(Signals(print))
    assert {name for name in asked if callable(getattr(group, name, None))} == asked
    group.begin()
    group.stop = 15
    with pytest.raises(Interrupted):
        group.check("stopped")
