"""`bench step --against`: its statistics, its verdict, and what it leaves behind."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import scipy.stats

from kerascnn.bench import ablation, against, measure, page, paired
from kerascnn.cli import commands

STEPS = ["kerascnn", "fashion_mlp", "64", "0", "fixed"]

# Serves the contenders' protocol as if a step had taken SECONDS; {more} at each turn.
CONTENDER = """
import json, os, random, signal, sys
assert sys.argv[1:] in {arguments}, sys.argv
turns = 0
{start}
def answer(number):
    noise = random.Random(turns).uniform(0.99, 1.01)
    seconds = number * {seconds} * noise
    print(json.dumps({{"seconds": seconds, "memory": {memory}, {others}}}))
    sys.stdout.flush()
answer(1)
for line in sys.stdin:
    turns += 1
    {more}
    answer(int(line))
"""


def git(folder, *words):
    names = ["-c", "user.name=nobody", "-c", "user.email=nobody"]
    done = subprocess.run(
        ["git", "-C", folder, *names, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository whose commits' steps take what `commit` says."""
    root, temporary = tmp_path / "checkout", tmp_path / "temporary"
    (root / "kerascnn/bench").mkdir(parents=True)
    temporary.mkdir()
    git(root, "init", "-q")
    (root / "README").touch()
    monkeypatch.setattr(against, "ROOT", root)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    # Python would find the working tree's package there.
    monkeypatch.chdir(root)

    def commit(**values):
        if values:
            (root / "kerascnn/__init__.py").touch()
            (root / "kerascnn/bench/__init__.py").touch()
            usual = {"memory": 2**20, "start": "", "more": "pass", "others": ""}
            values = usual | {"arguments": [STEPS]} | values
            file = root / "kerascnn/bench/contenders.py"
            file.write_text(CONTENDER.format(**values))
        git(root, "add", ".")
        git(root, "commit", "-q", "--allow-empty", "-m", "a change")
        return git(root, "rev-parse", "HEAD")

    yield commit
    assert len(git(root, "worktree", "list").splitlines()) == 1
    assert os.listdir(temporary) == []


WORDS = ["bench", "step", "fashion_mlp", "--batch", "64", "--against"]


