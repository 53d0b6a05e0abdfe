"""Half precision: float32 weights, statistics and losses, and the same accuracy."""

import statistics

import keras
import numpy as np
import pytest
from keras import layers
from scipy import stats

import kerascnn
from kerascnn import accelerate
from kerascnn.data import Split
from kerascnn.process import settings

ON_JAX = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the epoch engine is JAX's"
)
SEEDS = (0, 1, 2)
POINTS = 0.02  # by which accuracies may differ


@ON_JAX
def test_weights_statistics_and_loss_are_float32():
    """Beside float64: rounded to bfloat16, they would be off by parts in a thousand."""
    from kerascnn.engine import epoch
    from kerascnn.engine.plan import Plan

    rng = np.random.default_rng(0)
    # Whole numbers to 255 are the same in bfloat16; their mean is not.
    images = rng.integers(0, 256, (64, 8, 8, 3), "uint8")
    train = Split(images, rng.integers(0, 10, 64, np.int32))
    with settings.keras_defaults("mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        image = keras.Input((8, 8, 3), dtype="uint8")
        x = layers.BatchNormalization(momentum=0.5)(layers.Rescaling(1.0)(image))
        x = layers.Conv2D(4, 3, activation="relu")(x)
        model = accelerate(keras.Model(image, layers.Dense(10)(layers.Flatten()(x))))
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
        ],
    )
    history = keras.callbacks.History()
    epoch.fit(model, train, train, Plan(1, 64, seed=0), [history])
    assert {v.dtype for v in model.variables} <= {"float32", "uint32"}
    state = {v.dtype for v in model.optimizer.variables}
    assert not state & {"bfloat16", "float16"}
    (norm,) = (x for x in model.layers if hasattr(x, "moving_mean"))
    mean = 0.5 * images.mean((0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(np.array(norm.moving_mean.value), mean, 1e-5)
    logits = np.asarray(keras.ops.cast(model(images), "float32"), np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    entropy = np.log(np.exp(shifted).sum(-1)) - shifted[range(64), train.labels]
    # The evaluation compiles another order of operations in bfloat16.
    assert history.history["val_crossentropy"][0] == pytest.approx(
        entropy.mean(), rel=2e-3
    )


@pytest.mark.slow
@ON_JAX
def test_lenet_is_as_accurate_in_mixed_bfloat16(tmp_path, capsys):
    """The 90 % interval of the mean difference, seed by seed, lies within `POINTS`."""

    def trained(seed, precision):
        run = kerascnn.train(
            "fashion_lenet",
            data="sample",
            epochs=8,
            seed=seed,
            precision=precision,
            record="off",
            report=False,
            out=tmp_path / f"{precision}-{seed}",
        )
        return run.result["test_accuracy"]

    whole, half = (
        [trained(seed, precision) for seed in SEEDS]
        for precision in ("float32", "mixed_bfloat16")
    )
    differences = np.subtract(half, whole)
    low, high = stats.t.interval(
        0.9,
        len(SEEDS) - 1,
        loc=differences.mean(),
        scale=max(differences.std(ddof=1), 1e-9) / len(SEEDS) ** 0.5,
    )
    with capsys.disabled():
        for name, shares in (("float32", whole), ("mixed_bfloat16", half)):
            print(f"\n{name}: {', '.join(f'{share:.2%}' for share in shares)}", end="")
        print(f"\ndifference: {low:+.2%} to {high:+.2%}", end="")
    assert statistics.mean(whole) > 0.6  # they have learned
    assert half != whole
    assert low > -POINTS
    assert high < POINTS
