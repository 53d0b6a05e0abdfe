"""A recipe: one case of the course as data; how to name, load and compare it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError, suggestions
from kerascnn.process import settings
from kerascnn.process.backend import check_backend, spare_tensorflow

if TYPE_CHECKING:
    import keras

# The parts in which two rungs of the ladder may differ, in reading order.
PARTS = (
    "dataset",
    "transform",
    "network",
    "optimizer",
    "callbacks",
    "batch_size",
    "drop_last",
    "epochs",
)


@dataclasses.dataclass(frozen=True)
class Course:
    """What the lectures print about a case.

    Args:
        source: Where they print it, such as `"lecture 4, trick 5"`.
        test: Accuracy on the test set, 0 to 1; `None` where nothing is printed.
        train: Accuracy on the training set, 0 to 1; `None` where nothing is printed.
        says: What the slides say in words, where they give no figure.
        about: Whether the slides give their figures as approximate (`~78%`).
    """

    source: str
    test: float | None = None
    train: float | None = None
    says: str | None = None
    about: bool = False

    def figure(self, split: str) -> str | None:
        """Write the accuracy on `"test"` or `"train"` as the slides do: `"~78%"`."""
        value = getattr(self, split)
        return None if value is None else f"{'~' * self.about}{100 * value:.3g}%"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One case of the course: data, network, training, and what the course says.

    `network`, `transform`, `optimizer` and `callbacks` are functions, called once a
    run, so that importing a recipe builds nothing. They run under Keras's own defaults,
    whatever keras.json or `keras.config` say (see `settings.keras_defaults`).

    Args:
        name: The name of the recipe's file, without `.py`.
        dataset: Name of a `tensorflow-datasets` image classification set.
        network: Returns a Functional `keras.Model` from scaled images, shape
            `(batch, height, width, channels)`, to logits, `(batch, classes)`.
        transform: Returns the Keras layers between the raw uint8 images and the
            network, in order, as torchvision's `Compose` holds them. Layers whose
            class name begins with `Random` act in training only.
        optimizer: Returns a `keras.Optimizer`.
        batch_size: Images a step.
        epochs: Passes over the training set.
        parameters: Number of trainable parameters of the network, with which the one
            that is trained is compared; 0 where it is not stated.
        course: What the lectures say about the case.
        drop_last: Whether training leaves out the last batch of an epoch when it is
            smaller than `batch_size`, as `torch.utils.data.DataLoader` means it.
        callbacks: Returns Keras callbacks, such as a learning-rate decay.
        after: Name of the recipe that this one goes on from.
        changes: The parts (of `PARTS`) in which this recipe differs from `after`.
    """

    name: str
    dataset: str
    network: Callable[[], keras.Model]
    transform: Callable[[], list[keras.layers.Layer]]
    optimizer: Callable[[], keras.Optimizer]
    batch_size: int
    epochs: int
    parameters: int
    course: Course
    drop_last: bool = False
    callbacks: Callable[[], list[keras.callbacks.Callback]] = list
    after: str | None = None
    changes: frozenset[str] | set[str] = frozenset()

    def __post_init__(self):
        for part in ("network", "transform", "optimizer", "callbacks"):
            object.__setattr__(self, part, _under_defaults(getattr(self, part)))

    @property
    def idea(self) -> str:
        """The docstring of the recipe's file: what it changes and why."""
        module = sys.modules.get(self.network.__module__)
        return (inspect.getdoc(module) or "") if module else ""

    @property
    def command(self) -> str:
        """The command that trains it."""
        return f"python -m kerascnn.recipes.{self.name}"


