"""Training that begins with another network's weights, and layers left untrained."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import UsageError, optim, recipe, transforms
from kerascnn.cli import commands
from kerascnn.page import evidence
from kerascnn.prediction import shipped
from kerascnn.recipe import Course, Recipe
from kerascnn.runs import Run
from kerascnn.training import build, checkpoint, fine_tuning
from kerascnn.training import run as training_run
from kerascnn.training.autosave import Autosave
from kerascnn.training.options import Overrides

JAX = keras.backend.backend() == "jax"
ENGINES = ["epoch", "fit"] if JAX else ["fit"]


def network(classes=10, filters=4):
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(filters, 3, strides=4, activation="relu")(image)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(6, 3, activation="relu")(x)
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(classes, name="head")(x))


SMALL = Recipe(
    name="small",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.RandomCrop(padding=2), transforms.pm1()],
    optimizer=lambda: optim.adam(1e-2),
    batch_size=64,
    epochs=2,
    parameters=0,
    course=Course(source="nowhere"),
)
WIDE = dataclasses.replace(SMALL, network=lambda: network(filters=5))
MORE = dataclasses.replace(SMALL, network=lambda: network(classes=12))


def kept_of(chosen, shape=(28, 28, 1)):
    _, kept = build.build(chosen, shape)
    return kept


def of_layers(model):
    """The weights of a model's layers with weights, in order."""
    return [
        [np.array(keras.ops.convert_to_numpy(w)) for w in layer.weights]
        for layer in model.layers[-1].layers
        if layer.weights
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    return training_run.train(
        SMALL, Overrides(data="sample", limit=200, epochs=1, out=out, seed=3)
    )


def options(out=None, **more):
    return Overrides(data="sample", limit=200, out=out, checkpoint_minutes=0, **more)


@pytest.mark.parametrize(
    ("chosen", "fresh"),
    [
        (SMALL, {}),
        (MORE, {"head": "6 x 10 there and 6 x 12 here"}),
        (
            WIDE,
            {
                "conv2d": "3 x 3 x 1 x 4 there and 3 x 3 x 1 x 5 here",
                "batch_normalization": "4 there and 5 here",
                "conv2d_1": "3 x 3 x 4 x 6 there and 3 x 3 x 5 x 6 here",
            },
        ),
    ],
    ids=["all", "another head", "another width"],
)
@pytest.mark.few("another head")
def test_layers_of_the_same_name_and_shape_have_the_file_s_weights(
    trained, chosen, fresh
):
    kept = kept_of(chosen)  # whose layers Keras numbers on from those before
    source = fine_tuning.opened(str(trained.folder))
    before, theirs = of_layers(kept), of_layers(source.model)
    record = fine_tuning.take(chosen, kept, source)
    assert record["fresh"] == fresh
    names = ["conv2d", "batch_normalization", "conv2d_1", "head"]
    assert record["taken"] == [name for name in names if name not in fresh]
    for name, now, old, given in zip(
        names, of_layers(kept), before, theirs, strict=True
    ):
        for one, other in zip(now, old if name in fresh else given, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_layer_that_is_not_there_begins_fresh(trained):
    def deeper():
        inner = network()
        x = layers.Dense(7, name="more")(inner.layers[-2].output)
        return keras.Model(inner.input, layers.Dense(10, name="head")(x))

    chosen = dataclasses.replace(SMALL, network=deeper)
    source = fine_tuning.opened(str(trained.folder))
    record = fine_tuning.take(chosen, kept_of(chosen), source)
    assert record["fresh"] == {
        "more": "not there",
        "head": "6 x 10 there and 7 x 10 here",
    }


def test_names_that_a_recipe_gives_are_kept_and_inner_networks_seen():
    def nested():
        image = keras.Input((28, 28, 1))
        inner = keras.Sequential(
            [keras.Input((28, 28, 1)), layers.Conv2D(3, 3, name="conv2d_1")],
            name="block",
        )
        x = layers.Flatten()(inner(image))
        x = layers.Dense(4, name="dense_2")(x)
        return keras.Model(image, layers.Dense(10)(x))

    keras.layers.Dense(1)  # Keras counts on
    chosen = dataclasses.replace(SMALL, network=nested)
    assert fine_tuning.names(chosen) == ["block/conv2d_1", "dense_2", "dense"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.few("epoch")
def test_frozen_layers_keep_every_bit_and_the_others_learn(tmp_path, trained, engine):
    run = training_run.train(
        MORE,
        options(
            tmp_path / "run",
            engine=engine,
            weights=str(trained.folder),
            freeze=("conv2d", "batch*"),
        ),
    )
    names = ["conv2d", "batch_normalization", "conv2d_1", "head"]
    assert run.config["frozen"] == names[:2]
    assert run.config["began_with"]["fresh"] == {"head": "6 x 10 there and 6 x 12 here"}
    assert {"weights", "freeze"} <= {*run.config["overrides"]}
    ours, theirs = of_layers(run.model()), of_layers(trained.model())
    for name, now, before in zip(names[:3], ours, theirs, strict=False):
        same = [np.array_equal(a, b) for a, b in zip(now, before, strict=True)]
        # The moving statistics too: a frozen BatchNorm infers.
        assert all(same) if name in names[:2] else not any(same)


def test_it_learns_as_stock_keras_with_the_same_layers_frozen(tmp_path, trained):
    """One step of plain gradient descent, by hand from Keras's own layers."""
    plain = dataclasses.replace(
        SMALL,
        transform=lambda: [transforms.pm1()],
        network=lambda: _without_dropout(),
        optimizer=lambda: keras.optimizers.SGD(0.5),
    )
    given = options(
        tmp_path / "run",
        weights=str(trained.folder),
        freeze=("conv2d", "batch*"),
        epochs=1,
        batch_size=200,
    )
    run = training_run.train(plain, given)

    model = keras.saving.load_model(trained.folder / "model.keras")
    inside = model.layers[-1].layers
    for layer in [layer for layer in inside if layer.weights][:2]:
        layer.trainable = False
    stock = keras.Model(model.input, model.output)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stock.compile(keras.optimizers.SGD(0.5), loss)
    train = evidence.training_images(run)
    for layer in inside:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0
    stock.fit(np.asarray(train.images), train.labels, batch_size=200, verbose=0)
    moved = 0
    for ours, theirs, before in zip(
        *map(of_layers, (run.model(), model, trained.model())), strict=True
    ):
        for a, b, c in zip(ours, theirs, before, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
            moved += not np.array_equal(a, c)
    assert moved == 4  # kernels and biases of conv2d_1 and the head


def _without_dropout():
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(4, 3, strides=4, activation="relu")(image)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(6, 3, activation="relu")(x)
    return keras.Model(image, layers.Dense(10, name="head")(layers.Flatten()(x)))


class Stop(BaseException):
    pass


@pytest.mark.parametrize(
    ("place", "engine"),
    [
        ((0, 0), ENGINES[0]),
        *(((1, 2), engine) for engine in ENGINES),
    ],
)
@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_bit(
    tmp_path, trained, monkeypatch, place, engine
):
    source = tmp_path / "given.keras"
    source.write_bytes((trained.folder / "model.keras").read_bytes())
    given = options(weights=str(source), freeze=("conv2d",), engine=engine)
    folders = tmp_path / "whole", tmp_path / "stopped"
    whole, stopped = (dataclasses.replace(given, out=out) for out in folders)
    expected = training_run.train(SMALL, whole)
    after_step, on_train_begin = Autosave.after_step, Autosave.on_train_begin

    def step(session, done, measured):
        if (session.epoch, done) == place:
            raise Stop
        after_step(session, done, measured)

    def begin(session, logs=None):
        if place == (0, 0):
            raise Stop
        on_train_begin(session, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Autosave, "after_step", step)
        patch.setattr(Autosave, "on_train_begin", begin)
        with pytest.raises(Stop):
            training_run.train(SMALL, stopped)
    if place != (0, 0):
        source.unlink()  # the checkpoint holds what was made of the weights
    run = training_run.train(SMALL, Overrides(resume=folders[1]))
    assert run.result["weights_sha256"] == expected.result["weights_sha256"]
    assert run.config["began_with"] == expected.config["began_with"]
    one, other = (checkpoint.newest(each) for each in folders)
    for key, its in zip(sorted(one.arrays), sorted(other.arrays), strict=True):
        np.testing.assert_array_equal(one.arrays[key], other.arrays[its])


def test_a_run_that_has_no_checkpoint_refuses_another_file(
    tmp_path, trained, monkeypatch
):
    source = tmp_path / "given.keras"
    source.write_bytes((trained.folder / "model.keras").read_bytes())
    out = tmp_path / "run"

    def stop(session, logs=None):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Autosave, "on_train_begin", stop)
        with pytest.raises(Stop):
            training_run.train(SMALL, options(out, weights=str(source)))
    kept_of(SMALL).save(source)
    with pytest.raises(UsageError, match=r"weights was \w+ and is \w+"):
        training_run.train(SMALL, Overrides(resume=out))
    with pytest.raises(UsageError, match=r"--weights: .* has begun with"):
        training_run.train(SMALL, Overrides(resume=out, weights="x.keras"))
    with pytest.raises(UsageError, match="freeze was None and is"):
        training_run.train(SMALL, Overrides(resume=out, freeze=("conv2d",)), {"freeze"})


def closed(path):
    """A file that holds code, which Keras would run."""
    image = keras.Input((28, 28, 1))
    x = layers.Flatten()(layers.Lambda(lambda x: x + 1)(image))
    keras.Model(image, layers.Dense(10)(x)).save(path)


def other(path):
    image = keras.Input((8,), name="image")
    keras.Model(image, layers.Dense(3, name="other")(image)).save(path)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (closed, "is refused: it is made of keras.layers.Lambda"),
        (other, r"no layer has name and shape .* There: other \(8 x 3\); here: conv2d"),
        (lambda path: path.write_bytes(b"PK"), "not a whole .keras file"),
        (lambda path: None, "no such run and no such file"),
        (lambda path: path.mkdir(), "there is no run in"),
    ],
    ids=["code", "another network", "cut", "nothing", "a folder"],
)
def test_what_can_not_be_taken_is_refused_before_there_is_a_run(tmp_path, write, said):
    path = tmp_path / "given.keras"
    write(path)
    with pytest.raises(UsageError, match=said):
        training_run.train(SMALL, options(tmp_path / "run", weights=str(path)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("conv3d",), "no layer with weights in small .*did you mean conv2d"),
        (("conv*", "dropout"), "--freeze dropout: .* the names are conv2d, batch_norm"),
        (("*",), r"--freeze \*: all of small's weights are frozen"),
        (("conv*", "b*", "[gh]*"), "all of small's weights are frozen"),
    ],
    ids=str,
)
def test_a_pattern_that_does_not_fit_is_refused(tmp_path, patterns, said):
    with pytest.raises(UsageError, match=said):
        training_run.train(SMALL, options(tmp_path / "run", freeze=patterns))
    assert not (tmp_path / "run").exists()


