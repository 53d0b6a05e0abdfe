"""What a recipe may have besides: smoothed labels, first weights, views, a schedule."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import data, describe, initializers, optim, transforms, views
from kerascnn.recipe import EXTRAS, Course, Recipe
from kerascnn.report import difference, summary
from kerascnn.training import build, checkpoint
from kerascnn.training import options as run_options
from kerascnn.training import run as training_run
from kerascnn.training.autosave import Autosave

JAX = keras.backend.backend() == "jax"
ENGINES = ["epoch", "fit"] if JAX else ["fit"]


def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    whitening = layers.Conv2D(8, 2, use_bias=False, trainable=False, name="whitening")
    x = layers.MaxPooling2D(4)(whitening(image))
    x = layers.BatchNormalization(scale=False, momentum=0.5)(x)
    x = layers.Activation("silu")(x)
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def adapt(model: keras.Model, images: np.ndarray) -> None:
    layer = model.get_layer("whitening")
    layer.kernel.assign(initializers.whitening(images))


def falling(steps: int) -> keras.Optimizer:
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, steps, 0.0)
    return keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True)


RECIPE = Recipe(
    name="small",
    dataset="fashion_mnist",
    network=network,
    adapt=adapt,
    transform=lambda: [
        transforms.RandomAlternatingFlip(),
        transforms.RandomCrop(padding=2, mode="reflect"),
        transforms.pm1(),
    ],
    optimizer=falling,
    label_smoothing=0.2,
    views=views.flips_and_shifts,
    batch_size=64,
    epochs=3,
    parameters=0,
    course=Course(source="nowhere"),
)


def options(**more):
    return run_options.Overrides(data="sample", limit=320, checkpoint_minutes=0, **more)


@pytest.fixture(scope="module", params=ENGINES)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / request.param
    return training_run.train(RECIPE, options(out=folder, engine=request.param))


@pytest.mark.few("fit")
def test_the_accuracy_with_views_is_that_of_the_mean_logits(run):
    test = data.load("fashion_mnist", "sample").test
    images, labels = test.images[:320], test.labels[:320]
    model = run.model()
    seen = [model.predict(v, verbose=0) for v in views.flips_and_shifts(images)]
    right = np.mean(np.mean(seen, axis=0).argmax(-1) == labels)
    # An image whose two best logits are as good as equal may fall either way.
    assert run.result["test_accuracy_with_views"] == pytest.approx(right, abs=1 / 320)
    assert run.result["views"] == 6
    alone = np.mean(model.predict(images, verbose=0).argmax(-1) == labels)
    assert run.result["test_accuracy"] == pytest.approx(alone, abs=1 / 320)
    assert f"with 6 views    {right:6.2%}" in summary.text(run)


def test_held_out_images_are_seen_in_views_too(tmp_path):
    run = training_run.train(
        RECIPE, options(out=tmp_path / "run", validation=0.5, epochs=1)
    )
    assert "validation_accuracy_with_views" in run.result
    assert "test_accuracy_with_views" not in run.result
    assert "with 6 views" in summary.text(run)


def test_first_weights_follow_from_the_training_images(run):
    train = data.load("fashion_mnist", "sample").train
    scaled = (train.images[:320] / 255 - 0.5) / 0.5
    expected = initializers.whitening(scaled.astype("float32"))
    (kernel,) = (w for w in run.model().weights if w.path.endswith("whitening/kernel"))
    found = keras.ops.convert_to_numpy(kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_schedule_is_told_the_steps_of_the_whole_run(tmp_path):
    told = []

    def noted(steps):
        told.append(steps)
        return falling(steps)

    recipe = dataclasses.replace(RECIPE, optimizer=noted)
    training_run.train(recipe, options(out=tmp_path / "run", epochs=2, batch_size=100))
    assert told[0] == 2 * 4  # of 320 images, the last batch of 20


@pytest.mark.skipif(not JAX, reason="compares the two engines on JAX")
def test_engines_train_alike(tmp_path):
    runs = [
        training_run.train(RECIPE, options(out=tmp_path / engine, engine=engine))
        for engine in ENGINES
    ]
    for one, other in zip(runs[0].metrics, runs[1].metrics, strict=True):
        for name in ("loss", "test_loss", "crossentropy"):
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
        assert one["loss"] > one["crossentropy"]
    weights = [run.model().get_weights() for run in runs]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.slow
def test_such_a_run_goes_on_to_the_bit(tmp_path, monkeypatch, engine):
    whole = training_run.train(RECIPE, options(out=tmp_path / "whole", engine=engine))
    after_step = Autosave.after_step

    class Stop(BaseException):
        pass

    def stopping(session, step, measured):
        if (session.epoch, step) == (1, 3):
            raise Stop
        after_step(session, step, measured)

    folder = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        patched.setattr(Autosave, "after_step", stopping)
        with pytest.raises(Stop):
            training_run.train(RECIPE, options(out=folder, engine=engine))
    saved = checkpoint.newest(folder)
    assert (saved.epoch, saved.step) == (1, 2)
    run = training_run.train(RECIPE, run_options.Overrides(resume=folder))
    for name in ("weights_sha256", "test_accuracy_with_views", "test_accuracy"):
        assert run.result[name] == whole.result[name]


def test_a_transform_is_told_each_epoch():
    model, _ = build.build(RECIPE, (28, 28, 1))
    callback = build.Epochs(model)
    (flip,) = callback.layers
    for epoch in (0, 3):
        callback.on_epoch_begin(epoch)
        assert int(flip.epoch) == epoch


PLAIN = dataclasses.replace(RECIPE, label_smoothing=0.0, adapt=None, views=None)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_part_of_the_fingerprint_where_there_is_one(extra):
    plain = describe.describe(PLAIN)
    assert not plain.keys() & EXTRAS.keys()
    more = describe.describe(
        dataclasses.replace(PLAIN, **{extra: getattr(RECIPE, extra)})
    )
    assert extra in more
    assert describe.fingerprint(plain) != describe.fingerprint(more)
    assert list(difference.between(plain, more)) == [extra]


def test_adam_is_built_without_being_told_steps():
    recipe = dataclasses.replace(RECIPE, optimizer=lambda: optim.adam(1e-3))
    assert type(recipe.optimizer(17)).__name__ == "Adam"
    again = dataclasses.replace(recipe, optimizer=falling)
    again = dataclasses.replace(again, epochs=1)
    assert (
        again.optimizer(17).get_config()["learning_rate"]["config"]["decay_steps"] == 17
    )
