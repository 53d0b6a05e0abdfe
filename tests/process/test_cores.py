"""The cores of a process, and its share of them."""

import os

import pytest

from kerascnn.process import cores


@pytest.mark.parametrize(
    ("number", "of", "expected"),
    [
        (0, 1, {0, 3, 5}),
        (0, 2, {0, 5}),
        (1, 2, {3}),
        (3, 4, {0, 3, 5}),  # none is left: all are shared
    ],
)
def test_shares_are_apart_as_long_as_there_are_cores(monkeypatch, number, of, expected):
    mine = {0, 3, 5}

    def keep(process, chosen):
        mine.intersection_update(chosen)

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: mine, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", keep, raising=False)
    cores.share(number, of)
    assert mine == expected
    assert cores.available() == len(expected)


def test_a_system_without_affinity_has_all_its_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    cores.share(0, 2)
    assert cores.available() == os.cpu_count()
