"""A stream trains as memory does: the same batches, losses and weights."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import UsageError, data, transforms
from kerascnn.data import Split, reading
from kerascnn.data.batches import Batches
from kerascnn.data.decoding import AS_THEY_ARE
from kerascnn.data.folders import SAMPLES
from kerascnn.data.streamed import PreparedSource, StreamedImages, StreamedSplit
from kerascnn.engine import placement
from kerascnn.engine.plan import Plan
from kerascnn.engine.recorder import Recorder
from kerascnn.recipe import Course, Recipe
from kerascnn.training import build

pytest.importorskip("grain")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="streams are JAX's"
)

SIZE, IMAGES, TESTS = 20, 110, 50


def network() -> keras.Model:
    """What carries state or draws numbers: BatchNorm and Dropout."""
    image = keras.Input((32, 32, 3))
    x = layers.BatchNormalization(momentum=0.9)(layers.Flatten()(image))
    return keras.Model(image, layers.Dense(10)(layers.Dropout(0.3)(x)))


RECIPE = Recipe(
    name="small",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: keras.optimizers.Adam(1e-3),
    batch_size=SIZE,
    epochs=2,
    parameters=0,
    course=Course(source="nowhere"),
)
PLAN = Plan(epochs=2, batch_size=SIZE, seed=5)


@pytest.fixture(scope="module")
def in_memory() -> tuple[Split, Split]:
    """110 training images: five batches of 20, and one of 10; 50 test images."""
    sample = data.load("cifar10", "sample")
    return data.limited(sample.train, IMAGES), data.limited(sample.test, TESTS)


@pytest.fixture(scope="module")
def streamed() -> tuple[Split, Split]:
    """The same, decoded when they are asked for."""
    prepared = reading.read(data.prepared("cifar10", SAMPLES))

    def split(role):
        source = PreparedSource(prepared, role, AS_THEY_ARE)
        places = prepared.places(role)
        return StreamedSplit(StreamedImages(source, places, (32, 32, 3)))

    return data.limited(split("train"), IMAGES), data.limited(split("test"), TESTS)


def trained(engine, splits, **settings):
    """Train; return each step's numbers, each epoch's, and all variables."""
    build.set_seed(5)
    model, kept = build.build(RECIPE, (32, 32, 3))
    build.compile_model(model, RECIPE)
    plan, found, epochs = dataclasses.replace(PLAN, **settings), {}, []
    steps = plan.steps(len(splits[0]))
    recorder = Recorder("light", kept, splits[0].images, steps, found.update)
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: epochs.append(dict(logs))
    )
    engine.fit(model, *splits, plan, [keep], recorder=recorder)
    recorder.write()
    return found["loss"], epochs, [np.array(v) for v in model.variables]


def assert_same(one, other):
    # Bit for bit: both call one compiled step on the same images.
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]
    for a, b in zip(one[2], other[2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.few("1-False")
def test_every_step_has_the_loss_that_it_has_in_memory(
    in_memory, streamed, monkeypatch, cut, accumulate
):
    from kerascnn.engine import epoch, stream

    if cut:
        monkeypatch.setattr(placement, "WORTH", 0)
    expected = trained(epoch, in_memory, accumulate=accumulate)
    assert len(expected[0]) == 12
    # Of arrays too, where the step is another.
    splits = in_memory if accumulate > 1 else streamed
    assert_same(trained(stream, splits, accumulate=accumulate), expected)


def test_processes_that_decode_make_the_same_batches(in_memory, streamed):
    train, test = in_memory
    evaluated = np.arange(30), np.arange(30, TESTS)
    for workers in (0, 2):
        batches = Batches(*streamed, 7, 3, SIZE, evaluated=evaluated, workers=workers)
        try:
            # From the middle of an epoch, to its evaluation, into the next epoch.
            found = [*batches.training(1, 2), *batches.evaluation(1)]
            found += list(batches.training(2))
        finally:
            batches.close()
        orders = [data.order(7, epoch, IMAGES) for epoch in (1, 2)]
        chosen = [orders[0][i : i + SIZE] for i in range(2 * SIZE, IMAGES, SIZE)]
        expected = [train.batch(each) for each in chosen]
        expected += [test.batch(each) for each in evaluated]
        chosen = [orders[1][i : i + SIZE] for i in range(0, IMAGES, SIZE)]
        expected += [train.batch(each) for each in chosen]
        assert len(found) == len(expected)
        for made, wanted in zip(found, expected, strict=True):
            for a, b in zip(made, wanted, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.few("2")
@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_a_batch_add_up_to_it(in_memory, streamed, count):
    settings = {"seed": 3, "epochs": 2, "batch_size": SIZE}
    settings["evaluated"] = (np.arange(TESTS),)
    whole = Batches(*in_memory, **settings)
    shares = [Batches(*streamed, **settings, share=(i, count)) for i in range(count)]
    for kind in ("training", "evaluation"):
        parts = zip(*(getattr(each, kind)(1) for each in shares), strict=True)
        for batch, of in zip(getattr(whole, kind)(1), parts, strict=True):
            for n, array in enumerate(batch):
                joined = np.concatenate([part[n] for part in of])
                np.testing.assert_array_equal(joined, array)
                sizes = [len(part[n]) for part in of]
                assert max(sizes) - min(sizes) <= 1
    for each in (whole, *shares):
        each.close()


def test_images_of_a_stream_are_never_an_array_whole(streamed):
    train, _ = streamed
    assert train.images.shape == (IMAGES, 32, 32, 3)
    assert train.images.nbytes == IMAGES * 32 * 32 * 3
    with pytest.raises(UsageError, match="read as a stream"):
        np.asarray(train.images)