def test_steps_as_fast_as_before_pass(checkout, capsys):
    before = checkout(seconds=0.1, memory=2**20)
    checkout(seconds=0.102, memory=2**21)
    assert commands.main([*WORDS, before, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["commit"] == before
    assert answer["pairs"] == 15
    assert answer["ratio"] == pytest.approx(1.02, rel=1e-6)
    assert answer["low"] <= answer["ratio"] <= answer["high"]
    assert answer["slower"] is False
    assert answer["memory_ratio"] == 2
    assert answer["ours"]["seconds"] == pytest.approx(0.102, rel=0.01)
    assert answer["theirs"]["memory"] == 2**20


def test_memory_is_the_median_of_three_processes(checkout, capsys):
    start = "starts = open('../starts', 'a+'); starts.write('.'); starts.seek(0); "
    start += "process = len(starts.read())"
    # The sides start in turns: ours are the first, third and fifth process.
    checkout(seconds=0.1, start=start, memory="process**2 * 2**20")
    assert commands.main([*WORDS, "HEAD", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ours"]["memory"] == 3**2 * 2**20
    assert answer["theirs"]["memory"] == 4**2 * 2**20
    assert answer["pairs"] == 15


def test_slower_steps_are_called_slower(checkout, capsys):
    checkout(seconds=0.1)
    checkout(seconds=0.2)
    with pytest.raises(SystemExit) as stop:
        commands.main([*WORDS, "HEAD~1"])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert "takes 2.000 of the time" in said
    assert "(95 % interval 2.000 to 2.000)" in said
    assert said.rstrip().endswith("memory: slower.")


def test_ctrl_c_leaves_no_worktree(checkout, capsys):
    checkout(
        seconds=0.1,
        more="if turns == 3: os.kill(os.getppid(), signal.SIGINT); signal.pause()",
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert commands.main([*WORDS, "HEAD"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "git knows no such commit"),
        (["--rounds=2", "--against=HEAD"], "--rounds 2: expected 15 or more with"),
        (["HEAD~1"], "holds no kerascnn"),
        (["HEAD~2"], "git knows no such commit"),
    ],
)
def test_mistakes_are_one_line(checkout, capsys, words, message):
    checkout()
    checkout(seconds=0.1)
    words = [*WORDS[:-1], *words] if words[0].startswith("--") else [*WORDS, *words]
    assert commands.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_folder_without_git_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(against, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commands.main([*WORDS, "HEAD"]) == 2
    assert "no git checkout of kerascnn" in capsys.readouterr().err


@pytest.mark.parametrize("number", [15, 22])
@pytest.mark.parametrize("spread", [0.01, 0.3])
def test_the_interval_is_scipys(number, spread):
    values = np.random.default_rng(number).normal(0.02, spread, number)
    middle, low, high = paired.interval(values)
    expected = scipy.stats.bootstrap(
        *((values,), functools.partial(scipy.stats.trim_mean, proportiontocut=0.2)),
        n_resamples=20_000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert middle == pytest.approx(scipy.stats.trim_mean(values, 0.2), rel=1e-12)
    # Two draws of resamples: their percentiles differ by a small part of the width.
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.05 * width)
    assert high == pytest.approx(expected.high, abs=0.05 * width)
    assert paired.interval(values) == (middle, low, high)


def test_the_interval_holds_the_true_ratio_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        values = generator.normal(0.1, 0.05, 15)
        _, low, high = paired.interval(values, resamples=1000)
        hits += low <= 0.1 <= high
    assert 0.92 <= hits / 400 <= 0.99


@pytest.mark.parametrize(
    ("low", "high", "slower"),
    [(1.031, 1.2, True), (1.029, 1.5, False), (1.03, 1.1, False), (0.5, 0.9, False)],
)
def test_slower_is_an_interval_wholly_above_three_percent(low, high, slower):
    side = measure.Result("kerascnn", 1.0, 1.0, 1, 1.0)
    found = against.Comparison("0", side, side, 15, (low + high) / 2, low, high)
    assert found.slower is slower


def test_a_trick_s_row_compares_processes_with_it_and_without(
    checkout, monkeypatch, capsys, tmp_path
):
    """Each in three processes, the time in its interval, the memory as XLA plans it."""
    trick = ablation.Trick("magic", ("fashion_mlp",), lambda: None)
    monkeypatch.setattr(ablation, "TRICKS", {"magic": trick})
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "README.md").write_text("<!-- ablation -->\n<!-- end of ablation -->\n")
    monkeypatch.setattr(page, "FOLDER", kept)
    monkeypatch.setattr(page, "PAGE", kept / "README.md")
    without = ["kerascnn-without-magic", *STEPS[1:]]
    checkout(
        arguments=[STEPS, without],
        start="on = sys.argv[1] == 'kerascnn'; open('../starts', 'a').write('.')",
        seconds="(0.1 if on else 0.12)",
        others="'planned': 100 if on else 150",
    )
    words = ["bench", "ablation", "--batch", "64", "--only", "magic", "--write"]
    assert commands.main(words) == 0
    assert (tmp_path / "starts").read_text() == "." * 6
    row = "| magic | fashion_mlp | 64 | 100 ms | 1.20 (1.20 to 1.20) | 1.50 |"
    assert row in capsys.readouterr().out
    assert row in (kept / "README.md").read_text()
    (figures,) = page.read("ablation").values()
    assert figures["pairs"] == 15
    assert figures["time_ratio"] == pytest.approx([1.2] * 3, rel=1e-6)
    assert figures["without"]["planned"] == 150


@pytest.mark.slow
def test_each_side_sets_its_process_up_itself(monkeypatch, tmp_path):
    """What `kerascnn bench` has set for itself is no part of the other's start."""
    program = """
import os
import kerascnn
from pathlib import Path
from kerascnn.bench import paired
kerascnn.prepare_process()
found = paired.environment(Path("folder"))
print({"GLIBC_TUNABLES", "JAX_NUM_CPU_DEVICES"} & set(found))
print(found["PYTHONPATH"].split(os.pathsep)[0])
"""
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    for tunables, kept in (
        (None, "set()"),
        ("glibc.malloc.check=1", "{'GLIBC_TUNABLES'}"),
    ):
        more = {"GLIBC_TUNABLES": tunables} if tunables else {}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines() == [kept, "folder"], done.stderr


@pytest.mark.slow
def test_this_checkout_against_its_own_commit(capsys):
    """The whole command, for real."""
    words = ["bench", "step", "fashion_mlp", "--against", "HEAD", "--json"]
    try:
        code = commands.main(words)
    except SystemExit as stop:
        code = stop.code
    answer = json.loads(capsys.readouterr().out)
    assert code == int(answer["slower"])
    # The same code but for what is not committed, on a machine that may be busy.
    assert 0.7 < answer["ratio"] < 1.4
    assert 0.8 < answer["memory_ratio"] < 1.25
    assert answer["low"] <= answer["ratio"] <= answer["high"]
