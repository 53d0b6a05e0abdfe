"""Imports point one way, so that each module can be read without the ones above it."""

import ast
from pathlib import Path

import pytest

import kerascnn

PACKAGE = Path(kerascnn.__file__).parent

# Each room may import the ones before it, and what `kerascnn/__init__.py` defines.
ROOMS = [
    *("suggestions", "text", "translations", "processes", "process", "without_weights"),
    *("initializers", "edges", "transforms", "views", "optim", "acceleration"),
    *(
        "recipe",
        "describe",
        "runs",
        "saved",
        "data",
        "engine",
        "training",
        "report",
        "page",
        "prediction",
        "export",
        "demo",
        "api",
    ),
    *("twins", "parity", "bench", "studies", "cli", "recipes", "lessons"),
]
# What these may not import though it comes before them, so that they stay apart.
APART = {
    "acceleration": {"optim", "transforms", "process"},
    "bench": {"page", "parity", "report"},
    "lessons": {
        "bench",
        "page",
        "parity",
        "report",
        "runs",
        "studies",
        "training",
        "twins",
    },
    "page": {"engine"},
    "parity": {"page", "report"},
    "recipes": {
        "bench",
        "data",
        "page",
        "parity",
        "report",
        "runs",
        "studies",
        "twins",
    },
    "report": {"engine", "training"},
    "twins": {"acceleration", "data", "engine", "report", "training"},
}
# What a type is taken from alone, or what a notebook asks an object to show itself by.
BESIDES = {
    "engine": {"training.autosave.Autosave"},
    "recipe": {"report.card"},
    "runs": {
        *("demo.page", "export.formats", "page.document", "report.plots"),
        *("prediction.predictor", "prediction.evaluation"),
        "prediction.evaluation.Figures",
    },
}

ROOT = {"MISSED_BACKEND", "UsageError", "__version__"}

# Inside a room: each module may import the ones before it.
ORDER = {
    "acceleration": [
        *("platforms", "mesh", "materialize", "pooling", "blocks"),
        *("direct", "bands", "winograd", "dispatch", "canary", "convolution"),
        *("normalization", "activations", "counted"),
        *("layers", "model", "__init__"),
    ],
    "engine": [
        *("__init__", "counts", "plan", "steps", "losses", "summed", "finite"),
        *("placement", "recorder", "executables", "accumulation", "remat", "epoch"),
        *("stream", "footprint", "fit", "choice", "views"),
    ],
    "process": [
        *("__init__", "cores", "settings", "signals", "watch", "hosts"),
        *("estimate", "memory"),
        *("backend", "machine", "gpus", "caches", "determinism", "prepare"),
    ],
    "training": [
        *("__init__", "options", "callback_state", "checkpoint", "fine_tuning"),
        *("build", "forecast", "screens", "progress", "logs", "resume", "shared"),
        *("images", "case", "room", "devices", "autosave", "run", "costs", "budget"),
        "worker",
    ],
    "twins": [
        *("rules", "twin", "initial"),
        *("lecture_1", "lecture_2", "lecture_3", "lecture_4", "speedrun", "__init__"),
    ],
    "page": [
        *("__init__", "findings", "pictures", "charts", "looking", "evidence"),
        *("panel", "recorded", "panels", "document", "figures", "cards", "comparison"),
        "lessons",
    ],
    "parity": [
        *("__init__", "images", "weights", "keras_step", "torch_step"),
        *("shared_randomness", "mistakes", "breaking", "check", "batches"),
        *("transforms", "initial", "step", "trace", "compare", "worker"),
    ],
    "export": ["__init__", "walk", "onnx_graph", "torch_module", "formats", "card"],
    "demo": ["__init__", "graph", "page"],
    "prediction": ["__init__", "files", "predictor", "evaluation", "shipped"],
    "studies": [
        "__init__",
        "learns",
        "parity_training",
        "backends",
        "ladder",
        "ablation",
        "doctor",
        "lr_find",
        "sweep",
        "plan",
    ],
    "cli": [
        *(
            "__init__",
            "parsing",
            "runs",
            "seeds",
            "run",
            "report",
            "predict",
            "export",
            "demo",
            "compare",
            "ladder",
            "recipes",
            "data",
            "doctor",
            "plan",
            "bench",
            "gpu_report",
            "parity",
            "lessons",
        ),
        *("commands", "completion"),
    ],
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
    room = part(file)
    allowed = {*ROOMS[: ROOMS.index(room) + 1]} - APART.get(room, set())
    for name in imported(file):
        known = name.split(".")[0] in allowed or name in BESIDES.get(room, ())
        assert known or name in ROOT, f"{file} imports {name}"


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
