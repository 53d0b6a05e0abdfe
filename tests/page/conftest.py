"""Finished runs, whose pages tests look at."""

import pytest

import kerascnn
from kerascnn.page import evidence

OPTIONS = {"data": "sample", "epochs": 2, "limit": 400, "batch_size": 64}


@pytest.fixture(scope="session")
def lenet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lenet"
    return kerascnn.train("fashion_lenet", **OPTIONS, out=folder)


@pytest.fixture(scope="session")
def found(lenet):
    return evidence.gather(lenet)
