"""The table of a step's time by the number of devices."""

import json

import keras
import pytest

from kerascnn import UsageError
from kerascnn.bench import measure, scaling
from kerascnn.cli import commands, parsing


def result(name: str, seconds: float) -> measure.Result:
    return measure.Result(name, seconds, seconds, 2**20, 1.0)


def test_efficiency_is_images_a_second_and_device_by_those_of_the_fewest():
    results = [result("2", 1.0), result("8", 0.5)]
    two, eight = scaling.rows("strong", {2: 64, 8: 64}, results)
    assert (two.images_per_second, two.efficiency) == (64, 1)
    # Twice as fast on four times the devices.
    assert (eight.images_per_second, eight.efficiency) == (128, 0.5)
    weak = [results[0], result("8", 1.6)]
    two, eight = scaling.rows("weak", {2: 64, 8: 256}, weak)
    assert eight.images_per_second == pytest.approx(160)
    assert eight.efficiency == pytest.approx(160 / 256)


@pytest.fixture
def timed(monkeypatch):
    """Have each step take 1 s by its images, and nothing else be measured."""
    asked = []

    def compare(cases, rounds):
        asked.append([(name, int(words[1])) for name, _, words in cases])
        return [result(label, int(words[1])) for _, label, words in cases], []

    monkeypatch.setattr(measure, "compare", compare)
    return asked


def test_strong_scaling_has_one_batch_and_weak_one_a_device(timed, capsys):
    words = ["bench", "scale", "--devices", "4,1,2", "--batch", "32", "--json"]
    assert commands.main(words) == 0
    names = ["kerascnn@1", "kerascnn@2", "kerascnn@4"]
    strong, weak = timed
    assert strong == [(name, 32) for name in names]
    assert weak == list(zip(names, (32, 64, 128), strict=True))
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] == "cifar_vgg"
    assert [each["devices"] for each in found["results"]] == [1, 2, 4] * 2
    assert {each["scaling"] for each in found["results"]} == {"strong", "weak"}


def test_the_table_says_where_devices_share_cores(timed, capsys):
    assert commands.main(["bench", "scale", "fashion_lenet", "--devices", "1,999"]) == 0
    out = capsys.readouterr().out
    assert "efficiency" in out
    assert "cores share these cores" in " ".join(out.split())


@pytest.mark.parametrize("words", ["", "0", "1,x", "1,-2", "1,²"])
def test_what_is_no_number_of_devices_is_refused(words):
    with pytest.raises(UsageError, match="expected numbers above 0, such as 1,2,4,8"):
        parsing.parsed_numbers(words, "1,2,4,8")


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="devices are JAX's")
def test_two_devices_are_measured(capsys):
    words = ["bench", "scale", "fashion_lenet", "--devices", "1,2", "--batch", "64"]
    assert commands.main([*words, "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["missing"]
    assert [each["devices"] for each in found["results"]] == [1, 2, 1, 2]
