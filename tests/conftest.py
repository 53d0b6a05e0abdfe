"""Settings for all tests."""

import pytest

import kerascnn  # noqa: F401 - chooses the Keras backend before anything imports keras


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """No test writes the user's own cache; all share one, so samples decode once."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("KERASCNN_CACHE_DIR", str(cache))
