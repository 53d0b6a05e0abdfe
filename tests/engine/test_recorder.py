"""What is recorded is what NumPy computes by hand, and changes nothing."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import UsageError, api, data, optim, transforms
from kerascnn.cli import run as command
from kerascnn.data import Split
from kerascnn.engine import fit
from kerascnn.engine import recorder as recorder_module
from kerascnn.engine.plan import Plan
from kerascnn.engine.recorder import KINDS, Recorder
from kerascnn.recipe import Course, Recipe
from kerascnn.runs import FORMAT, Run
from kerascnn.training import build, options
from kerascnn.training import run as training_run
from kerascnn.training.autosave import Autosave

JAX = keras.backend.backend() == "jax"
ENGINES = {"fit": fit.fit}
if JAX:
    from kerascnn.engine import epoch

    ENGINES["epoch"] = epoch.fit
NAMES = list(ENGINES)

EPOCHS, BATCH = 2, 8
MOMENTUM, EPSILON = 0.9, 1e-3


def by_hand_network() -> keras.Model:
    image = keras.Input((3, 3, 1))
    x = layers.Flatten()(image)
    x = layers.BatchNormalization(
        momentum=MOMENTUM, epsilon=EPSILON, center=False, scale=False
    )(x)
    x = layers.Dense(6, activation="relu", bias_initializer="random_normal")(x)
    return keras.Model(image, layers.Dense(3)(x))


BY_HAND = Recipe(
    name="by_hand",
    dataset="fashion_mnist",
    network=by_hand_network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.InverseTimeDecay(0.5, 1, 0.25)
    ),
    batch_size=BATCH,
    epochs=EPOCHS,
    parameters=0,
    course=Course(source="nowhere"),
)


def split(images: int) -> Split:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (images, 3, 3, 1)).astype("uint8")
    return Split(pixels, rng.integers(0, 3, images).astype("int32"))


TRAIN = split(20)  # batches of 8, 8 and 4


class ByHand:
    """The network above in NumPy, float64: its training, and what it records."""

    def __init__(self, weights):
        self.w1, self.b1, self.w2, self.b2 = (w.astype("float64") for w in weights)
        self.mean, self.variance = np.zeros(9), np.ones(9)

    def hidden(self, x, mean, variance):
        normal = (x - mean) / np.sqrt(variance + EPSILON)
        return normal, np.maximum(normal @ self.w1 + self.b1, 0)

    def step(self, images, labels, rate):
        x = images.reshape(len(images), -1) / 255
        mean, variance = x.mean(0), x.var(0)
        normal, h = self.hidden(x, mean, variance)
        logits = h @ self.w2 + self.b2
        odds = np.exp(logits - logits.max(1, keepdims=True))
        p = odds / odds.sum(1, keepdims=True)
        hit = np.eye(3)[labels]
        loss = -np.log((p * hit).sum(1)).mean()
        slope = (p - hit) / len(images)
        back = slope @ self.w2.T * (h > 0)
        found = [normal.T @ back, back.sum(0), h.T @ slope, slope.sum(0)]
        sizes = [np.linalg.norm(w) for w in (self.w1, self.w2)]
        for name, gradient in zip(("w1", "b1", "w2", "b2"), found, strict=True):
            setattr(self, name, getattr(self, name) - rate * gradient)
        self.mean = MOMENTUM * self.mean + (1 - MOMENTUM) * mean
        self.variance = MOMENTUM * self.variance + (1 - MOMENTUM) * variance
        ratios = [np.linalg.norm(g) / s for g, s in zip(found[::2], sizes, strict=True)]
        norm = np.sqrt(sum((g**2).sum() for g in found))
        return loss, rate, norm, ratios, [rate * ratio for ratio in ratios]


def expected(weights, seed):
    net, steps, epochs = ByHand(weights), [], []
    for number in range(EPOCHS):
        order = data.order(seed, number, len(TRAIN))
        of_epoch = []
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            rate = 0.5 / (1 + 0.25 * len(steps))
            found = net.step(TRAIN.images[chosen], TRAIN.labels[chosen], rate)
            steps.append(found[:3])
            of_epoch.append(found[3:])
        x = TRAIN.images.reshape(len(TRAIN), -1) / 255
        h = net.hidden(x, net.mean, net.variance)[1]
        ratios = np.mean(of_epoch, axis=0)
        moving = [np.percentile(v, (0, 50, 100)) for v in (net.mean, net.variance)]
        dead = np.mean([(unit == 0).all() for unit in h.T])
        epochs.append((*ratios, [dead], [h.mean()], [h.std()], *([m] for m in moving)))
    names = ("gradient_to_weight", "update_to_weight", "dead", "activation_mean")
    names += ("activation_deviation", "moving_mean", "moving_variance")
    values = zip(*epochs, strict=True)
    of_epochs = dict(zip(names, map(np.array, values), strict=True))
    of_steps = dict(
        zip(("loss", "learning_rate", "gradient_norm"), np.array(steps).T, strict=True)
    )
    return of_steps | of_epochs


def recorded(engine, kind="full", recipe=BY_HAND, **more):
    """Train on the images above; return the weights before, and what was recorded."""
    build.set_seed(3)
    model, kept = build.build(recipe, TRAIN.images.shape[1:])
    build.compile_model(model, recipe)
    before = kept.get_weights()
    before = [w for w in before if w.shape != (9,)]  # without BatchNorm's
    plan = Plan(EPOCHS, BATCH, seed=3)
    found = {}
    recorder = Recorder(kind, kept, TRAIN.images, plan.steps(len(TRAIN)), found.update)
    ENGINES[engine](model, TRAIN, TRAIN, plan, recorder=recorder, **more)
    recorder.write()
    return before, found


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.few("epoch")
def test_numpy_computes_the_same(engine):
    before, found = recorded(engine)
    assert list(found["step"]) == [1, 2, 3, 4, 5, 6]
    assert list(found["epoch"]) == [1, 2]
    assert list(found["kernel_layers"]) == ["Dense 1", "Dense 2"]
    assert list(found["activation_layers"]) == ["Dense 1"]
    assert list(found["norm_layers"]) == ["BatchNormalization 1"]
    for name, values in expected(before, 3).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=2e-5, err_msg=name)


@pytest.mark.skipif(not JAX, reason="only the epoch engine puts steps together")
def test_steps_in_one_call_are_recorded_one_by_one():
    alone = recorded("epoch")[1]
    together = recorded("epoch", steps_a_call=2)[1]
    for name, values in alone.items():
        if values.dtype.kind in "if":
            np.testing.assert_allclose(together[name], values, rtol=2e-6)


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.few("epoch")
def test_units_that_are_never_active_are_counted(engine):
    def network():
        image = keras.Input((3, 3, 1))
        # Of four filters one is below zero everywhere, of eight units six are.
        x = layers.Conv2D(4, 2, name="some", activation="relu")(image)
        x = layers.Dense(8, name="most")(layers.Flatten()(x))
        x = layers.LeakyReLU()(layers.ReLU()(x))
        model = keras.Model(image, layers.Dense(3)(x))
        for name, dead, size in (("some", 1, 10), ("most", 6, 1e3)):
            bias = model.get_layer(name).bias
            units = np.arange(bias.shape[0])
            bias.assign(np.where(units < dead, -size, size))
        return model

    case = dataclasses.replace(
        BY_HAND,
        network=network,
        optimizer=lambda: keras.optimizers.SGD(1e-9),
    )
    found = recorded(engine, recipe=case)[1]
    assert list(found["activation_layers"]) == ["Conv2D 1", "ReLU 1", "LeakyReLU 1"]
    np.testing.assert_array_equal(found["dead"], [[0.25, 0.75, np.nan]] * EPOCHS)


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((50_000, 32, 32, 3), (4, 64)),
        ((60_000, 28, 28, 1), (4, 64)),
        ((1_300_000, 224, 224, 3), (256, 1)),
        ((300, 500, 500, 3), (256, 1)),
        ((20, 8, 8, 1), (1, 20)),
        ((100, 32, 32, 3), (1, 64)),
        ((1, 32, 32, 3), (1, 1)),
    ],
)
def test_layers_are_looked_at_with_images_from_all_over_the_set(shape, parts):
    places = recorder_module.sample(shape)
    assert places.shape == parts
    assert len(np.unique(places)) == places.size
    assert places[0, 0] == 0
    assert places.size == 1 or places[-1, -1] == shape[0] - 1


def test_layers_of_another_graph_are_left_out():
    """Their weights and BatchNorm's statistics are recorded all the same."""

    def network():
        shared = layers.Dense(4, activation="relu")
        shared(keras.Input((9,)))
        image = keras.Input((3, 3, 1))
        x = layers.BatchNormalization()(shared(layers.Flatten()(image)))
        return keras.Model(image, layers.Dense(3)(x))

    found = recorded("fit", recipe=dataclasses.replace(BY_HAND, network=network))[1]
    assert found["dead"].shape == (EPOCHS, 0)
    assert found["update_to_weight"].shape == (EPOCHS, 2)
    assert found["moving_mean"].shape == (EPOCHS, 1, 3)


