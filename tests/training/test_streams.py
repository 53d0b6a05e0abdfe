"""Runs whose images are a stream: as in memory, resumed, and what goes wrong."""

import os
import signal
from itertools import chain

import keras
import numpy as np
import psutil
import pytest
from keras import layers
from PIL import Image

import kerascnn
from kerascnn import UsageError, data, transforms
from kerascnn.data import batches, image_sets
from kerascnn.data.streamed import StreamedSplit
from kerascnn.recipe import Course, Recipe
from kerascnn.training import case, checkpoint
from kerascnn.training.autosave import Autosave
from kerascnn.training.options import Overrides

pytest.importorskip("grain")
JAX = keras.backend.backend() == "jax"
jax_only = pytest.mark.skipif(not JAX, reason="streams are JAX's")
SIZE, TRAINED, TESTED = 8, 44, 10


def network() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=4, activation="relu")(image)
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(2)(x))


RECIPE = Recipe(
    name="small",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.RandomCrop(padding=2), transforms.pm1()],
    optimizer=lambda: keras.optimizers.Adam(1e-3),
    batch_size=SIZE,
    epochs=2,
    parameters=0,
    course=Course(source="nowhere"),
)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """44 training and 10 test images of cats and dogs: JPEGs of unequal size."""
    draw = np.random.default_rng(0)
    place = tmp_path_factory.mktemp("own") / "pets"
    for role, count in (("train", TRAINED), ("test", TESTED)):
        for n in range(count):
            height, width = draw.integers(16, 40, 2)
            folder = place / role / ("cat", "dog")[n % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{n}.jpg")
    return str(place)


def trained(folder, out, **options):
    return kerascnn.train(RECIPE, dataset=folder, out=out, **options)


def figures(run):
    """What a run comes to, but for its times."""
    names = ("seconds", "images_per_second", "time")
    metrics = [
        {name: value for name, value in epoch.items() if name not in names}
        for epoch in run.metrics
    ]
    return run.result["weights_sha256"], metrics, run.recorded["loss"].tolist()


@pytest.fixture(scope="module")
def in_memory(pets, tmp_path_factory):
    """What training on the images comes to where memory holds them."""
    out = tmp_path_factory.mktemp("memory") / "run"
    return figures(trained(pets, out, engine="epoch"))


@jax_only
def test_a_stream_of_files_trains_as_memory_does(pets, in_memory, tmp_path, capsys):
    run = trained(pets, tmp_path / "run", engine="stream", workers=0)
    assert figures(run) == in_memory
    said = capsys.readouterr().out
    assert "read as a stream: this process decodes them." in said
    assert "cut to their centre and scaled to 16 x 16 pixels" in said
    assert run.config["engine"] == "stream"
    # What reads a run's images again reads a stream.
    assert run.config["data"]["form"]["stream"] is True
    assert run.evaluate().accuracy == run.result["test_accuracy"]


@jax_only
def test_a_stopped_stream_goes_on_with_another_number_of_workers(
    pets, in_memory, tmp_path, monkeypatch
):
    after_step = Autosave.after_step

    def stop(session, step, measured):
        if (session.epoch, step) == (1, 3):
            raise KeyboardInterrupt
        after_step(session, step, measured)

    with monkeypatch.context() as patch:
        patch.setattr(Autosave, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            trained(
                *(pets, tmp_path / "run"),
                **{"engine": "stream", "workers": 1, "checkpoint_minutes": 0},
            )
    assert no_workers()
    start = checkpoint.newest(tmp_path / "run", print)
    assert (start.epoch, start.step) == (1, 2)
    run = kerascnn.train(RECIPE, resume=tmp_path / "run", workers=0)
    assert figures(run) == in_memory


def no_workers():
    """Whether no process of ours decodes any more."""
    # The one that looks after shared memory stays.
    ours = [" ".join(each.cmdline()) for each in psutil.Process().children()]
    return not [words for words in ours if "spawn_main" in words]


@jax_only
def test_a_file_that_cannot_be_decoded_is_named(pets, tmp_path):
    listed = image_sets.opened(pets).roles["train"]
    whole, last = listed[0][0].read_bytes(), listed[-1][0]
    kept = last.read_bytes()
    try:
        last.write_bytes(whole[: len(whole) // 2])
        loaded = data.load(pets, image_size=(16, 16), stream=True)
        made = batches.Batches(loaded.train, loaded.test, 0, 1, SIZE, workers=1)
        with pytest.raises(UsageError, match="can't be decoded") as of_worker:
            list(made.training(0))
        with pytest.raises(UsageError, match="can't be decoded") as of_run:
            trained(pets, tmp_path / "run", engine="stream", workers=0)
        for caught in (of_worker, of_run):
            assert str(caught.value).startswith(str(last))
            assert "kerascnn data check" in str(caught.value)
        assert no_workers()
        loaded = data.load(pets, image_size=(16, 16), skip_bad=True, stream=True)
        assert (len(loaded.train), loaded.skipped) == (TRAINED - 1, 1)
    finally:
        last.write_bytes(kept)


def test_a_worker_that_dies_is_a_line(pets):
    loaded = data.load(pets, image_size=(16, 16), stream=True)
    found = batches.Batches(loaded.train, loaded.test, 0, 9, SIZE, workers=1)
    made = found.training(0)
    next(made)
    (worker,) = [
        each
        for each in psutil.Process().children()
        if "spawn_main" in " ".join(each.cmdline())
    ]
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(UsageError, match=r"a process that decodes images has died.*-9"):
        list(chain(made, *map(found.training, range(1, 9))))
    assert no_workers()


@jax_only
def test_a_set_that_memory_does_not_hold_becomes_a_stream(
    pets, tmp_path, monkeypatch, capsys
):
    known, pages = os.sysconf, {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", lambda name: pages.get(name) or known(name))
    options = Overrides(dataset=pets)
    chosen = case.case_of(RECIPE, options)
    assert chosen.engine.__name__.endswith("engine.stream")
    assert isinstance(chosen.train, StreamedSplit)
    notice = chosen.dataset.notice
    assert notice.startswith("54 images of 16 x 16 x 3 take 41 kB, and this machine ")
    assert notice.endswith("they are read as a stream.")
    # Of a set of tensorflow-datasets too, whose images have a size of their own.
    sample = data.load("cifar10", "sample", stream=None)
    assert isinstance(sample.train, StreamedSplit)
    with pytest.raises(UsageError, match="--engine stream"):
        case.case_of(RECIPE, Overrides(dataset=pets, engine="fit"))


@pytest.mark.slow
@jax_only
def test_what_became_a_stream_goes_on_as_one_and_was_not_asked_for(
    pets, tmp_path, monkeypatch
):
    known, pages = os.sysconf, {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    own = {"workers": 0, "record": "off", "report": False}
    with monkeypatch.context() as small:
        small.setattr(os, "sysconf", lambda name: pages.get(name) or known(name))
        trained(pets, tmp_path / "run", epochs=1, **own)
    run = kerascnn.train(RECIPE, resume=tmp_path / "run", epochs=2, report=False)
    assert (run.config["engine"], run.result["epochs"]) == ("stream", 2)
    # So that the same command, with several seeds, knows the run.
    assert run.config["options"]["engine"] == "auto"


def test_a_stream_has_what_a_set_in_memory_has(pets):
    settings = {"image_size": (16, 16), "channels": 3, "exact": True}
    memory = data.load(pets, **settings)
    stream = data.load(pets, **settings, stream=True)
    for role in ("train", "test"):
        one, other = getattr(memory, role), getattr(stream, role)
        np.testing.assert_array_equal(other.images[:], one.images)
        np.testing.assert_array_equal(other.labels, one.labels)
    assert (stream.classes, stream.shape) == (memory.classes, memory.shape)
    assert data.statistics(stream.train.images) == data.statistics(memory.train.images)
    held = data.split(memory.train, 0.25, 3), data.split(stream.train, 0.25, 3)
    for one, other in zip(*held, strict=True):
        np.testing.assert_array_equal(other.batch(slice(5))[0], one.batch(slice(5))[0])
        np.testing.assert_array_equal(other.labels, one.labels)


@pytest.mark.skipif(JAX, reason="of other backends")
def test_other_backends_refuse_it(pets, tmp_path):
    with pytest.raises(UsageError, match="--engine stream needs JAX"):
        trained(pets, tmp_path / "run", engine="stream")


@jax_only
def test_smoothed_labels_are_an_option(pets, tmp_path):
    losses = {}
    for smoothing in (None, 0.0, 0.3):
        options = Overrides(dataset=pets, label_smoothing=smoothing, seed=1)
        found = case.case_of(RECIPE, options)
        images, labels = found.train.batch(slice(SIZE))
        logits = np.asarray(found.kept.predict_on_batch(images), "float64")
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        shares = np.eye(2)[labels] * (1 - (smoothing or 0)) + (smoothing or 0) / 2
        loss = float(found.model.loss(labels, logits))
        assert loss == pytest.approx(-(shares * logs).sum(1).mean(), rel=1e-5)
        losses[smoothing] = loss
        assert ("label_smoothing" in options.changed) == (smoothing is not None)
    assert losses[None] == losses[0.0] != losses[0.3]
    with pytest.raises(UsageError, match=r"--label-smoothing 1\.0: expected"):
        Overrides(label_smoothing=1.0)
