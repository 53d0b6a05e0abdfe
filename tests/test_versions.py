"""Which versions of Keras and JAX the package may meet, and why not every later one."""

import ast
import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest

import kerascnn

PACKAGE = Path(kerascnn.__file__).parent
ROOT = Path(__file__).parents[1]
LIBRARIES = ("jax", "jaxlib", "keras", "optax")

# Names of Keras and JAX that the package uses and that may change in any release of
# theirs. One more is a reason to look for a public name; one less, to take it out here.
PRIVATE = {
    "_get_current_learning_rate",  # keras.optimizers.Optimizer
    "_get_variable_index",
    "_learning_rate",
    "_momentums",
    "_trainable_variables",
    "_velocities",
    "_velocity_hats",
    "_compile_config",  # keras.Model: the objects that a model was compiled with
    "_inbound_nodes",  # keras.Operation
    "_outbound_nodes",
    "_remat_mode",
    "_keras_history",  # keras.KerasTensor
    "keras.src.backend.common.global_state",  # the random seed, to put it back
    "jax.core.Tracer",
}

# Underscored names of Python and of tensorflow-datasets.
OTHERS = {"_exit", "_fields", "_replace", "_split_generators"}


def is_private(name: str) -> bool:
    """Whether a dotted name leads through a part without a promise."""
    library, *rest = name.split(".")
    unstable = {"src", "extend", "interpreters", "core"}
    return library in LIBRARIES and any(
        part in unstable or re.match("_[^_]", part) for part in rest
    )


def dotted(node: ast.AST) -> str:
    """Return `jax.core.Tracer` of the expression that says so, else ``""``."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def own_names(tree: ast.AST) -> set[str]:
    """Return what a file defines: functions, classes, variables, attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if dotted(node.value) in ("self", "cls"):
                found.add(node.attr)
        elif isinstance(node, ast.alias) and node.asname:
            found.add(node.asname)
    return found


def private_names(tree: ast.AST, own: set[str] = frozenset()) -> set[str]:
    """Return the private names of libraries that code reads, but for those in `own`."""
    found = set()
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Attribute):
            if is_private(dotted(node)):
                name = dotted(node)
            elif node.attr not in own and re.match("_[^_]", node.attr):
                name = node.attr
        elif isinstance(node, ast.Call) and len(node.args) > 1:
            called, second = dotted(node.func), node.args[1]
            if called in ("getattr", "hasattr", "setattr", "delattr"):
                name = str(getattr(second, "value", ""))
                name = name if re.match("_[^_]", name) and name not in own else ""
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if is_private(a.name)}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each for each in names if is_private(each)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_name = re.fullmatch(r"[\w.]+", node.value)
            name = node.value if is_name and is_private(node.value) else ""
        if name:
            found.add(name)
    # `jax.core` on the way to `jax.core.Tracer`.
    return {a for a in found if not any(b.startswith(f"{a}.") for b in found)}


def test_every_private_name_in_use_is_listed():
    files = sorted(PACKAGE.rglob("*.py"))
    trees = [ast.parse(file.read_text("utf-8")) for file in files]
    own = set().union(*map(own_names, trees)) | OTHERS
    found = {f: private_names(t, own) for f, t in zip(files, trees, strict=True)}
    # Files of models name their classes so; test_saved.py goes through them one by one.
    found[PACKAGE / "saved.py"] = {
        name
        for name in found[PACKAGE / "saved.py"]
        if not name.startswith("keras.src.")
    }
    assert set().union(*found.values()) == PRIVATE


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from jax._src import core", "jax._src.core"),
        ("import jax._src.core", "jax._src.core"),
        ("from keras.src.utils import io_utils", "keras.src.utils.io_utils"),
        ("jax.interpreters.mlir.lower_fun(f)", "jax.interpreters.mlir.lower_fun"),
        ("layer._inbound_nodes[0]", "_inbound_nodes"),
        ("keras.layers.Layer._call_has_mask", "keras.layers.Layer._call_has_mask"),
        ("getattr(layer, '_losses', [])", "_losses"),
        ("importlib.import_module('keras.src.saving')", "keras.src.saving"),
    ],
)
def test_a_new_private_name_is_seen(line, name):
    assert private_names(ast.parse(line)) == {name}


@pytest.mark.parametrize(
    "line",
    ["import jax.numpy as jnp", "keras.ops.sum(x)", "self._mine", "x.__class__"],
)
def test_public_names_and_one_s_own_are_not(line):
    assert private_names(ast.parse(line), {"_mine"}) == set()


def lanes() -> list[dict]:
    return json.loads((ROOT / ".ci" / "versions.json").read_text("utf-8"))


@pytest.mark.parametrize("library", ["keras", "jax"])
def test_the_next_minor_version_is_refused_until_it_is_tested(library):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (bounds,) = [d for d in project["dependencies"] if re.match(rf"{library}\W", d)]
    low, high = re.fullmatch(rf"{library}>=(\d+\.\d+),<(\d+\.\d+)", bounds).groups()
    tested = [tuple(map(int, lane[library].split(".")[:2])) for lane in lanes()]
    assert tuple(map(int, low.split("."))) <= min(tested)
    assert tuple(map(int, high.split("."))) == (max(tested)[0], max(tested)[1] + 1)


def test_readme_s_table_is_the_data():
    path = ROOT / ".ci" / "versions.py"
    spec = importlib.util.spec_from_file_location("versions", path)
    versions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(versions)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert versions.rendered(readme, lanes()) == readme
    assert f"| {lanes()[0]['python']} | {lanes()[0]['jax']} |" in readme