@pytest.mark.slow
@pytest.mark.skipif(not JAX, reason="half precision is JAX's here")
def test_a_scaled_loss_is_recorded_as_it_is():
    scaled = keras.optimizers.LossScaleOptimizer
    case = dataclasses.replace(
        BY_HAND, optimizer=lambda: scaled(BY_HAND.optimizer(), initial_scale=1024.0)
    )
    plain = recorded("epoch")[1]
    for engine in NAMES:
        found = recorded(engine, recipe=case)[1]
        for name in ("loss", "learning_rate", "gradient_norm", "gradient_to_weight"):
            np.testing.assert_allclose(found[name], plain[name], rtol=2e-5)


# Adam squares the gradients too; the L2 penalty the weights; Dropout draws.
def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(
        4, 3, strides=4, activation="relu", kernel_regularizer=optim.weight_decay(5e-4)
    )(image)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10)(x))


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


def train(out=None, **more):
    given = options.Overrides(
        data="sample", limit=300, out=out, checkpoint_minutes=0, **more
    )
    return training_run.train(SMALL, given)


@pytest.fixture(scope="module", params=NAMES)
def full(request, tmp_path_factory):
    """A run with a full record, and its engine."""
    folder = tmp_path_factory.mktemp(request.param) / "full"
    return train(folder, engine=request.param, record="full"), request.param