def _under_defaults(build: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that calls `build` under Keras's defaults."""
    if hasattr(build, "under_defaults"):  # of a recipe that another was made from
        return build

    def built() -> Any:
        with settings.keras_defaults():
            return build()

    functools.update_wrapper(built, build, updated=())
    function = getattr(build, "func", build)  # inside a functools.partial
    built.__module__ = getattr(function, "__module__", None) or "__main__"
    built.under_defaults = True  # type: ignore[attr-defined]
    return built


def check_parameters(recipe: Recipe, model: keras.Model) -> None:
    """Raise `UsageError` unless a model has the recipe's number of parameters.

    Args:
        recipe: The recipe.
        model: Its network, or a model that holds it.
    """
    count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    if recipe.parameters not in (0, count):
        raise UsageError(
            f"{recipe.name} says parameters={recipe.parameters:_}, and its network has "
            f"{count:_}: correct whichever of the two is wrong."
        )


@dataclasses.dataclass(frozen=True)
class Outline:
    """The facts of a recipe that can be read off its file without importing Keras.

    Args:
        summary: First line of the file's docstring.
        idea: The whole docstring.

    The other attributes are those of `Recipe`.
    """

    name: str
    summary: str
    idea: str
    dataset: str
    batch_size: int
    epochs: int
    parameters: int
    course: Course
    after: str | None = None
    drop_last: bool = False
    changes: frozenset[str] | set[str] = frozenset()


_FOLDER = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """Return the names of all recipes, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules([str(_FOLDER)]))


def load(name: str) -> Recipe:
    """Import a recipe by its name.

    Args:
        name: The name of a file in `kerascnn/recipes`, without `.py`.

    Raises:
        UsageError: There is no such recipe (the message offers the nearest names), its
            file is not Python or has no `RECIPE`, or Keras's backend can't train.

    Example:
        >>> load("fashion_lenet").batch_size
        256
    """
    check_name(name)
    check_backend()
    spare_tensorflow()
    try:
        found = importlib.import_module(f"kerascnn.recipes.{name}").RECIPE
    except (SyntaxError, AttributeError) as error:
        if isinstance(error, AttributeError) and error.name != "RECIPE":
            raise
        file = _FOLDER / f"{name}.py"
        raise UsageError(f"{file} can't be read as a recipe ({error}).") from error
    _check_named(found, name)
    return found


def check_name(name: str) -> None:
    """Raise `UsageError`, with the nearest names, unless a recipe has this name."""
    known = names()
    if name in known:
        return
    if name.endswith(".py"):
        raise UsageError(
            f"{name} is a file's name, and a recipe's was expected: `kerascnn list` "
            "shows them; a recipe of your own runs as `python FILE`."
        )
    hint = suggestions.hint(name, known, "`kerascnn list` shows them.")
    raise UsageError(f"there is no recipe {name!r}: {hint}")


def outline(name: str) -> Outline:
    """Read a recipe's facts from its source, in milliseconds.

    Importing Keras takes seconds, and a list of all recipes should not. Every field
    of `Outline` is written as a literal in the recipe, so parsing the file is enough.

    Args:
        name: The name of a file in `kerascnn/recipes`, without `.py`.

    Raises:
        UsageError: There is no such recipe, or its facts are not literals.
    """
    check_name(name)
    file = _FOLDER / f"{name}.py"
    try:
        found = _outline(ast.parse(file.read_text("utf-8"), str(file)))
        _check_named(found, name)
        return found
    except UsageError:
        raise
    except (ValueError, TypeError, SyntaxError) as error:
        fields = ", ".join(field.name for field in dataclasses.fields(Outline)[3:])
        raise UsageError(
            f"{file} can't be read as a recipe ({error}): it assigns RECIPE = "
            f"Recipe(...) once, with literals for {fields}."
        ) from error


def _check_named(recipe: Recipe | Outline, name: str) -> None:
    """Raise `UsageError` where a copied recipe still has the original's name."""
    if recipe.name != name:
        raise UsageError(
            f"kerascnn/recipes/{name}.py says name={recipe.name!r}: give the recipe "
            f"its file's name, name={name!r}, in its command too."
        )


def _outline(tree: ast.Module) -> Outline:
    (call,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "RECIPE"
        and isinstance(node.value, ast.Call)
    )
    wanted = {field.name for field in dataclasses.fields(Outline)} - {"course"}
    facts = {
        keyword.arg: ast.literal_eval(keyword.value)
        for keyword in call.keywords
        if keyword.arg in wanted
    }
    (course,) = (k.value for k in call.keywords if k.arg == "course")
    if not isinstance(course, ast.Call):
        raise ValueError("course is not written as Course(...)")
    facts["course"] = Course(
        **{str(k.arg): ast.literal_eval(k.value) for k in course.keywords}
    )
    idea = ast.get_docstring(tree) or ""
    return Outline(summary=idea.partition("\n")[0], idea=idea, **facts)
