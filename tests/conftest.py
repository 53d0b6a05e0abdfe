"""Settings for all tests."""

import os
import subprocess
import sys

import pytest

import kerascnn  # noqa: F401 - chooses the Keras backend before anything imports keras


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """No test writes the user's own cache; all share one, so samples decode once."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("KERASCNN_CACHE_DIR", str(cache))


@pytest.fixture
def passes_on():
    """Check that tests pass on another backend, in a process of their own."""

    def check(backend, *tests):
        words = ["-m", "pytest", "-q", "-m", "", "-n", "0", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, *words, *tests],
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return check