@pytest.mark.few("epoch")
def test_a_record_changes_no_bit_of_the_training(tmp_path, full):
    run, engine = full
    runs = {
        kind: train(tmp_path / kind, engine=engine, record=kind) for kind in KINDS[:2]
    }
    for each in runs.values():
        assert each.result["weights_sha256"] == run.result["weights_sha256"]
    assert runs["off"].recorded is None
    assert runs["light"].recorded.keys() == {
        *("step", "loss", "learning_rate", "gradient_norm")
    }
    for name, values in runs["light"].recorded.items():
        np.testing.assert_allclose(values, run.recorded[name], rtol=1e-6)
    assert run.recorded["dead"].shape == (2, 1)


class Stop(BaseException):
    pass


@pytest.fixture
def stop_at(monkeypatch):
    """Have runs end as by a kill, after what a step has saved."""
    after_step, at = Autosave.after_step, []

    def step(session, step, measured):
        after_step(session, step, measured)
        if (session.epoch, step) in at:
            session.writer.wait()
            raise Stop

    monkeypatch.setattr(Autosave, "after_step", step)
    return at


def equal(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.few("epoch")
def test_a_run_that_goes_on_records_what_an_undisturbed_one_does(
    tmp_path, stop_at, full
):
    whole, engine = full
    stopped = tmp_path / "stopped"
    stop_at[:] = [(1, 2)]
    with pytest.raises(Stop):
        train(stopped, engine=engine, record="full")
    assert len(Run(stopped).recorded["step"]) == 7  # also of an epoch cut short
    stop_at.clear()
    run = train(resume=stopped)
    equal(run.recorded, whole.recorded)
    files = (each.folder / "record.npz" for each in (run, whole))
    assert len({file.read_bytes() for file in files}) == 1


def test_a_run_without_a_record_may_get_one(tmp_path, stop_at):
    folder = tmp_path / "run"
    stop_at[:] = [(0, 2)]
    with pytest.raises(Stop):
        train(folder, record="off")
    assert Run(folder).recorded is None
    stop_at.clear()
    found = train(resume=folder, record="full").recorded
    assert list(found["step"]) == list(range(3, 11))
    assert list(found["epoch"]) == [1, 2]
    assert np.isfinite(found["gradient_to_weight"]).all()


def test_what_was_recorded_stays_where_a_run_goes_on_with_less():
    found = recorded("fit")[1]
    names = ("kernel_layers", "activation_layers", "norm_layers")
    state = {k: v for k, v in found.items() if k not in names}
    _, kept = build.build(BY_HAND, TRAIN.images.shape[1:])
    for kind in KINDS:
        written = {}
        recorder = Recorder(kind, kept, TRAIN.images, 3, written.update)
        recorder.restore(state)
        recorder.write()
        equal(written, found)
    # A recipe that was changed by force has other layers.
    plain = keras.Sequential(
        [keras.Input((3, 3, 1)), layers.Flatten(), layers.Dense(3)]
    )
    other = Recorder("full", plain, TRAIN.images, 3)
    other.restore(state)
    assert other.state().keys() == {"step", *recorder_module.STEP}


def test_steps_before_a_bad_one_are_kept(tmp_path):
    with pytest.raises(UsageError, match="not finite"):
        api.train(
            dataclasses.replace(SMALL, optimizer=lambda: optim.sgd(1e30)),
            data="sample",
            limit=300,
            record="light",
            out=tmp_path / "run",
        )
    loss = Run(tmp_path / "run").recorded["loss"]
    assert np.isfinite(loss[0])
    assert not np.isfinite(loss[-1])


def test_a_wrong_word_is_one_line(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        command.main(SMALL, ["--record", "everything"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no record 'everything'" in line
    assert "off, light, full" in line
    monkeypatch.setenv("KERASCNN_RECORD", "all")
    with pytest.raises(UsageError, match="no KERASCNN_RECORD 'all'"):
        train(tmp_path / "run")


def test_a_folder_of_a_newer_format_is_not_misread(tmp_path):
    run = Run.create("small", tmp_path / "run")
    for written in (FORMAT + 1, "new", 0):
        run.write_config({"format": written})
        with pytest.raises(UsageError, match=f"has format {written!r}"):
            _ = run.config
    run.write_config({"recipe": "small"})  # older than the number
    assert run.config == {"recipe": "small"}


def test_a_damaged_record_is_said_to_be_damaged(tmp_path):
    run = Run.create("small", tmp_path / "run")
    (run.folder / "record.npz").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(UsageError, match=r"record\.npz can't be read"):
        _ = run.recorded


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends(passes_on, backend):
    passes_on(backend, __file__)
