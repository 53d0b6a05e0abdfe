"""Memory that is kept: the kernel's own account of a process is the witness."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

glibc = pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="the C library is not glibc",
)

# For the programs of the tests.
RESIDENT = """
def resident():
    import os
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20  # MiB
"""


def printed(program, **variables):
    plain = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=plain | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@glibc
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("thread", [False, True])
def test_what_a_step_gives_back_serves_the_next(prepared, thread):
    program = f"""
import resource, threading
from kerascnn.process import memory

if {prepared}:
    memory.prepare()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    for _ in range(5):  # each but the first finds what the one before has given back
        before = faults()
        array = bytearray(b"x") * 2**26
        del array
        print(faults() - before)

thread = threading.Thread(target=work)
thread.start() if {thread} else work()
"""
    # Once in a while the system is short of one huge page, and puts 512 small ones in
    # its place.
    usual = statistics.median(map(int, printed(program)[1:]))
    if prepared:
        assert usual < 5
    else:
        assert usual > 0.9 * 2**26 / os.sysconf("SC_PAGE_SIZE")


@glibc
@pytest.mark.parametrize("before", ["", "memory.trim()", "memory.trim_between_steps()"])
def test_pages_are_huge_also_after_memory_was_given_back(before):
    program = f"""
from kerascnn.process import memory
memory.prepare()
{before}
x = b"x" * 2**28
print([line.split()[1] for line in open("/proc/self/smaps_rollup")
       if line.startswith("AnonHugePages")][0])
"""
    setting = "/sys/kernel/mm/transparent_hugepage/enabled"
    if not os.path.exists(setting) or "[never]" in Path(setting).read_text():
        pytest.skip("this system gives no huge pages")
    assert int(printed(program)[0]) / 2**10 > 200  # MiB


@glibc
@pytest.mark.parametrize("prepared", [False, True])
def test_trim_gives_back_holes_and_the_heaps_end(prepared):
    program = f"""
from kerascnn.process import memory
{RESIDENT}
memory.prepare() if {prepared} else None
before = resident()
holes = [bytes(4000) for _ in range(50_000)]
kept = holes[-1]  # keeps the others' place
end = b"x" * 2**27
held = resident() - before
del holes, end
memory.trim()
print(held, resident() - before)
"""
    held, left = map(int, printed(program))
    assert held > 300
    assert left < 40


@glibc
@pytest.mark.parametrize("prepared", [False, True])
def test_between_steps_a_process_that_keeps_memory_alone_gives_it_back(prepared):
    program = f"""
from kerascnn.process import memory
memory.prepare() if {prepared} else None
trims = []
memory.trim = lambda: trims.append(1)
memory.trim_between_steps()
print(len(trims))
"""
    assert printed(program) == [str(int(prepared))]


@glibc
@pytest.mark.parametrize("tunables", ["", "glibc.malloc.check=0"])
def test_the_users_own_tunables_hold(tunables):
    program = """
from kerascnn.process import memory
print(memory.prepare())
"""
    said = printed(program, GLIBC_TUNABLES=tunables)
    assert " ".join(said) == "left alone: GLIBC_TUNABLES is set"


@glibc
def test_memory_is_given_back_when_jax_has_compiled():
    program = f"""
import jax
from kerascnn.process import memory

{RESIDENT}
memory.prepare()
memory.trim_after_compiling()
kept = [bytes(4000) for _ in range(50_000)][-1]  # the last one keeps the others' place
before = resident()
for seconds in (0.1, 2.0):
    jax.monitoring.record_event_duration_secs(
        "/jax/core/compile/backend_compile_duration", seconds
    )
    print(before - resident())
"""
    short, long = map(int, printed(program))
    assert short < 20
    assert long > 150


@glibc
@pytest.mark.parametrize("is_program", [True, False])
def test_what_is_compiled_is_forgotten_in_a_program_alone(is_program):
    program = f"""
import jax
from kerascnn.process import memory, signals

{RESIDENT}
memory.prepare()
signals.stop_quietly() if {is_program} else None
double = jax.jit(lambda x: 2 * x)
double(1.0)
blocks = [bytes(4000) for _ in range(50_000)]
kept = blocks.pop()
del blocks
before = resident()
memory.forget_compiled()
print(double._cache_size(), before - resident(), float(double(4.0)))
"""
    size, given, result = map(float, printed(program))
    assert result == 8
    assert size == (0 if is_program else 1)
    assert given > 150 if is_program else given < 20
