"""A recipe: one case of the course as data; how to name, load and compare it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import math
import os
import pkgutil
import shlex
import sys
import traceback
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError, suggestions, text
from kerascnn.process import settings
from kerascnn.process.backend import check_backend, spare_tensorflow

if TYPE_CHECKING:
    import keras
    import numpy as np

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
# Parts that most recipes do without, with what stands for that: a description says
# nothing of them there.
EXTRAS = {"label_smoothing": 0.0, "adapt": None, "views": None}
# What a learning rate that falls until a run's end is made for where there is no run.
STEPS = 1000


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
        network: Returns a `keras.Model`, Functional or Sequential, from scaled images,
            shape `(batch, height, width, channels)`, to logits, `(batch, classes)`. A
            call returns a Functional one, and raises `UsageError` for all others.
        transform: Returns the Keras layers between the raw uint8 images and the
            network, in order, as torchvision's `Compose` holds them. Layers whose
            class name begins with `Random` act in training only.
        optimizer: Returns a `keras.Optimizer`. With a parameter `steps`, such as a
            schedule needs that reaches zero at the end, it is given the steps of the
            whole run.
        batch_size: Images a step.
        epochs: Passes over the training set.
        parameters: Number of trainable parameters of the network, with which the one
            that is trained is compared; 0 where it is not stated.
        course: What the lectures say about the case.
        drop_last: Whether training leaves out the last batch of an epoch when it is
            smaller than `batch_size`, as `torch.utils.data.DataLoader` means it.
        callbacks: Returns Keras callbacks, such as a learning-rate decay.
        after: Name of the recipe that this one goes on from.
        changes: The parts (of `PARTS` and `EXTRAS`) in which this recipe differs from
            `after`.
        label_smoothing: The share of a label, 0 to 1, that the loss spreads over all
            classes alike, as `torch.nn.CrossEntropyLoss` means it.
        adapt: Called with the network and training images before training begins, to
            set what no initialiser can, such as weights computed from images. The
            images are the first 1,000 (all, where there are fewer) as the network
            takes them, after the transforms that are not random: float32 `(n, height,
            width, channels)`, NumPy.
        views: Returns, from raw images, NumPy uint8 `(n, height, width, channels)`,
            several arrays of that shape, such as the images and the same mirrored. A
            run's end evaluates the mean of the network's logits for all of them too.
    """

    name: str
    dataset: str
    network: Callable[[], keras.Model]
    transform: Callable[[], list[keras.layers.Layer]]
    optimizer: Callable[..., keras.Optimizer]
    batch_size: int
    epochs: int
    parameters: int
    course: Course
    drop_last: bool = False
    callbacks: Callable[[], list[keras.callbacks.Callback]] = list
    after: str | None = None
    changes: frozenset[str] | set[str] = frozenset()
    label_smoothing: float = 0.0
    adapt: Callable[[keras.Model, np.ndarray], None] | None = None
    views: Callable[[np.ndarray], Iterable[np.ndarray]] | None = None

    def __post_init__(self):
        for part in ("network", "transform", "optimizer", "callbacks"):
            object.__setattr__(self, part, _under_defaults(getattr(self, part)))
        object.__setattr__(self, "network", _functional(self.network, self.name))
        object.__setattr__(self, "optimizer", _of_steps(self.optimizer))

    @property
    def idea(self) -> str:
        """The docstring of the recipe's file: what it changes and why."""
        module = sys.modules.get(self.network.__module__)
        return (inspect.getdoc(module) or "") if module else ""

    @property
    def own_file(self) -> Path | None:
        """The file that it was loaded from; `None` for one of this package's."""
        module = sys.modules.get(self.network.__module__)
        file = getattr(module, "__file__", None)
        if file is None or Path(file).resolve().parent == _FOLDER.resolve():
            return None
        return Path(file).absolute()

    @property
    def command(self) -> str:
        """The command that trains it."""
        if self.own_file is None:
            return f"python -m kerascnn.recipes.{self.name}"
        file = self.own_file
        if file.is_relative_to(Path.cwd()):
            file = Path(".", file.relative_to(Path.cwd()))
        return f"kerascnn run {shlex.quote(str(file))}"

    def _repr_markdown_(self) -> str:
        """What a notebook shows: the recipe's card."""
        from kerascnn.report import card

        return card.markdown(self)


