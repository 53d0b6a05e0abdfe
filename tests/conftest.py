"""Settings for all tests."""

import atexit
import contextlib
import gc
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import kerascnn  # chooses the Keras backend before anything imports keras
from kerascnn.process import signals

# A suite that a shell runs in the background was told to ignore Ctrl-C, and would pass
# that on to the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# PyTorch's builds for CUDA import Triton when they first need it, which is the end of a
# process that has TensorFlow (2.21) already; the other way round both live.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

# What JAX compiles for one test serves the others, in this process and in those
# that tests start. The first makes the folder, the rest find it in their environment.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="kerascnn-tests-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"

# Runs of most tests need no page; those of tests/page write theirs.
os.environ.setdefault("KERASCNN_REPORT", "0")

# What layers answer takes a program of its own to compile; tests of it ask for it.
os.environ.setdefault("KERASCNN_RECORD", "light")

# Texts are English, whichever language the developer reads.
os.environ.pop("KERASCNN_LANG", None)

# Two devices wherever the tests run; `devices.mesh` says when they are used.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

LITTLE = "JAX_DISABLE_MOST_OPTIMIZATIONS"
ASKED = pytest.StashKey()


def pytest_configure(config):
    """Let LLVM optimise little where slow tests are left out.

    Most of the default suite's time is compiling, and this takes a third less. XLA's
    own passes run as ever, so that a program's structure and its memory are the same;
    its machine code is slower, and last bits differ. What LLVM does to a program is
    for the tests marked `optimised`, for the slow suite, and for a variable of the
    environment: with JAX_DISABLE_MOST_OPTIMIZATIONS=0 all tests have all of it.
    """
    quick = "1" if "not slow" in config.option.markexpr else "0"
    config.stash[ASKED] = os.environ.setdefault(LITTLE, quick)


def optimise(value):
    """Compile with LITTLE of this value from here on, here and in new processes."""
    if os.environ[LITTLE] == value:
        return
    os.environ[LITTLE] = value
    if "jax" in sys.modules:
        jax = sys.modules["jax"]
        jax.config.update(LITTLE.lower(), value not in ("0", "false"))
        jax.clear_caches()  # of what was compiled otherwise


def require(package):
    """Skip a test where a backend's package is not installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.hookimpl(tryfirst=True)  # before pytest looks who is slow
def pytest_collection_modifyitems(config, items):
    """Leave the cases that a test's `few` does not name to the slow suite."""
    found = {}
    for item in items:
        if marker := item.get_closest_marker("few"):
            name = item.nodeid.partition("[")[0]
            found.setdefault((name, marker.args), []).append(item.callspec.id)
            if item.callspec.id not in marker.args:
                item.add_marker(pytest.mark.slow)
    # Some cases are asked for by their names; another backend than JAX has some alone.
    partly = "KERASCNN_PASSES_ON" in os.environ or any("[" in w for w in config.args)
    for (name, few), cases in found.items():
        if not partly and (gone := set(few) - set(cases)):
            raise pytest.UsageError(f"{name} has no case {', '.join(sorted(gone))}")


def pytest_collection_finish(session):
    """Leave what the imports made out of garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.hookimpl(tryfirst=True)  # before the fixtures of its module compile
def pytest_runtest_setup(item):
    all_of_it = item.get_closest_marker("optimised")
    optimise("0" if all_of_it else item.config.stash[ASKED])
    for marker in item.iter_markers("needs"):
        require(marker.args[0])


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """No test writes the user's own cache; all share one, so samples decode once."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("KERASCNN_CACHE_DIR", str(cache))


@pytest.fixture(autouse=True)
def _no_program():
    """No test leaves its process to the command line: a later one's budget would count
    from the start of all tests, and a later one's signal would end them."""
    yield
    assert not signals.is_program()


@pytest.fixture(scope="session")
def lenet(tmp_path_factory):
    """A finished run, which tests only read."""
    # `_own_cache` names this cache too late for this fixture.
    cache = tmp_path_factory.getbasetemp() / "cache"
    options = {"data": "sample", "epochs": 2, "limit": 400, "batch_size": 64}
    options |= {"record": "full", "cache_dir": cache}
    out = tmp_path_factory.mktemp("runs") / "lenet"
    return kerascnn.train("fashion_lenet", **options, out=out)


@pytest.fixture(scope="module")
def copied_lenet(lenet, tmp_path_factory):
    """The same run, which tests of one file may add files to."""
    copy = tmp_path_factory.mktemp("copied") / "lenet"
    return type(lenet)(shutil.copytree(lenet.folder, copy))


@pytest.fixture
def passes_on():
    """Check that tests pass on another backend, in a process of their own."""

    def check(backend, *tests):
        require(backend)
        if "KERASCNN_PASSES_ON" in os.environ:
            pytest.skip("this is the process of its own")
        words = ["-m", "pytest", "-q", "-m", "", "-n", "0", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, *words, *tests],
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "KERASCNN_PASSES_ON": backend,
                "TF_CPP_MIN_LOG_LEVEL": "2",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return check


@pytest.fixture
def unchanged():
    """Check that a block creates, changes and deletes nothing in a folder."""

    def listing(folder, but):
        files = {}
        for parent, folders, names in os.walk(os.fsencode(folder)):
            folders[:] = [each for each in folders if os.fsdecode(each) not in but]
            for name in (*folders, *names):
                path = os.path.join(parent, name)
                content = b""
                if os.path.isfile(path) and not os.path.islink(path):
                    content = Path(os.fsdecode(path)).read_bytes()
                files[path] = hashlib.sha256(content).hexdigest()
        return files

    @contextlib.contextmanager
    def check(folder, but=()):
        """`but`: names of folders below that may change."""
        before = listing(folder, but)
        yield
        assert listing(folder, but) == before

    return check
