"""The commands that measure the fast layers choose between what they say they do."""

import keras
import pytest

from kerascnn import UsageError

if keras.backend.backend() != "jax":
    pytest.skip("the fast layers are JAX's", allow_module_level=True)

from kerascnn.acceleration.dispatch import THRESHOLDS
from kerascnn.bench import ablation, operations, page, thresholds


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_decides_between_the_cases_on_its_sides(name):
    below, above = thresholds.CASES[name]
    assert below.value <= THRESHOLDS[name].bound < above.value
    assert thresholds.chosen(below) != thresholds.chosen(above)
    for case in (below, above):
        ends = set()
        for bound in (-1, 1e9):
            with thresholds.bound(name, bound):
                ends.add(thresholds.chosen(case))
        assert len(ends) == 2
        assert thresholds.chosen(case) in ends


def test_both_algorithms_are_timed(monkeypatch, capsys):
    cases = {"bands": [thresholds.Case(6, (6, 6, 1), (3, 3, 1, 2))]}
    monkeypatch.setattr(thresholds, "CASES", cases)
    thresholds.Thresholds(batch=2, rounds=1)()
    shown = capsys.readouterr().out
    assert "bands" in shown
    assert "stock" in shown
    assert shown.count(" ms") == 2


@pytest.mark.parametrize("table", [operations, ablation])
def test_the_page_s_tables_are_rendered_from_their_data(table):
    name = table.__name__.rpartition(".")[2]
    text = page.PAGE.read_text()
    arguments = page.read(name), table.COLUMNS, table.line
    assert page.rendered(text, name, *arguments) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ("magic",)}, "no trick is called magic"),
        ({"rounds": 14}, "--rounds 14: expected 15 or more"),
    ],
)
def test_a_mistake_in_an_ablation_s_options_is_named(options, message):
    with pytest.raises(UsageError, match=message):
        ablation.Ablation(**options)