def test_the_parameters_that_a_recipe_states_are_those_of_all_its_layers():
    # All but BatchNorm's moving statistics, also where layers are frozen.
    stated = dataclasses.replace(
        SMALL, parameters=kept_of(SMALL).count_params() - 2 * 4
    )
    build.build(stated, (28, 28, 1))
    wrong = dataclasses.replace(stated, parameters=stated.parameters + 1)
    with pytest.raises(UsageError, match="correct whichever"):
        build.build(wrong, (28, 28, 1))


@pytest.mark.skipif(not JAX, reason="fast layers are JAX's")
def test_frozen_layers_cost_no_gradient():
    import jax

    from kerascnn.acceleration import accelerate

    def deep():
        image = x = keras.Input((32, 32, 3))
        for filters in (32, 32, 48):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
            x = layers.BatchNormalization()(x)
        x = layers.Flatten()(layers.MaxPooling2D(8)(x))
        return keras.Model(image, layers.Dense(10)(x))

    chosen = dataclasses.replace(
        SMALL, network=deep, transform=lambda: [transforms.pm1()]
    )

    def operations(patterns, transform):
        """What a function of the loss takes, as XLA counts."""
        kept = kept_of(chosen, (32, 32, 3))
        fine_tuning.freeze(chosen, kept, patterns)
        model = accelerate(kept)
        values = [
            [v.value for v in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]
        images = np.zeros((8, 32, 32, 3), "uint8")

        def loss(weights, others):
            logits, _ = model.stateless_call(weights, others, images, training=True)
            return (logits**2).sum()

        lowered = jax.jit(transform(loss)).lower(*values)
        return lowered.cost_analysis()["flops"]

    frozen = ("conv2d*", "batch*")
    forward = operations(frozen, lambda loss: loss)
    assert operations(frozen, jax.grad) < 1.05 * forward  # without the two passes back
    assert operations((), jax.grad) > 1.5 * forward


def test_the_command_line_says_what_was_taken(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    small = ["--data", "sample", "--limit", "64", "--epochs", "1", "--record", "off"]
    assert commands.main(["run", "fashion_mlp", *small, "--out", "first"]) == 0
    words = ["--weights", "first", "--freeze", "dense", "--out", "second"]
    assert commands.main(["run", "fashion_mlp", *small, *words]) == 0
    out = capfd.readouterr().out
    taken = "Weights of first/model.keras in 2 of 2 layers: dense, dense_1.\n"
    assert out.count(taken) == 2  # at the beginning and in the summary
    assert out.count("Frozen, not trained: dense.\n") == 2
    run = Run(tmp_path / "second")
    assert run.config["options"]["weights"] == str(tmp_path / "first")
    words = evidence.command(run.config)
    assert words.endswith(f"--weights {tmp_path}/first --freeze dense --data sample")
    assert commands.main(["runs", str(tmp_path), "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)[1]["changed"]
    assert (listed["weights"], listed["freeze"]) == (str(tmp_path / "first"), ["dense"])


@pytest.mark.slow
def test_a_network_that_comes_with_the_package_is_taken():
    source = shipped.weights("cifar10")
    chosen = recipe.load("cifar_speedrun")
    kept = kept_of(chosen, (32, 32, 3))
    record = fine_tuning.take(chosen, kept, source)
    assert not record["fresh"]
    assert record["file"] == "cifar10/weights.npz"
    with np.load(source.file) as arrays:
        theirs = [arrays[str(n)] for n in range(len(arrays))]
    for one, other in zip(kept.get_weights(), theirs, strict=True):
        np.testing.assert_array_equal(one, other.astype("float32"))


def test_a_name_that_is_none_says_what_comes_with_the_package():
    with pytest.raises(UsageError, match=r"With the package come: .*cifar10"):
        shipped.weights("cifar")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends_fine_tune_alike(passes_on, backend):
    passes_on(
        backend, f"{__file__}::test_frozen_layers_keep_every_bit_and_the_others_learn"
    )
