"""Imports point one way, so that each module can be read without the ones above it."""

import ast
from pathlib import Path

import pytest

import kerascnn

PACKAGE = Path(kerascnn.__file__).parent

# Each part may import the parts named here, and what `kerascnn/__init__.py` defines.
ALLOWED = {
    "settings": set(),
    "shapes": set(),
    "recipe": {"settings", "shapes", "suggestions"},
    "suggestions": set(),
    "transforms": set(),
    "blocks": set(),
    "edges": set(),
    "initializers": set(),
    "optim": set(),
    "runs": {"command_line"},
    "saved": {"shapes", "transforms"},
    "acceleration": set(),
    "command_line": {"suggestions"},
    "cores": set(),
    "memory": {"command_line", "cores", "postponed"},
    "postponed": set(),
    "data": {"command_line", "suggestions"},
    "recipes": {
        "blocks",
        "command_line",
        "edges",
        "memory",
        "initializers",
        "optim",
        "recipe",
        "training.main",
        "training.signals",
        "transforms",
    },
    "training": {
        "shapes",
        "acceleration",
        "command_line",
        "cores",
        "data",
        "memory",
        "optim",
        "recipe",
        "report",
        "runs",
        "settings",
    },
    "bench": {
        "acceleration",
        "command_line",
        "cores",
        "data",
        "memory",
        "recipe",
        "runs",
        "settings",
        "shapes",
        "training",
    },
    "report": {"data", "recipe", "runs", "shapes"},
    "parity": {
        "acceleration",
        "command_line",
        "cores",
        "data",
        "memory",
        "recipe",
        "report",
        "settings",
        "training",
    },
    "lessons": {
        "blocks",
        "command_line",
        "data",
        "edges",
        "initializers",
        "optim",
        "recipe",
        "settings",
        "training.signals",
        "transforms",
    },
}

ROOT = {
    "MISSED_BACKEND",
    "UsageError",
    "__version__",
    "check_backend",
    "say_missed_backend",
    "spare_tensorflow",
}

# Inside a part: each module may import the ones before it.
ORDER = {
    "acceleration": [
        *("materialize", "mesh", "blocks"),
        *("direct", "bands", "winograd", "dispatch", "canary", "convolution"),
        *("pooling", "normalization", "activations"),
        *("layers", "model", "__init__"),
    ]
}

FILES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))


def part(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    """Return what a file imports from the package, as dotted names without its own."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name for name in found if name.split(".")[0] == "kerascnn"}
    return {name.removeprefix("kerascnn.") for name in inside}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_one_way(file):
    if part(file) in ("__init__", "__main__"):
        return
    allowed = ALLOWED[part(file)] | {part(file)} | ROOT
    for name in imported(file):
        head = name.split(".")[0]
        assert head in allowed or name in allowed, f"{file} imports {name}"


@pytest.mark.parametrize("part", ORDER)
def test_imports_inside_a_part_point_one_way(part):
    order = ORDER[part]
    assert sorted(order) == sorted(file.stem for file in (PACKAGE / part).glob("*.py"))
    for at, module in enumerate(order):
        earlier = {f"{part}.{name}" for name in order[:at]}
        for name in imported(Path(part, f"{module}.py")):
            if name.split(".")[0] == part:
                head = ".".join(name.split(".")[:2])
                assert head in earlier, f"{part}/{module}.py imports {name}"


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "core", "base"])
def test_no_module_is_called_after_nothing(name):
    assert not [file for file in FILES if file.stem == name]
