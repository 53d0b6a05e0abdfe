"""A finished run, and its page."""

import pytest


@pytest.fixture(scope="module")
def run(copied_lenet):
    return copied_lenet


@pytest.fixture(scope="module")
def file(run):
    return run.demo()
