"""A batch in parts, one after the other: the gradient, and the memory, of the parts."""

import keras
import numpy as np
import pytest
from keras import layers

import kerascnn
from kerascnn import UsageError, accelerate, data
from kerascnn.data import Split

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the compiled engine is JAX's"
)

if keras.backend.backend() == "jax":
    import jax
    import jax.numpy as jnp

    from kerascnn.engine import epoch, placement
    from kerascnn.engine.plan import Plan


def compiled(normalized=False):
    keras.utils.set_random_seed(0)
    image = x = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=not normalized)(x)
    if normalized:
        x = layers.BatchNormalization(momentum=0.5)(x)
    x = layers.MaxPooling2D()(layers.ReLU()(x))
    x = layers.Dense(10, kernel_regularizer="l2")(layers.Flatten()(x))
    model = accelerate(keras.Model(image, x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return model


def split(images):
    rng = np.random.default_rng(0)
    x = rng.random((images, 12, 12, 3), np.float32)
    return Split(x, rng.integers(0, 10, images, np.int32))


class Logs(keras.callbacks.Callback):
    needs_no_state = True

    def on_epoch_end(self, epoch, logs=None):
        self.kept = dict(logs)


def trained(model, images, batch_size, accumulate):
    logs = Logs()
    plan = Plan(epochs=1, batch_size=batch_size, seed=1, accumulate=accumulate)
    epoch.fit(model, split(images), split(10), plan, [logs])
    return model, logs.kept


# Of 47 images in batches of 20 the last has 7: parts of 5 and 2, or of 10 and none.
@pytest.mark.parametrize(
    ("accumulate", "devices"), [pytest.param(2, 1, marks=pytest.mark.slow), (4, 2)]
)
def test_parts_train_as_the_whole_batch_does(accumulate, devices, monkeypatch):
    whole, expected = trained(compiled(), 47, 20, 1)
    monkeypatch.setattr(placement, "WORTH", 0 if devices > 1 else np.inf)
    parts, found = trained(compiled(), 47, 20, accumulate)
    for a, b in zip(parts.variables, whole.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=a.path)
    assert found == pytest.approx(expected, rel=1e-5)


def test_batch_normalization_sees_the_parts():
    """Its statistics are those of stock Keras that sees one part after the other."""
    model = compiled(normalized=True)
    stock = keras.models.clone_model(model)
    stock.set_weights(model.get_weights())
    trained(model, 8, 8, 2)
    images = split(8).images
    for part in data.order(1, 0, 8).reshape(2, 4):
        stock(images[part], training=True)
    for a, b in zip(
        model.non_trainable_variables, stock.non_trainable_variables, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=a.path)


@pytest.mark.slow
def test_a_step_in_parts_takes_less_memory():
    model = compiled(normalized=True)
    model.optimizer.build(model.trainable_variables)
    images, labels = split(256).images, split(256).labels
    taken = []
    for accumulate in (1, 8):
        function = epoch.training_function(model, None, 256, "off", accumulate)
        chosen = jnp.arange(256)[None]
        lowered = function.function.lower(
            *(epoch.read_state(model), jnp.asarray(images), jnp.asarray(labels)),
            chosen,
        )
        taken.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    assert taken[1] < taken[0] / 3, taken


def test_pieces_hold_each_image_once():
    for images, size in ((20, 5), (7, 5), (3, 5), (5, 5)):
        full, rest = placement.pieces(None, jnp.arange(images), size)
        assert full.indices.shape == (images // size, size)
        found = np.concatenate([np.ravel(full.indices), rest.indices])
        np.testing.assert_array_equal(found, np.arange(images))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))
    # The same images whatever the number of devices; 13 of these 14 count.
    full, rest = placement.pieces(mesh, jnp.arange(14), 5, 13)
    np.testing.assert_array_equal(full.indices[:, :5], np.arange(10).reshape(2, 5))
    np.testing.assert_array_equal(full.counted, [[True] * 5 + [False]] * 2)
    assert (full.number, rest.number) == (5, 3)
    np.testing.assert_array_equal(rest.indices[:3], [10, 11, 12])
    np.testing.assert_array_equal(rest.counted, [True] * 3 + [False])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accumulate": 3}, "--accumulate 3: a batch of 20 images does not fall"),
        ({"accumulate": 0}, "--accumulate 0: expected 1 or more"),
        ({"accumulate": 4, "engine": "fit"}, "--accumulate is for the epoch engine"),
    ],
)
def test_what_does_not_fit_is_a_line(tmp_path, options, said):
    short = {"data": "sample", "limit": 40, "batch_size": 20, "out": tmp_path / "run"}
    with pytest.raises(UsageError, match=said):
        kerascnn.train("fashion_mlp", **short, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_in_parts_says_so(tmp_path):
    short = {"data": "sample", "limit": 40, "batch_size": 20, "epochs": 1}
    run = kerascnn.train("fashion_mlp", **short, accumulate=4, out=tmp_path / "run")
    assert run.config["accumulate"] == 4
    assert "accumulate" in run.config["overrides"]
    whole = kerascnn.train("fashion_mlp", **short, out=tmp_path / "whole")
    assert run.history["loss"] == pytest.approx(whole.history["loss"], rel=1e-5)
