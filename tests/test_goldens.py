"""What the package computed when the goldens were made, it computes today.

The goldens are the JSON files of tests/goldens. From the checkout's folder,

    python -m tests.goldens.make

makes all of them anew; weights and steps are added for this processor's class and these
versions, and those of others stay. Whoever changes a golden says in the commit why.
"""

import keras
import pytest
from goldens import make

from kerascnn import recipe as recipes

# What another release of a compiler's passes, or a line more in a layer, changes.
TOLERANCE = 0.02

needs_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the goldens are JAX's"
)


def of_this_machine(kind):
    """Return a kind's goldens for this processor and these versions, or skip."""
    known = make.read(kind)
    if make.key() not in known:
        pytest.skip(f"tests/goldens/{kind}.json has none for {make.key()}")
    return known[make.key()]


def test_every_recipe_is_the_same():
    """Fingerprint, layers with their shapes and weights, and how it is trained."""
    golden = make.read("recipes")
    if golden["keras"] != keras.__version__:
        pytest.skip(f"made with Keras {golden['keras']}, here is {keras.__version__}")
    assert sorted(golden["recipes"]) == recipes.names()
    for name, expected in golden["recipes"].items():
        assert make.recipe(name) == expected, name


@needs_jax
@pytest.mark.optimised
@pytest.mark.parametrize("engine", make.ENGINES)
@pytest.mark.parametrize("name", make.RUNS)
@pytest.mark.few("fashion_mlp-epoch")
def test_a_short_run_ends_with_the_same_weights(name, engine):
    assert of_this_machine("weights")[f"{name} {engine}"] == make.weights(name, engine)


def differences(expected, found):
    """Name the figures of a step's structure that are further off than `TOLERANCE`."""
    assert found.keys() == expected.keys()
    return {
        figure: (value, found[figure])
        for figure, value in expected.items()
        if abs(found[figure] - value) > TOLERANCE * value
    }


@needs_jax
@pytest.mark.parametrize("name", make.STEPS)
def test_a_compiled_step_has_the_same_structure(name):
    """At the recipe's batch size, as its training compiles it; the step never runs.

    All but its machine code, which is LLVM's.
    """
    golden, found = dict(of_this_machine("steps")[name]), make.step(name)
    for each in (golden, found):
        del each["code bytes"]
    assert not differences(golden, found)


@needs_jax
@pytest.mark.optimised
@pytest.mark.parametrize("name", make.STEPS)
@pytest.mark.few("fashion_mlp")
def test_a_compiled_step_has_as_much_code(name):
    assert not differences(of_this_machine("steps")[name], make.step(name))


def test_a_structure_within_two_percent_is_the_same():
    golden = {"temporary bytes": 1000, "instructions": 200, "convolution": 0}
    near = {"temporary bytes": 1019, "instructions": 197, "convolution": 0}
    assert not differences(golden, near)
    far = {"temporary bytes": 1021, "instructions": 195, "convolution": 1}
    assert differences(golden, far) == {
        "temporary bytes": (1000, 1021),
        "instructions": (200, 195),
        "convolution": (0, 1),
    }
