"""What a training takes is said before its first step, and refused if it does not fit.

`KERASCNN_MEMORY`, the most that the process may hold, stands for a small machine.
"""

import re

import keras
import pytest

from kerascnn import UsageError, recipe
from kerascnn.cli import commands
from kerascnn.data import Split
from kerascnn.process import machine, memory
from kerascnn.training import room
from kerascnn.training.case import case_of
from kerascnn.training.options import Overrides

WORDS = ["run", "fashion_lenet", "--data", "sample", "--epochs", "1"]
placement = pytest.importorskip("kerascnn.engine.placement")
ON_JAX = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="XLA's plan of a step is read on JAX"
)


def bounded(monkeypatch, more):
    """Let the process hold so many bytes more than it does."""
    memory.trim()
    most = machine.held_memory() + more
    monkeypatch.setenv("KERASCNN_MEMORY", f"{most / 1e6:.3f}MB")


@ON_JAX
@pytest.mark.slow
def test_what_does_not_fit_is_refused_and_what_is_advised_fits(
    monkeypatch, tmp_path, capsys
):
    # What a first run imports and compiles is held from then on.
    assert commands.main([*WORDS, "--limit", "64", "--out", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    bounded(monkeypatch, 80e6)
    out = str(tmp_path / "run")
    words = [*WORDS, "--batch-size", "2048", "--out", out]
    assert commands.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "fashion_lenet does not fit the memory" in said, said
    assert "batches of 2048" in said, said
    for option in ("--accumulate", "--remat", "--force"):
        assert option in said, said
    # The folder is free for the batch that the message names.
    assert not (tmp_path / "run").exists()
    smaller = re.search(r"--batch-size ([0-9]+)", said)[1]
    monkeypatch.delenv("KERASCNN_MEMORY")
    bounded(monkeypatch, 80e6)
    assert commands.main([*WORDS, "--batch-size", smaller, "--out", out]) == 0


@pytest.mark.slow
@ON_JAX
def test_force_trains_all_the_same(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("KERASCNN_MEMORY", "1MB")
    words = [*WORDS, "--limit", "300", "--batch-size", "300", "--force"]
    assert commands.main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "may not fit the memory" in capsys.readouterr().err
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
@ON_JAX
def test_a_large_run_says_what_it_takes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(room, "LARGE", 0)
    words = [*WORDS, "--limit", "200", "--out", str(tmp_path / "run")]
    assert commands.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if "fashion_lenet takes" in line)
    assert re.search(
        r"takes .+ [kMG]B of memory in batches of \d+: .+ for a step", lines[at]
    )
    assert at < next(i for i, line in enumerate(lines) if line.startswith("epoch 1/1"))


def test_weights_that_do_not_fit_are_refused_before_anything_is_compiled(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(room, "admission", lambda case: pytest.fail("went on"))
    monkeypatch.setenv("KERASCNN_MEMORY", "1MB")
    assert commands.main([*WORDS, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "alone take" in said
    assert "0 kB are free (KERASCNN_MEMORY=1MB)" in said
    assert not (tmp_path / "run").exists()


@ON_JAX
def test_images_that_are_streamed_to_a_small_device_need_no_room_there(monkeypatch):
    fashion = recipe.load("fashion_lenet")
    options = Overrides(data="sample", devices=1)
    held = case_of(fashion, options)
    # As a device with a memory of its own says it: less than the images take.
    free = held.train.images.nbytes // 2
    assert free > 8 * held.model.count_params()
    monkeypatch.setattr(placement, "free_on_device", lambda: free)
    with pytest.raises(room.DoesNotFitError, match="--engine stream"):
        room.check(held)
    streamed = case_of(fashion, options)
    assert streamed.engine.__name__.endswith("engine.stream")
    assert type(streamed.train) is Split
    room.check(streamed)


def test_a_bound_that_is_no_size_is_refused(monkeypatch):
    monkeypatch.setenv("KERASCNN_MEMORY", "lots")
    with pytest.raises(UsageError, match="KERASCNN_MEMORY=lots: expected a size"):
        machine.free_memory()


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("memory.max", "memory.current", "inactive_file"), "0::/slurm/job_7/step_0"),
        (
            (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
            "4:memory:/slurm/job_7/step_0",
        ),
    ],
)
def test_the_bound_of_any_group_above_counts(tmp_path, names, line):
    """SLURM sets a job's bound above the process's own group."""
    bound, used, droppable = names
    root = tmp_path / "groups"
    job = root / ("memory" if "limit" in bound else "") / "slurm" / "job_7"
    own = job / "step_0"
    own.mkdir(parents=True)
    for folder, most in ((own, "max"), (job, "3000000")):
        (folder / bound).write_text(most)
        (folder / used).write_text("2500000")
        (folder / "memory.stat").write_text(f"anon 7\n{droppable} 400000\n")
    says = tmp_path / "cgroup"
    says.write_text(f"12:cpu,cpuacct:/elsewhere\n{line}\n")
    assert machine.free_memory(root, says) == 900000