def _of_steps(build: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives `build` a run's steps if it has a parameter so."""
    if hasattr(build, "of_steps"):  # of a recipe that another was made from
        return build
    try:
        takes = "steps" in inspect.signature(build).parameters
    except ValueError:  # of some classes Python knows no signature
        takes = False

    @functools.wraps(build, updated=())
    def optimizer(steps: int = STEPS) -> Any:
        return build(steps) if takes else build()

    optimizer.of_steps = takes  # type: ignore[attr-defined]
    optimizer.under_defaults = True  # type: ignore[attr-defined]
    return optimizer


def _under_defaults(build: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `build` under Keras's defaults."""
    if hasattr(build, "under_defaults"):  # of a recipe that another was made from
        return build

    def built(*arguments: Any) -> Any:
        with settings.keras_defaults():
            return build(*arguments)

    functools.update_wrapper(built, build, updated=())
    function = getattr(build, "func", build)  # inside a functools.partial
    built.__module__ = getattr(function, "__module__", None) or "__main__"
    built.under_defaults = True  # type: ignore[attr-defined]
    return built


def _functional(build: Callable[[], Any], name: str) -> Callable[[], Any]:
    """Return a function that calls `build` and returns a Functional model."""
    # A Sequential model's configuration names no layers, and the logits of a model with
    # several outputs, or of no known shape, have no loss here.
    if hasattr(build, "functional"):  # of a recipe that another was made from
        return build

    @functools.wraps(build, updated=())
    def network() -> keras.Model:
        import keras

        model = build()
        inputs, outputs = (getattr(model, n, None) for n in ("inputs", "outputs"))
        if not hasattr(model, "operations") and not isinstance(model, keras.Sequential):
            wrong = f"a {type(model).__name__}: give keras.Model its inputs and outputs"
        elif not inputs or not outputs:
            wrong = "a Sequential model without an input: begin it with keras.Input"
        elif (len(inputs), len(outputs)) != (1, 1) or len(outputs[0].shape) != 2:
            shapes = ", ".join(str(tensor.shape) for tensor in outputs)
            wrong = (
                f"from {len(inputs)} input{'s' * (len(inputs) > 1)} to {shapes}: "
                "expected one of images, and logits (batch, classes)"
            )
        elif last := _probabilities(model):
            wrong = (
                f"ended by {last}, and the loss takes logits: leave the {last} out, "
                "and take it of what the trained model predicts"
            )
        else:
            if isinstance(model, keras.Sequential):
                return keras.Model(inputs[0], outputs[0], name=model.name)
            if isinstance(model.input, keras.KerasTensor):
                return model
            wrong = "of a list of inputs: give keras.Model the tensor alone"
        raise UsageError(f"{name}'s network is {wrong}.")

    network.functional = True  # type: ignore[attr-defined]
    network.under_defaults = True  # type: ignore[attr-defined]
    return network


def _probabilities(model: keras.Model) -> str | None:
    """Name the function that makes a model's outputs probabilities, if there is one."""
    import keras

    last = model.layers[-1]
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    activation = getattr(last, "activation", None)
    known = keras.activations.softmax, keras.activations.sigmoid
    return activation.__name__ if activation in known else None


def check_parameters(recipe: Recipe, model: keras.Model) -> None:
    """Raise `UsageError` unless a model has the recipe's number of parameters."""
    count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    if recipe.parameters not in (0, count):
        raise UsageError(
            f"{recipe.name} says parameters={recipe.parameters:_}, and its network has "
            f"{count:_}: correct whichever of the two is wrong."
        )


@dataclasses.dataclass(frozen=True)
class Outline:
    """The facts of a recipe that can be read off its file without importing Keras."""

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


def load(name: str | Path) -> Recipe:
    """Load a recipe: one of the course's by its name, one of your own by its file.

    Args:
        name: The name of a recipe, as `names()` has them, or the path of a Python file
            that assigns `RECIPE`. A path ends in `.py` or holds a slash. The file is
            run anew each time, so what was changed in it since is seen; modules that
            lie beside it can be imported by it.

    Returns:
        The recipe. A notebook shows its card.

    Raises:
        UsageError: There is no such recipe (the message offers the nearest names), its
            file is not Python or has no `RECIPE`, or Keras's backend can't train.

    Example:
        >>> load("fashion_lenet").batch_size
        256
    """
    if is_file(name):
        return _load_file(text.expanded(name))
    name = str(name)
    check_name(name)
    check_backend()
    spare_tensorflow()
    file = _FOLDER / f"{name}.py"
    try:
        found = importlib.import_module(f"kerascnn.recipes.{name}").RECIPE
    except (SyntaxError, AttributeError) as error:
        if isinstance(error, AttributeError) and error.name != "RECIPE":
            raise
        raise UsageError(f"{file} can't be read as a recipe ({error}).") from error
    _check_named(found, name, file)
    return found


def is_file(name: str | Path) -> bool:
    """Whether a word means a recipe's file, and not a recipe of this package."""
    if isinstance(name, Path):
        return True
    return name.endswith(".py") or "/" in name or os.sep in name


def find(name: str | Path) -> Path:
    """Return the file of a recipe, of this package or of one's own."""
    check(name)
    return text.expanded(name) if is_file(name) else _FOLDER / f"{name}.py"


def check(name: str | Path) -> None:
    """Raise `UsageError` unless there is a recipe of this name, or a file to read."""
    if not is_file(name):
        check_name(str(name))
    elif not text.expanded(name).is_file():
        raise UsageError(
            f"there is no file {name}: expected one that assigns RECIPE, as "
            "`kerascnn new NAME --from RECIPE` writes it."
        )
    elif not Path(name).stem.isidentifier() or Path(name).suffix != ".py":
        raise UsageError(
            f"{name}: a recipe's file has a name of letters, digits and underscores, "
            "which is the recipe's, and ends in .py."
        )


def _load_file(file: Path) -> Recipe:
    check(file)
    check_backend()
    spare_tensorflow()
    file = file.resolve()
    # `inspect` and Keras look the module of a function or a class up by its name.
    module = types.ModuleType(_module_name(file))
    module.__file__ = str(file)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(file.parent))
    try:
        code = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        exec(code, vars(module))
        found = module.RECIPE
        if not isinstance(found, Recipe):
            raise TypeError(f"RECIPE is a {type(found).__name__} and no Recipe")
        _check_named(found, file.stem, file)
    except (Exception, SystemExit) as error:
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{file} can't be read as a recipe ({_reason(error, file)})."
        ) from error
    finally:
        sys.path.remove(str(file.parent))
    return found


