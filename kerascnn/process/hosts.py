"""Several processes, on one host or on several, that train one run together.

Each runs the same command on the same data. JAX's coordination service brings them
together, process 0 of them writes the run, and `watch` ends all where one dies.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from kerascnn import UsageError, text
from kerascnn.process import cores, watch
from kerascnn.process.signals import Signals

# Seconds that the processes wait for each other at the start, and that a process may be
# silent before JAX's own service ends the others, if `watch` has not.
MEETING, HEARTBEAT = 300, 30
VARIABLES = "KERASCNN_COORDINATOR", "KERASCNN_NUM_PROCESSES", "KERASCNN_PROCESS_ID"
OPTIONS = "--coordinator", "--num-processes", "--process-id"


@dataclasses.dataclass(frozen=True)
class Group:
    """Where a process finds the others of its run.

    Attributes:
        found: Who says so, in words: the options, SLURM, ...
        coordinator: Address and port of process 0's service, `HOST:PORT`; None where
            JAX finds out, as are the other two.
        processes: Their number.
        process: This one's place, from 0.
    """

    found: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def wanted(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> Group | None:
    """Return the group that options or the environment name; None of one process.

    What is left out is taken from `VARIABLES`; the place of a process also from
    JOB_COMPLETION_INDEX, which Kubernetes sets in an indexed Job. Where nothing is
    given, several tasks of SLURM's `srun` or Open MPI's `mpirun` are a group, whose
    addresses JAX reads.

    Raises:
        UsageError: A part is missing or makes no sense.
    """
    environment = os.environ
    given = [coordinator, processes, process]
    pairs = zip(OPTIONS, given, strict=True)
    names = [option for option, value in pairs if value is not None]
    for at, name in enumerate(VARIABLES):
        value = environment.get(name)
        if given[at] is None and value:
            given[at] = value if at == 0 else _whole(name, value)
            names.append(name)
    if given[2] is None and given[:2] != [None, None]:
        index = environment.get("JOB_COMPLETION_INDEX")
        given[2] = index and _whole("JOB_COMPLETION_INDEX", index)
    if given[1] == 1 and (given[2] or 0) == 0:
        return None
    if any(value is not None for value in given):
        return _checked(", ".join(names) or OPTIONS[2], *given)
    if int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return Group("SLURM")
    if int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        return Group("Open MPI")
    return None


def _whole(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"{name} {value}: expected a whole number.") from None


def _checked(found: str, coordinator: Any, processes: Any, process: Any) -> Group:
    given = coordinator, processes, process
    missing = [
        f"{option} ({name} in the environment)"
        for option, name, value in zip(OPTIONS, VARIABLES, given, strict=True)
        if value is None
    ]
    if missing:
        raise UsageError(
            f"{found}: several processes that train one run also need "
            f"{' and '.join(missing)}."
        )
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(
            f"--coordinator {coordinator}: expected HOST:PORT, the address of process "
            "0 and a free port there, such as node1:8476."
        )
    if not 0 <= process < processes:
        raise UsageError(
            f"--process-id {process}: expected 0 to {processes - 1}, with "
            f"--num-processes {processes}."
        )
    return Group(found, coordinator, processes, process)


@dataclasses.dataclass(frozen=True)
class _Joined:
    group: Group | None
    watch: watch.Watch | None = None


_joined: _Joined | None = None


def join(group: Group | None) -> None:
    """Meet the other processes of a group, before JAX has its devices; once.

    Raises:
        UsageError: It is too late, or they do not meet.
    """
    global _joined
    if _joined is not None and _joined.watch is not None:
        if group not in (None, _joined.group):
            raise UsageError("this process is one of another group already.")
        return
    if group is None:
        return
    if os.environ["KERAS_BACKEND"] != "jax":
        raise UsageError(
            f"several processes need JAX, and the backend is "
            f"{os.environ['KERAS_BACKEND']}: pass --backend jax."
        )
    if cores.jax_has_begun():
        raise UsageError(
            "several processes must meet before JAX has computed anything: begin the "
            "program with the training."
        )
    import jax

    if jax.config.jax_cpu_collectives_implementation in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # On a CPU two functions that send to other processes must not run at once.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(
            coordinator_address=group.coordinator,
            num_processes=group.processes,
            process_id=group.process,
            initialization_timeout=MEETING,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
        with _without_output():
            _joined = _Joined(group, _watched(group))
            int(_largest([0])[0])
    except (RuntimeError, OSError, ValueError) as error:
        raise UsageError(
            f"the processes of this run ({group.found}) did not meet within {MEETING} "
            f"s: {text.one_line(error, most=300)}"
        ) from error
    atexit.register(leave)
    text.silent = not is_first()


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Drop what libraries print in a block: Gloo says that it is connected."""
    # Past Python, whose own output is empty here.
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            sink, own = os.open(os.devnull, os.O_WRONLY), os.dup(1)
            os.dup2(sink, 1)
            os.close(sink)
            stack.callback(os.close, own)
            stack.callback(os.dup2, own, 1)
        yield


def _watched(group: Group) -> watch.Watch:
    """Connect this process to process 0, for `watch`."""
    import jax

    process = jax.process_index()
    name = f"{socket.gethostname()}, pid {os.getpid()}"
    place = None
    if process == 0:
        own = watch.Watch(0, name, secrets.token_hex(16), watch.end_process)
        place = {
            "port": own.listen(),
            "token": own.token,
            "name": name,
            "addresses": _addresses(group),
        }
    place = shared(place)
    if process != 0:
        own = watch.Watch(process, name, place["token"], watch.end_process)
        own.connect(place["addresses"], place["port"], place["name"])
    return own


