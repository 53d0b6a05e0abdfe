"""Activations computed again in the backward pass: the same training, less kept."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import UsageError, accelerate
from kerascnn.data import Split

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="rematerialisation is JAX's"
)

if keras.backend.backend() == "jax":
    import jax
    import jax.numpy as jnp

    from kerascnn.engine import epoch, finite, fit, placement, remat
    from kerascnn.engine.plan import Plan

PIXELS = 16


def vgg(filters=(8, 12), dropout=0.3):
    """A small VGG with all that a training draws, keeps or adds to the loss."""
    image = x = keras.Input((PIXELS, PIXELS, 3))
    for number in filters:
        shortcut = layers.Conv2D(number, 3, 2, padding="same")(x)
        for _ in range(2):
            x = layers.Conv2D(
                number, 3, padding="same", activation="relu", kernel_regularizer="l2"
            )(x)
            x = layers.BatchNormalization(momentum=0.8)(x)
        x = layers.Dropout(dropout)(layers.MaxPooling2D()(x))
        x = layers.Add()([x, shortcut])
    x = layers.Dense(16, "relu")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10)(x))


def plain():
    """A VGG of nothing but convolutions and pooling, whose first block is not most."""
    image = x = keras.Input((PIXELS, PIXELS, 3))
    for number in (8, 32, 128):
        for _ in range(4):
            x = layers.Conv2D(number, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def compiled(network, fast=True):
    """A model to train, as a run builds it: transforms, then the network."""
    keras.utils.set_random_seed(0)
    inner = network()
    image = keras.Input((PIXELS, PIXELS, 3), dtype="uint8")
    x = layers.RandomFlip("horizontal")(layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, inner(x))
    model = accelerate(model) if fast else model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    entropy = keras.metrics.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=[accuracy, entropy]
    )
    return model


def split(images):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, PIXELS, PIXELS, 3), "uint8")
    return Split(x, rng.integers(0, 10, images, np.int32))


def trained(model, engine, rematerialize):
    plan = Plan(2, batch_size=8, seed=1, rematerialize=rematerialize)
    history = keras.callbacks.History()
    engine.fit(model, split(20), split(6), plan, [history])
    return [np.array(v) for v in model.variables], history.history


@pytest.mark.parametrize("engine", ["epoch", "fit"])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.slow
def test_the_training_is_the_same(engine, fast):
    """Weights, moving statistics, masks and losses, in both engines."""
    engine = {"epoch": epoch, "fit": fit}[engine]
    expected, losses = trained(compiled(vgg, fast), engine, False)
    model = compiled(vgg, fast)
    assert len(remat.Forward(model).stretches) > 1
    found, others = trained(model, engine, True)
    for variable, a, b in zip(model.variables, found, expected, strict=True):
        np.testing.assert_allclose(a, b, 2e-4, 2e-5, err_msg=variable.path)
    assert others == {name: pytest.approx(v, rel=1e-4) for name, v in losses.items()}


@pytest.mark.slow
def test_a_step_takes_less_memory():
    """Of equal blocks, one at a time is there on the way back; nothing is computed."""
    taken = []
    for rematerialize in (False, True):
        model = compiled(plain)
        model.optimizer.build(model.trainable_variables)
        finite.counts(model.optimizer)
        step = epoch.training_function(model, None, 2048, "off", 1, rematerialize)
        some, chosen = split(10), jnp.zeros((1, 2048), "int32")
        given = epoch.read_state(model), some.images, some.labels, chosen
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)
        taken.append(step.planned(*shapes).besides)
    assert taken[1] < 0.85 * taken[0], taken


class Residual(keras.Sequential):
    """Computes something else than its layers one after the other."""

    def call(self, inputs, training=None, mask=None):
        return inputs + super().call(inputs, training=training)


def penalised():
    layer = layers.Conv2D(3, 3, padding="same", activity_regularizer="l2")
    image = keras.Input((PIXELS, PIXELS, 3))
    x = layers.MaxPooling2D(4)(layer(image))
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def test_what_would_be_lost_is_refused():
    def residual():
        parts = [keras.Input((PIXELS, PIXELS, 3)), layers.Conv2D(3, 1)]
        return Residual(parts)

    with pytest.raises(UsageError, match="this one is a Residual"):
        remat.Forward(compiled(residual))
    for engine in (epoch, fit):
        with pytest.raises(UsageError, match="adds a loss of its activations"):
            trained(compiled(penalised), engine, True)


def test_what_fails_on_several_devices_is_said_as_on_one(monkeypatch):
    """A first step that is refused while it is traced."""
    monkeypatch.setattr(placement, "WORTH", 0)
    model = compiled(penalised)
    assert placement.mesh(model, 8).size == 2
    with pytest.raises(UsageError, match="adds a loss of its activations"):
        trained(model, fit, True)


def test_cuts_are_the_cheapest():
    """Beside all ways to cut, on drawn sizes."""
    rng = np.random.default_rng(0)

    def cost(chosen, kept, computed):
        ends = [0, *(i + 1 for i in chosen), len(computed)]
        stretches = [sum(computed[a:b]) for a, b in itertools.pairwise(ends)]
        return sum(kept[i] for i in chosen) + max(stretches)

    for _ in range(40):
        places = int(rng.integers(0, 6))
        kept = rng.integers(1, 50, places).tolist()
        computed = rng.integers(1, 100, places + 1).tolist()
        ways = itertools.chain.from_iterable(
            itertools.combinations(range(places), n) for n in range(places + 1)
        )
        best = min(cost(way, kept, computed) for way in ways)
        found = cost(remat.cheapest(kept, computed), kept, computed)
        assert found == best
