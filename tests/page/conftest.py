"""Finished runs, whose pages tests look at."""

import pytest

import kerascnn
from kerascnn.page import evidence

OPTIONS = {"data": "sample", "epochs": 2, "limit": 400, "batch_size": 64}
OPTIONS |= {"record": "full"}


@pytest.fixture(scope="session")
def lenet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lenet"
    # The fixture of all tests that names this cache is too late for this one.
    cache = tmp_path_factory.getbasetemp() / "cache"
    return kerascnn.train("fashion_lenet", **OPTIONS, cache_dir=cache, out=folder)


@pytest.fixture(scope="session")
def found(lenet):
    return evidence.gather(lenet)