def _addresses(group: Group) -> list[str]:
    """Return the addresses under which other processes may find this host."""
    found = [socket.gethostname(), socket.getfqdn()]
    if group.coordinator:
        found.insert(0, group.coordinator.rpartition(":")[0].strip("[]"))
    with contextlib.suppress(OSError):
        found += [
            str(place[4][0]) for place in socket.getaddrinfo(socket.gethostname(), None)
        ]
    return list(dict.fromkeys(found))


def number() -> int:
    """Return the number of processes that train this run."""
    return sys.modules["jax"].process_count() if is_joined() else 1


def index() -> int:
    """Return this process's place among them, from 0."""
    return sys.modules["jax"].process_index() if is_joined() else 0


def is_joined() -> bool:
    """Whether this process is one of several."""
    return _joined is not None


def is_first() -> bool:
    """Whether this process writes the run and speaks."""
    return index() == 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Print nothing in a block, but in the first process."""
    silent = None if is_first() else io.StringIO()
    with contextlib.redirect_stdout(silent) if silent else contextlib.nullcontext():
        yield


def shared(value: Any) -> Any:
    """Return process 0's value, JSON, in every process; the others' count for nothing.

    All processes call it.
    """
    import numpy as np
    from jax.experimental import multihost_utils

    content = json.dumps(value).encode()
    length = multihost_utils.broadcast_one_to_all(np.int32(len(content)))
    padded = np.zeros(int(length), "uint8")
    own = np.frombuffer(content, "uint8")[: len(padded)]
    padded[: len(own)] = own
    found = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return json.loads(found.astype("uint8").tobytes())


def together(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arrays of which each process holds a part, whole in every process.

    Args:
        parts: This process's part of each array, as many rows of each; the parts of the
            processes follow each other. All processes call it.
    """
    import numpy as np
    from jax.experimental import multihost_utils

    gathered = multihost_utils.process_allgather
    rows = np.ravel(gathered(np.int32(len(parts[0]))))
    found = []
    for part in parts:
        padded = np.zeros((rows.max(), *part.shape[1:]), part.dtype)
        padded[: len(part)] = part
        every = zip(np.asarray(gathered(padded)), rows, strict=True)
        found.append(np.concatenate([each[:number] for each, number in every]))
    return tuple(found)


def of_first(arrays: list[Any]) -> list[Any]:
    """Return process 0's arrays, of the same shapes in every process; all call it."""
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(arrays)


def agree_on(facts: Mapping[str, Any]) -> None:
    """Check that all processes are about to train the same; all call it.

    Raises:
        UsageError: The first fact that differs, and in which process.
    """
    if not is_joined():
        return
    import numpy as np
    from jax.experimental import multihost_utils

    digests = np.stack([_digest([name, value]) for name, value in facts.items()])
    whole = np.asarray(multihost_utils.process_allgather(_digest(sorted(facts))))
    if not (whole == whole[0]).all():
        raise UsageError("the processes of this run have other versions of kerascnn.")
    found = np.asarray(multihost_utils.process_allgather(digests))
    differs = (found != found[0]).any(-1)
    if differs.any():
        process, place = (int(each[0]) for each in np.nonzero(differs))
        name = [*facts][place]
        raise UsageError(
            f"the processes would not train the same: {name} is another in process "
            f"{process} than in process 0 (here it is {facts[name]}). All need the "
            "same command, data and versions."
        )


def _digest(value: Any) -> Any:
    import numpy as np

    content = json.dumps(value, sort_keys=True, default=str).encode()
    return np.frombuffer(hashlib.sha256(content).digest(), "uint8")


def leave(error: str | None = None) -> None:
    """Tell the others that this process ends, and of an error that is its own."""
    if _joined is not None and _joined.watch is not None:
        _joined.watch.leave(error)


def ended(code: int) -> int:
    """Return a program's exit code, or end it where an error is this process's own.

    JAX would wait at the end of such a process for the others, which do not come.
    """
    if is_joined() and code == UsageError.exit_code:
        if _joined is not None and _joined.watch is not None:
            _joined.watch.wait_for_others(watch.GRACE + 2)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


class Agreed:
    """What signals ask of any process of a group, known to all at the same step."""

    # Each process hands in what it was asked for since, and reads what all had handed
    # in a step before, so that nobody waits.

    def __init__(self, own: Signals):
        self.own = own
        self.stop: int | None = None
        self.save = False
        self._handed_in: Any = None

    def begin(self) -> None:
        """As `Signals.begin`."""
        self.own.begin()

    def agree(self) -> None:
        """Take in what was asked for; all processes call it after the same steps."""
        import numpy as np

        before, self._handed_in = self._handed_in, self._hand_in()
        if before is not None:
            save, stop = (int(each) for each in np.asarray(before))
            self.save = self.save or bool(save)
            self.stop = self.stop or stop or None

    def check(self, message: str) -> None:
        """As `Signals.check`."""
        self.own.stop = self.stop
        self.own.check(message)

    def _hand_in(self) -> Any:
        asked = [int(self.own.save), self.own.stop or 0]
        self.own.save = False
        return _largest(asked)


def _largest(numbers: list[int]) -> Any:
    """Return the largest of each number over all processes; all call it."""
    import jax
    import numpy as np

    function, sharding = _over_all_devices()
    rows = np.repeat(np.array([numbers], "int32"), jax.local_device_count(), 0)
    return function(jax.make_array_from_process_local_data(sharding, rows))


@functools.cache
def _over_all_devices() -> tuple[Any, Any]:
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("devices",))
    whole = NamedSharding(mesh, PartitionSpec())
    function = jax.jit(lambda x: x.max(0), out_shardings=whole)
    return function, NamedSharding(mesh, PartitionSpec("devices"))
