"""A finished run, and its page."""

import pytest

import kerascnn

OPTIONS = {"data": "sample", "epochs": 2, "limit": 640, "report": False}


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "cache"
    out = tmp_path_factory.mktemp("runs") / "lenet"
    return kerascnn.train("fashion_lenet", **OPTIONS, cache_dir=cache, out=out)


@pytest.fixture(scope="session")
def file(run):
    return run.demo()
