"""What a terminal, a notebook and a pipe show of a training."""

import io
import re

import pytest
import rich.console

from kerascnn.training import progress as progress_module
from kerascnn.training import screens
from kerascnn.training.progress import Progress

LOGS = {"loss": 1.25, "accuracy": 0.5, "val_accuracy": 0.75, "val_loss": 1.0}


class Recorder:
    def latest(self):
        return 0.8123, 0.001, 2.5


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([0, 1], "▁█"),
        ([0.1, 0.5, 0.8], "▁▅█"),
        ([3, 3, 3], "▁▁▁"),
        ([1, None, float("nan"), 0], "█  ▁"),
        ([], ""),
        (range(100), None),
    ],
)
def test_a_sparkline_rises_with_its_values(values, drawn):
    line = screens.sparkline(values)
    assert line == drawn or drawn is None
    assert len(line) == min(len(values), screens.MOST)
    if drawn is None:
        assert line == "".join(sorted(line))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: now[0])
    return now


def train(progress, clock, epochs=2, steps=4):
    """Let steps of half a second pass."""
    progress.on_train_begin()
    for epoch in range(epochs):
        progress.on_epoch_begin(epoch)
        for step in range(steps):
            clock[0] += 0.5
            progress.on_train_batch_end(step)
        progress.on_epoch_end(epoch, LOGS)
    progress.on_epoch_begin(epochs)
    clock[0] += 0.5
    progress.on_train_batch_end(0)
    clock[0] += 0.5
    progress.on_train_batch_end(1)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_shows_where_the_training_is(monkeypatch, clock, encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    console = rich.console.Console(file=file, force_terminal=True, width=100)
    monkeypatch.setattr(rich.console, "Console", lambda: console)
    progress = Progress(3, 4, batch_size=64, recorder=Recorder(), earlier=[0.25])
    train(progress, clock)
    progress._screen._live.refresh()
    progress.close()
    file.flush()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.buffer.getvalue().decode())
    assert "epoch 3/3 step 2/4" in text
    assert "loss 0.8123  learning rate 0.001  128 images/s  1 s left  peak " in text
    assert ("test accuracy ▁██ 75.00%" in text) is (encoding == "utf-8")
    assert text.count("test accuracy 75.00%") == 2  # a line an epoch stays


# Seconds of a step; of compiling the first step, the last and the evaluation; and of
# an evaluation. After the first epoch nothing is compiled.
DRAWN = [(0.5, (60, 20, 30), 4.0), (0.01, (9, 0, 5), 0.3), (2.0, (200, 90, 90), 0.0)]
EPOCHS = 30


def compiled(progress, clock, steps, seconds, compiling, evaluation):
    """Train while a clock is told what the steps take; yield after each."""
    progress.on_train_begin()
    for epoch in range(EPOCHS):
        progress.on_epoch_begin(epoch)
        for batch in range(steps):
            clock[0] += seconds
            clock[0] += compiling[0] * (epoch == batch == 0)
            clock[0] += compiling[1] * (epoch == 0 and batch == steps - 1)
            progress.on_train_batch_end(batch)
            yield epoch, batch
        clock[0] += evaluation + compiling[2] * (epoch == 0)
        progress.on_epoch_end(epoch, LOGS)
    progress.close()


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("steps", [5, 40])
def test_what_is_left_counts_compiling_once(monkeypatch, clock, drawn, steps):
    console = rich.console.Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(rich.console, "Console", lambda: console)
    shown = []
    monkeypatch.setattr(screens.Terminal, "SECONDS", 0.0)
    monkeypatch.setattr(screens.Terminal, "at", lambda *words: shown.append(words[3]))
    seconds, _, evaluation = drawn
    for epoch, batch in compiled(Progress(EPOCHS, steps), clock, steps, *drawn):
        if epoch == 0 and batch > 0:  # of steps alone: no evaluation is known
            rest = EPOCHS * steps * seconds
            assert _seconds(shown[-1][1]) <= rest
        if epoch >= 2:
            rest = (EPOCHS - epoch) * (steps * seconds + evaluation)
            rest -= seconds * (batch + 1)
            assert _seconds(shown[-1][1]) == pytest.approx(rest, abs=1)


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("steps", [5, 40])
def test_a_pipe_is_told_once_what_is_left(clock, capsys, drawn, steps):
    seconds, _, evaluation = drawn
    said = {}
    for place in compiled(Progress(EPOCHS, steps), clock, steps, *drawn):
        if line := capsys.readouterr().err:
            said[place] = line
    whole = EPOCHS * (steps * seconds + evaluation)
    assert len(said) == (whole > 60)
    for (epoch, batch), line in said.items():
        left = whole - epoch * (steps * seconds + evaluation) - seconds * (batch + 1)
        known = left if epoch > 1 else left - (EPOCHS - epoch) * evaluation
        assert _seconds(line.split("about ")[1]) == pytest.approx(known, abs=1)


def _seconds(words):
    """Read "1 h 2 min 3 s" back."""
    units = {"h": 3600, "min": 60, "s": 1}
    return sum(int(n) * units[u] for n, u in re.findall(r"(\d+) (h|min|s)", words))


def test_a_pipe_has_plain_lines(capsys, clock):
    progress = Progress(3, 4, batch_size=64, recorder=Recorder())
    train(progress, clock)
    progress.close()
    out = capsys.readouterr().out
    assert all(letter.isprintable() for line in out.splitlines() for letter in line)
    assert len(out.splitlines()) == 3  # compiling, and two epochs


def test_a_notebook_has_one_line_that_changes(monkeypatch, clock):
    put = []
    monkeypatch.setattr(progress_module, "notebook", lambda: object())
    monkeypatch.setattr(screens.Notebook, "__init__", lambda self: None)
    monkeypatch.setattr(
        screens.Notebook, "_put", lambda self, text: put.append(text), raising=True
    )
    monkeypatch.setattr(screens.Notebook, "_next", 0.0, raising=False)
    monkeypatch.setattr(screens.Notebook, "_last", "", raising=False)
    progress = Progress(3, 4, batch_size=64, recorder=Recorder())
    train(progress, clock)
    assert all("\n" not in line for line in put)
    assert put[0] == progress_first(put[0])
    assert "step 2/4   loss 0.8123   learning rate 0.001   128 images/s" in put[-1]
    assert "1 s left" in put[-1]
    assert put[-1].endswith("test accuracy ▁▁ 75.00%")


def progress_first(line):
    """The first line says that it compiles, and for how long that usually takes."""
    assert line.startswith("epoch 1/3 compiling, a minute or so")
    return line