def _module_name(file: Path) -> str:
    """Return the name that `import` would give a file, or its path if that is taken."""
    if file.stem in sys.modules:
        taken = getattr(sys.modules[file.stem], "__file__", None)
    else:
        spec = importlib.util.find_spec(file.stem)
        taken = str(file) if spec is None else spec.origin
    same = taken is not None and Path(taken).resolve() == file
    return file.stem if same else str(file.with_suffix(""))


def _reason(error: BaseException, file: Path) -> str:
    """Say what a recipe's file has raised, and in which of its lines."""
    if isinstance(error, SystemExit):
        return (
            "it ends the program where it is imported: write `main(RECIPE)` below "
            '`if __name__ == "__main__":`'
        )
    if isinstance(error, AttributeError) and error.name == "RECIPE":
        return "it assigns no RECIPE"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    where = f", line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}: {text.one_line(error)}{where}"


def check_name(name: str) -> None:
    """Raise `UsageError`, with the nearest names, unless a recipe has this name."""
    known = names()
    if name in known:
        return
    if is_file(name):
        raise UsageError(
            f"{name} is a file's name, and a recipe of the course was expected: "
            "`kerascnn list` shows them; a recipe of your own is for `kerascnn run`, "
            "`show`, `diff` and `resume`."
        )
    hint = suggestions.hint(name, known, "`kerascnn list` shows them.")
    raise UsageError(f"there is no recipe {name!r}: {hint}")


def outline(name: str) -> Outline:
    """Read a recipe's facts from its source, where they are literals."""
    # Importing Keras takes seconds, and a list of all recipes should not.
    check_name(name)
    file = _FOLDER / f"{name}.py"
    try:
        found = _outline(ast.parse(file.read_text("utf-8"), str(file)))
        _check_named(found, name, file)
        return found
    except UsageError:
        raise
    except (ValueError, TypeError, SyntaxError) as error:
        fields = ", ".join(field.name for field in dataclasses.fields(Outline)[3:])
        raise UsageError(
            f"{file} can't be read as a recipe ({error}): it assigns RECIPE = "
            f"Recipe(...) once, with literals for {fields}."
        ) from error


def _check_named(recipe: Recipe | Outline, name: str, file: Path) -> None:
    """Raise `UsageError` where a copied recipe still has the original's name."""
    if recipe.name != name:
        raise UsageError(
            f"{file} says name={recipe.name!r}: give the recipe its file's name, "
            f"name={name!r}, in its command too."
        )


def call_of(tree: ast.Module) -> ast.Call:
    """Return the call in a file's `RECIPE = Recipe(...)`; ValueError unless one is."""
    (call,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "RECIPE"
        and isinstance(node.value, ast.Call)
    )
    return call


def _outline(tree: ast.Module) -> Outline:
    call = call_of(tree)
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
