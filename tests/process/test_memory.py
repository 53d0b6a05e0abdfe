"""Memory that is kept: the kernel's own account of a process is the witness."""

import os
import statistics
import subprocess
import sys

import pytest

from kerascnn.process import memory

# For the programs of the tests.
RESIDENT = """
def resident():
    import os
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20  # MiB
"""

KEPT = "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184"
UP_TO_256_MB = KEPT.replace("8589934592", "268435456")
TUNABLE = {"GLIBC_TUNABLES": UP_TO_256_MB + ":glibc.malloc.hugetlb=1"}
WITHOUT_HUGE_PAGES = {"GLIBC_TUNABLES": KEPT + ":glibc.malloc.arena_max=1"}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.fixture
def plain(monkeypatch):
    """An environment in which nobody has chosen yet."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)


def tunables():
    """The tunables of a process whose user has not chosen."""
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment)
        return memory.variables().get("GLIBC_TUNABLES", "")


by_choice = pytest.mark.skipif(
    "hugetlb" not in tunables(), reason="this system gives huge pages always or never"
)
kept = pytest.mark.skipif(
    "mmap_threshold" not in tunables(), reason="this C library can't keep memory"
)
always = os.path.exists(memory._SETTING) and "[always]" in memory._SETTING.read_text()


@by_choice
@pytest.mark.parametrize("choice", ["", None])
def test_restart_gets_memory_unless_the_user_says_otherwise(plain, monkeypatch, choice):
    if choice is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", choice)
    program = (
        "from kerascnn import memory; memory.restart(); x = b'x' * 2**28; "
        "print([line.split()[1] for line in open('/proc/self/smaps_rollup')"
        " if line.startswith('AnonHugePages')][0])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    huge = int(found.stdout) / 2**10  # MiB
    assert huge > 200 if choice is None else huge < 50


@kept
@pytest.mark.parametrize(
    "words", [["kerascnn.recipes.fashion_mlp"], ["kerascnn", "run", "fashion_mlp"]]
)
def test_a_recipe_starts_again_with_memory(plain, tmp_path, words):
    (tmp_path / "sitecustomize.py").write_text(
        "import os; print('begun with', os.environ.get('GLIBC_TUNABLES'))"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", *words, "--no-such-option"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        "begun with None",
        f"begun with {tunables()}",
    ]
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("setting", "library", "expected"),
    [
        ("always [madvise] never", "glibc 2.36", TUNABLE),
        ("always [madvise] never", "glibc 2.35", HUGE_PAGES),
        ("always madvise [never]", "glibc 2.35", {}),
        ("always [madvise] never", "glibc 2.34", {}),
        ("always [madvise] never", None, {}),
        ("[always] madvise never", "glibc 2.36", {"GLIBC_TUNABLES": UP_TO_256_MB}),
        ("always madvise [never]", "glibc 2.36", WITHOUT_HUGE_PAGES),
        (None, "glibc 2.36", WITHOUT_HUGE_PAGES),
    ],
)
def test_variables(plain, monkeypatch, tmp_path, setting, library, expected):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "confstr", lambda name: library, raising=False)
    monkeypatch.setattr(memory, "_SETTING", tmp_path / "enabled")
    if setting:
        (tmp_path / "enabled").write_text(setting)
    assert memory.variables() == expected


@kept
@pytest.mark.skipif(always, reason="a few huge pages tell nothing")
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("thread", [False, True])
def test_what_a_step_gives_back_serves_the_next(plain, restarted, thread):
    program = f"""
import resource, threading
from kerascnn import memory

if {restarted}:
    memory.restart()

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
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    # Once in a while the system is short of one huge page, and puts 512 small ones in
    # its place.
    usual = statistics.median(map(int, found.stdout.split()[1:]))
    if restarted and thread and "arena_max" not in tunables():
        assert usual < 2**26 / 2**21 + 8  # new pages, but huge ones
    elif restarted:
        assert usual < 5
    else:
        assert usual > 0.9 * 2**26 / os.sysconf("SC_PAGE_SIZE")


@by_choice
@pytest.mark.parametrize("less", [False, True])
def test_a_large_nets_blocks_go_back_to_the_system(plain, less):
    program = f"""
from kerascnn import memory

{RESIDENT}
memory.restart()
memory.keep_less() if {less} else None
before = resident()
block = bytearray(b"x") * 2**26
assert resident() - before > 32  # the heap's last huge page may be resident already
del block
print(resident() - before)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    left = int(found.stdout)
    assert left < 3 if less else left > 32


@kept
def test_memory_is_given_back_when_jax_has_compiled():
    program = f"""
import jax
from kerascnn import memory

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
    environment = {**os.environ, **TUNABLE}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    short, long = map(int, found.stdout.split())
    assert short < 20
    assert long > 150


@kept
@pytest.mark.parametrize("is_program", [True, False])
def test_what_is_compiled_is_forgotten_in_a_program_alone(is_program):
    program = f"""
import os
import jax
from kerascnn import memory

{RESIDENT}
memory.restart() if {is_program} else None
double = jax.jit(lambda x: 2 * x)
double(1.0)
blocks = [bytes(4000) for _ in range(50_000)]
kept = blocks.pop()
del blocks
before = resident()
memory.forget_compiled()
print(double._cache_size(), before - resident(), float(double(4.0)))
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **TUNABLE},
        capture_output=True,
        text=True,
        check=True,
    )
    size, given, result = map(float, found.stdout.split())
    assert result == 8
    assert size == (0 if is_program else 1)
    assert given > 150 if is_program else given < 20
