"""The speed-runs: recipes of no lecture, against what their sources say."""

import dataclasses
import itertools
import math
import re

import keras
import numpy as np
import pytest

from kerascnn import describe, twins
from kerascnn import recipe as recipes
from kerascnn.training import build
from kerascnn.without_weights import without_weights

JAX = keras.backend.backend() == "jax"
pytestmark = pytest.mark.skipif(not JAX, reason="the speed-runs train with optax")

# Widths of the blocks, convolutions in each, epochs.
NETWORKS = {
    "cifar_speedrun": ((64, 256, 256), 2, 8),
    "cifar_speedrun_95": ((128, 384, 384), 2, 15),
    "cifar_speedrun_96": ((128, 384, 512), 3, 37),
}


def size(weights):
    return sum(math.prod(weight.shape) for weight in weights)


@pytest.mark.parametrize("name", NETWORKS)
class TestEverySpeedrun:
    def test_has_airbench_s_layers(self, name):
        widths, depth, epochs = NETWORKS[name]
        recipe = recipes.load(name)
        model = without_weights(recipe.network)
        kinds = [type(layer).__name__ for layer in model.layers]
        first = ["Conv2D", "MaxPooling2D", "BatchNormalization", "Activation"]
        other = ["Conv2D", "BatchNormalization", "Activation"]
        blocks = (first + other * (depth - 1)) * len(widths)
        kinds = [kind for kind in kinds if kind != "Add"]
        assert kinds == [
            *("InputLayer", "Conv2D"),
            *blocks,
            *("MaxPooling2D", "Flatten", "Dense"),
        ]
        whitening, *convolutions = [x for x in model.layers if hasattr(x, "filters")]
        assert (whitening.filters, whitening.kernel_size) == (24, (2, 2))
        assert not whitening.trainable_weights
        assert [x.filters for x in convolutions] == [
            width for width in widths for _ in range(depth)
        ]
        assert not any(x.use_bias for x in convolutions)
        shapes = [x.output.shape[1] for x in model.layers if "pool" in x.name]
        assert shapes == [16, 8, 4, 1]
        assert recipe.epochs == epochs
        channels = (24, *(w for w in widths for _ in range(depth)))
        kernels = 9 * sum(a * b for a, b in itertools.pairwise(channels))
        learned = kernels + depth * sum(widths) + 10 * widths[-1]
        assert size(model.trainable_weights) == learned == recipe.parameters

    def test_says_what_it_is_and_where_it_is_from(self, name):
        recipe = recipes.load(name)
        first, _, rest = recipe.idea.partition("\n")
        assert first.startswith("CIFAR-10, speed-run")
        assert len(first) <= 88
        assert f"\n    python -m kerascnn.recipes.{name}\n" in rest
        assert rest.count("MIT licence") >= 1
        assert re.search(r"\nDeviations from [\w ]+: ", rest)
        assert recipe.course.source.startswith("speed-run, ")

    def test_can_be_read_without_importing_it(self, name):
        outline, recipe = recipes.outline(name), recipes.load(name)
        for field in dataclasses.fields(outline):
            if field.name != "summary":
                assert getattr(outline, field.name) == getattr(recipe, field.name)

    def test_describes_all_that_decides_its_numbers(self, name):
        description = describe.describe(recipes.load(name))
        assert description["label_smoothing"] > 0
        assert "whitening" in description["adapt"]["code"]
        assert "muon" in description["optimizer"]["code"]
        assert "flips_and_shifts" in str(description["views"])

    @pytest.mark.few("cifar_speedrun")
    def test_begins_whitened_and_as_the_identity(self, name):
        """Each convolution's first filters pass their channels on."""
        recipe = recipes.load(name)
        _, kept = build.build(recipe, (32, 32, 3))
        noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), "uint8")
        build.adapt(recipe, kept, noise)
        network = kept.layers[-1]
        whitening, *convolutions = [x for x in network.layers if hasattr(x, "filters")]
        kernel = keras.ops.convert_to_numpy(whitening.kernel)
        np.testing.assert_array_equal(kernel[..., :12], -kernel[..., 12:])
        for layer in convolutions:
            channels = layer.kernel.shape[2]
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            identity = np.zeros((3, 3, channels, channels))
            identity[1, 1] = np.eye(channels)
            np.testing.assert_array_equal(kernel[..., :channels], identity)

    def test_all_rates_fall_to_zero(self, name):
        """The weights of a step after the last stay as they are."""
        recipe = recipes.load(name)
        optimizer = recipe.optimizer(3)
        shapes = [(3, 3, 4, 8), (8,), (8, 10)]
        variables = [keras.Variable(np.ones(shape, "float32")) for shape in shapes]
        dice, moved = np.random.default_rng(0), []
        for _ in range(4):
            before = [v.numpy() for v in variables]
            optimizer.apply(
                [keras.ops.array(dice.normal(size=s), "float32") for s in shapes],
                variables,
            )
            moved.append(
                [
                    np.abs(v.numpy() - b).max()
                    for v, b in zip(variables, before, strict=True)
                ]
            )
        assert (np.array(moved[:3]) > 1e-4).all()
        assert moved[3][1:] == [0, 0]
        # Muon brings a kernel to its length, which is a step of its own.
        length = np.linalg.norm(variables[0].numpy())
        assert length == pytest.approx(math.sqrt(8), rel=1e-5)


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("cifar_speedrun", marks=pytest.mark.slow),
        pytest.param("cifar_speedrun_95", marks=pytest.mark.slow),
        pytest.param("cifar_speedrun_96", marks=pytest.mark.slow),
    ],
)
def test_a_speedrun_agrees_with_its_twin(name):
    from kerascnn.parity import compare

    checks = list(compare.compare(recipes.load(name), steps=10))
    assert not [check for check in checks if not check.passed]
    parts = {check.part for check in checks}
    assert parts >= {"batches", "transform", "initial", "forward", "inference"}
    assert parts >= {"loss", "gradient", "update", "statistics", "trace"}


@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_twin_s_fingerprint_is_of_its_training_too(name):
    twin = twins.load(name)
    other = dataclasses.replace(twin, label_smoothing=0.5)
    assert twin.fingerprint() == twin.fingerprint() != other.fingerprint()
