"""Memory that is kept: the kernel's own account of a process is the witness."""

import os
import statistics
import subprocess
import sys

import pytest

from kerascnn.process import memory

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


def chosen():
    """The tunables of a process whose user has not chosen."""
    variables = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", variables)
        return memory.variables().get("GLIBC_TUNABLES", "")


# Starts again with the tunables, as the command line does.
RESTARTED = """
from kerascnn.process import backend, memory, signals
signals.own_process()
backend.restart_for_memory()
"""

by_choice = pytest.mark.skipif(
    "hugetlb" not in chosen(), reason="this system gives huge pages always or never"
)
keeps = pytest.mark.skipif(
    "mmap_threshold" not in chosen(), reason="this C library can't keep memory"
)


@by_choice
@pytest.mark.parametrize(
    "choice", [{}, {"GLIBC_TUNABLES": ""}, {"KERASCNN_PREPARE": "0"}]
)
def test_a_program_gets_huge_pages_unless_the_user_says_otherwise(choice):
    program = f"""
{RESTARTED}
x = b"x" * 2**28
print([line.split()[1] for line in open("/proc/self/smaps_rollup")
       if line.startswith("AnonHugePages")][0])
"""
    huge = int(printed(program, **choice)[0]) / 2**10  # MiB
    assert huge < 50 if choice else huge > 200


@keeps
@pytest.mark.parametrize(
    "words", [["kerascnn.recipes.fashion_mlp"], ["kerascnn", "run", "fashion_mlp"]]
)
@pytest.mark.few("words0")
def test_a_recipe_starts_again_with_memory_once(tmp_path, words):
    (tmp_path / "sitecustomize.py").write_text(
        "import os; print('begun with', os.environ.get('GLIBC_TUNABLES'))"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    plain = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-m", *words, "--no-such-option"],
        env={**plain, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["begun with None", f"begun with {chosen()}"]
    assert done.returncode == 2


def test_a_command_that_is_called_restarts_nothing():
    program = """
from kerascnn.cli import commands
from kerascnn.process import signals
signals.own_process()
print(commands.main(["learns", "fashion_mlp", "--no-such-option"]))
"""
    assert printed(program) == ["2"]


KEPT = "glibc.malloc.trim_threshold=17179869184:glibc.malloc.mmap_threshold="
HUGE = "glibc.malloc.hugetlb=1"
ONE_HEAP = KEPT + "8589934592:glibc.malloc.arena_max=1"


@pytest.mark.parametrize(
    ("setting", "library", "expected"),
    [
        ("always [madvise] never", "glibc 2.36", f"{KEPT}268435456:{HUGE}"),
        ("always [madvise] never", "glibc 2.35", HUGE),
        ("always madvise [never]", "glibc 2.35", None),
        ("always [madvise] never", "glibc 2.34", None),
        ("always [madvise] never", None, None),
        ("[always] madvise never", "glibc 2.36", f"{KEPT}268435456"),
        ("always madvise [never]", "glibc 2.36", ONE_HEAP),
        (None, "glibc 2.36", ONE_HEAP),
    ],
)
def test_variables(monkeypatch, tmp_path, setting, library, expected):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "confstr", lambda name: library, raising=False)
    monkeypatch.setattr(memory, "_HUGE_PAGES", tmp_path / "enabled")
    if setting:
        (tmp_path / "enabled").write_text(setting)
    assert memory.variables().get("GLIBC_TUNABLES") == expected


@pytest.mark.parametrize("platform", ["darwin", "win32", sys.platform])
def test_an_environment_without_tunables_holds_none_of_ours(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert not memory.is_ours("")


@by_choice
@pytest.mark.parametrize("program", [False, True])
@pytest.mark.parametrize("thread", [False, True])
def test_what_a_step_gives_back_serves_the_next(program, thread):
    usual = statistics.median(
        map(
            int,
            printed(f"""
import resource, threading
{RESTARTED if program else ""}

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
""")[1:],
        )
    )
    # Once in a while the system is short of one huge page, and puts 512 small ones in
    # its place: hence the median.
    if not program:
        assert usual > 0.9 * 2**26 / os.sysconf("SC_PAGE_SIZE")
    elif thread:
        assert usual < 2**26 / 2**21 + 8  # new pages, but huge ones
    else:
        assert usual < 5


@by_choice
@pytest.mark.parametrize("less", [False, True])
def test_a_large_nets_blocks_go_back_to_the_system(less):
    program = f"""
{RESIDENT}
{RESTARTED}
memory.keep_less() if {less} else None
before = resident()
block = bytearray(b"x") * 2**26
assert resident() - before > 32  # the heap's last huge page may be resident already
del block
print(resident() - before)
"""
    left = int(printed(program)[0])
    assert left < 3 if less else left > 32


@glibc
@pytest.mark.slow
@pytest.mark.parametrize("tunables", ["glibc.malloc.check=0", ""])
def test_the_users_own_tunables_hold_and_are_said(tunables):
    said = printed(
        "import kerascnn; print(kerascnn.prepare_process()['memory'])",
        GLIBC_TUNABLES=tunables,
    )
    assert " ".join(said) == f"GLIBC_TUNABLES={tunables}"


@glibc
def test_memory_is_given_back_when_jax_has_compiled():
    program = f"""
import jax
from kerascnn.process import memory

{RESIDENT}
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


COLLECTIONS = """
import gc, sys
from kerascnn.process import signals
if sys.argv[1] == "program":
    signals.own_process()
before = gc.get_stats()[0]["collections"]
kept = [[] for _ in range(10**5)]
print(gc.get_stats()[0]["collections"] - before)
"""


def test_programs_look_seldom_for_unreachable_objects():
    """Importing Keras and tracing a step make millions of objects that stay."""
    found = [
        int(
            subprocess.run(
                [sys.executable, "-c", COLLECTIONS, kind],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for kind in ("program", "library")
    ]
    assert 0 < found[0] < found[1] / 4
