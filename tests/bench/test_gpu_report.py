"""The report on a GPU: what it times, and what it says, as far as a CPU can tell."""

import json

import keras
import numpy as np
import pytest

from kerascnn import UsageError, recipe
from kerascnn.bench import gpu_report, with_keras
from kerascnn.cli import commands
from kerascnn.cli import gpu_report as command
from kerascnn.process import gpus

COMMAND = ["bench", "gpu-report"]


def test_the_plan_names_all_that_is_to_be_timed(capsys):
    assert commands.main([*COMMAND, "--plan"]) == 0
    said = capsys.readouterr().out
    for words in (
        *("step: cifar_relu_9, steps, kerascnn\n", "epoch: cifar_vgg_aug, epochs of"),
        *("torch-benchmark", "torch-autotune", "kerascnn-bfloat16-padded"),
        *("+CONVOLUTION,+WHILE", "gpu_deterministic_ops", "exclude_nondeterministic"),
    ):
        assert words in said


def test_without_a_gpu_it_is_refused_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpus, "found", list)
    monkeypatch.chdir(tmp_path)
    assert commands.main(COMMAND) == 2
    error = capsys.readouterr().err
    assert "--device cpu" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def result(case):
    own = {"fastest": 0.1, "memory": 10**9, "compile": 3.0, "name": case.label}
    return own | {"seconds": 0.1 if case.contender == "kerascnn" else 0.25}


def test_each_work_is_timed_once_kept_and_reported(monkeypatch, capsys, tmp_path):
    timed = []

    def measured(case, rounds):
        timed.append((case.recipe, case.label, case.images))
        if case.contender == "torch-channels_last":
            raise UsageError("torch-channels_last ended: no memory")
        return result(case)

    monkeypatch.setattr(gpu_report, "measured", measured)
    out = tmp_path / "report"
    assert commands.main([*COMMAND, "--device", "cpu", "--out", str(out)]) == 0
    assert len(timed) == len(set(timed))
    lines = [json.loads(x) for x in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == len(gpu_report.planned(tried=True)) > len(timed)
    report = (out / "report.md").read_text()
    assert capsys.readouterr().out.strip() == str(out / "report.md")
    for part in ("step", "epoch", "mixed_bfloat16", "command buffers", "deterministic"):
        assert f"\n## {part}\n" in report
    assert "| `keras-jax` | 250 ms | 256 | " in report  # 64 images in a quarter second
    assert "| 2.50 |" in report
    assert "Left out: `torch-channels_last`: torch-channels_last ended" in report


def test_what_no_time_is_left_for_is_named(monkeypatch, tmp_path):
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr(command.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(gpu_report, "measured", lambda case, rounds: result(case))
    out = tmp_path / "report"
    words = ["--device", "cpu", "--time", "2min", "--out", str(out)]
    assert commands.main([*COMMAND, *words]) == 0
    assert "the 2min were over" in (out / "report.md").read_text()


def test_padded_channels_compute_the_same():
    """With the weights of the channels that there are, whatever the others'."""
    own = recipe.load("fashion_lenet")
    padded = with_keras.with_channels(own, 8)
    plain, wide = own.network(), padded.network()
    for a, b in zip(plain.weights, wide.weights, strict=True):
        value = keras.ops.convert_to_numpy(b).copy()
        value[tuple(map(slice, a.shape))] = a
        b.assign(value)
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), "uint8")
    scaled = images
    for layer in own.transform():
        scaled = layer(scaled)
    with_zeros = images
    for layer in padded.transform():
        with_zeros = layer(with_zeros)
    assert with_zeros.shape[-1] == 8
    expected = keras.ops.convert_to_numpy(plain(scaled))
    found = keras.ops.convert_to_numpy(wide(with_zeros))
    np.testing.assert_allclose(found, expected, 1e-4, 1e-5)


@pytest.mark.slow
@pytest.mark.needs("torch")
def test_it_times_a_small_net_on_a_cpu(tmp_path):
    out = tmp_path / "report"
    words = ["--device", "cpu", "--rounds", "1", "--out", str(out)]
    assert commands.main([*COMMAND, *words]) == 0
    report = (out / "report.md").read_text()
    assert "| `kerascnn-bfloat16-padded` |" in report, report
