"""Random damage to checkpoints and records of runs: the one before, or a line."""

import json
import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascnn import UsageError, recipe
from kerascnn.cli import commands
from kerascnn.process import backend
from kerascnn.report.cookbook import record_of
from kerascnn.runs import Run
from kerascnn.training import checkpoint, resume
from kerascnn.training import options as run_options
from kerascnn.training import run as training_run

FEW = settings(derandomize=True, deadline=None, database=None)
HOW_MANY = [100, pytest.param(5000, marks=pytest.mark.slow)]

ARRAYS = {
    "model/0000/kernel": np.arange(12, dtype="float32").reshape(3, 4),
    "model/0001/half": np.arange(5, dtype="float32").astype("bfloat16"),
    "optimizer/0000/iterations": np.array(7, "int32"),
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 3),
    st.sampled_from([10**40, -(10**9), 1e300, 0.5, "", "../../etc/passwd", "/", "é"]),
    st.sampled_from(["x" * 1000, "float99", "O", "bfloat16", "\0", [], {}, [[]]]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.sampled_from(["epoch", "..", "name"]), st.integers()),
)


def places(value, above=()):
    """All keys and positions inside a JSON value."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield (*above, key)
        yield from places(item, (*above, key))


@st.composite
def changed(draw, value):
    """A JSON value with something dropped, renamed or replaced."""
    value = json.loads(json.dumps(value))
    *above, key = draw(st.sampled_from(list(places(value))))
    inside = value
    for step in above:
        inside = inside[step]
    match draw(st.sampled_from(["drop", "rename", "replace", "replace"])):
        case "drop":
            del inside[key]
        case "rename" if isinstance(inside, dict):
            inside[f"{key}_"] = inside.pop(key)
        case _:
            inside[key] = draw(VALUES)
    return value


@st.composite
def damaged(draw, content):
    content = bytearray(content)
    at = draw(st.integers(0, len(content) - 1))
    match draw(st.sampled_from(["flip", "cut", "end", "noise", "words", "deep"])):
        case "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        case "cut":
            del content[at : at + draw(st.integers(1, 40))]
        case "end":
            del content[at:]
        case "noise":
            content[:] = draw(st.binary(max_size=60))
        case "words":
            words = [b"null", b"7", b'"a"', b"[]", b"{}", b"NaN", b"9" * 5000, b""]
            content[:] = draw(st.sampled_from(words))
        case "deep":
            content[:] = b"[" * 100_000
    return bytes(content)


def same(saved, arrays):
    return saved.arrays.keys() == arrays.keys() and all(
        saved.arrays[name].tobytes() == array.tobytes()
        for name, array in arrays.items()
    )


@pytest.mark.parametrize("examples", HOW_MANY)
def test_a_damaged_checkpoint_is_passed_over(examples, tmp_path, unchanged):
    manifest = {"epoch": 0, "history": [{"loss": 1e-05}], "callbacks": [], "word": "é"}
    first, second = (
        checkpoint.write(tmp_path, ARRAYS, manifest | {"step": step}) for step in (1, 2)
    )
    files = {file: file.read_bytes() for file in second.iterdir()}

    @settings(FEW, max_examples=examples)
    @given(st.data())
    def check(drawn):
        file = drawn.draw(st.sampled_from(sorted(files)))
        content = drawn.draw(damaged(files[file]))
        file.write_bytes(content)
        lines = []
        with unchanged(tmp_path):
            saved = checkpoint.newest(tmp_path, lines.append)
        file.write_bytes(files[file])
        assert same(saved, ARRAYS)
        if content != files[file]:
            assert saved.folder == first
            assert [line.count("\n") for line in lines] == [0]

    check()


@pytest.mark.parametrize("examples", HOW_MANY)
def test_a_sealed_manifest_of_another_shape_is_damaged(examples, tmp_path, unchanged):
    """The seal is right, the words are not: whoever wrote it, it is one line."""
    manifest = {"epoch": 0, "step": 1, "history": [], "callbacks": []}
    folder = checkpoint.write(tmp_path, ARRAYS, manifest)
    written = json.loads((folder / "manifest.json").read_bytes())
    del written["manifest_sha256"]

    @settings(FEW, max_examples=examples)
    @given(changed(written))
    def check(other):
        (folder / "manifest.json").write_bytes(checkpoint._sealed(other))
        with unchanged(tmp_path):
            try:
                saved = checkpoint.read(folder)
            except checkpoint.DamagedError:
                return
            except UsageError:  # of a version to come
                assert other["format"] > 1
                return
        assert type(saved.epoch) is type(saved.step) is int
        assert saved.epoch >= 0
        assert saved.step >= 0

    check()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run with one epoch done, as if it had been stopped then."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    options = run_options.Overrides(data="sample", limit=300, batch_size=100, epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.getbasetemp() / "cache"
        patch.setenv("KERASCNN_CACHE_DIR", str(cache))
        training_run.train(
            recipe.load("fashion_mlp"),
            training_run.dataclasses.replace(options, out=out),
        )
    (out / "result.json").unlink()
    return out


@pytest.mark.slow
@pytest.mark.parametrize("examples", HOW_MANY)
def test_a_damaged_record_is_a_line(examples, stopped, tmp_path, capfd, unchanged):
    """`resume` up to the data, and the comparison with what would go on."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    good = (folder / "config.json").read_bytes()
    run = Run(folder)
    now = run.config

    @settings(FEW, max_examples=examples)
    @given(st.one_of(damaged(good), changed(now).map(lambda v: json.dumps(v).encode())))
    def check(content):
        (folder / "config.json").write_bytes(content)
        with unchanged(tmp_path), pytest.MonkeyPatch.context() as patch:
            # The stub does what `train` begins with.
            patch.setattr(
                training_run,
                "train",
                lambda recipe, given, names, **drawing: (
                    resume.options(run, given, names),
                    resume.changes(run, now, force=True),
                ),
            )
            # A record that says `deterministic` starts the process again: it is enough
            # that it gets so far.
            patch.setattr(backend, "restart", lambda variables: None)
            code = commands.main(["resume", str(folder)])
            with pytest.raises(UsageError):
                record_of(run)  # it is on the sample, at least
        error = capfd.readouterr().err
        assert code in (0, 2)
        assert error.count("\n") == (code == 2)

    check()


@pytest.mark.parametrize("examples", HOW_MANY)
def test_damaged_metrics_are_a_line(examples, stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    good = (folder / "metrics.jsonl").read_bytes()

    @settings(FEW, max_examples=examples)
    @given(damaged(good))
    def check(content):
        (folder / "metrics.jsonl").write_bytes(content)
        try:
            metrics = Run(folder).metrics
        except UsageError:
            return
        assert all(isinstance(record, dict) for record in metrics)

    check()


def test_a_file_in_place_of_the_checkpoints_is_no_traceback(tmp_path):
    (tmp_path / "checkpoints").write_bytes(random.Random(0).randbytes(10))
    assert checkpoint.newest(tmp_path) is None
