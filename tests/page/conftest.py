"""What the page shows of the finished run of LeNet."""

import pytest

import kerascnn
from kerascnn.page import evidence


@pytest.fixture(scope="session")
def found(lenet):
    return evidence.gather(lenet)


@pytest.fixture(scope="session")
def mlp(tmp_path_factory):
    """A finished run of a network without maps."""
    options = {"data": "sample", "epochs": 1, "limit": 400, "batch_size": 64}
    cache = tmp_path_factory.getbasetemp() / "cache"
    out = tmp_path_factory.mktemp("runs") / "mlp"
    return kerascnn.train("fashion_mlp", **options, cache_dir=cache, out=out)
