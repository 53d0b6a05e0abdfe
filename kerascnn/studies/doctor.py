"""What this machine has for training, what is missing, what a training takes."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerascnn import UsageError, __version__, text
from kerascnn.process import backend, caches, cores, gpus, machine, memory
from kerascnn.training import worker
from kerascnn.training.options import Overrides

# What the package needs, by the names that pip has for them, and its extras' packages.
NEEDED = ("keras", "jax", "jaxlib", "numpy", "optax", "tensorflow-datasets", "pillow")
NEEDED += ("safetensors", "scipy", "matplotlib", "jinja2", "rich", "tyro", "psutil")
EXTRAS = {
    "tensorflow": ("tensorflow",),
    "torch": ("torch",),
    "onnx": ("onnx", "onnxruntime"),
    "sweep": ("optuna",),
    "tensorboard": ("tensorboardX",),
}
# Free bytes below which a disk is named: a run of the large nets leaves such files.
_LITTLE = 2e9


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is missing or broken, and the one command that mends it."""

    what: str
    command: str


def machine_facts(data_dir: Path | None = None) -> dict[str, Any]:
    """Return what this machine has, and its `problems`; raises nothing.

    Args:
        data_dir: Where tensorflow-datasets keeps its sets.
    """
    found: dict[str, Any] = {"problems": []}
    parts = {
        "versions": _versions,
        "machine": _machine,
        "backend": _backend,
        "gpus": _gpus,
        "caches": _caches,
        "disk": lambda problems: _disk(problems, data_dir),
    }
    for name, look in parts.items():
        problems: list[Problem] = []
        try:
            found[name] = look(problems)
        except Exception as error:  # whatever the state of the machine makes of it
            found[name] = None
            said = f"{name} can't be looked at ({text.one_line(error, most=200)})"
            problems.append(Problem(said, "kerascnn doctor --json"))
        found["problems"] += map(dataclasses.asdict, problems)
    return found


def _versions(problems: list[Problem]) -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version()}
    found["kerascnn"] = __version__
    extras = [package for packages in EXTRAS.values() for package in packages]
    for package in (*NEEDED, *extras):
        found[package] = _version(package)
    missing = [name for name in NEEDED if found[name] is None]
    if missing:
        problems.append(
            Problem(
                f"not installed: {', '.join(missing)}",
                f"pip install {' '.join(map(shlex.quote, missing))}",
            )
        )
    return found


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _machine(problems: list[Problem]) -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": machine.processor(),
        "cores": cores.available(),
        "free_memory": machine.free_memory(),
        "c_library_memory": memory.said(),
    }


def _backend(problems: list[Problem]) -> dict[str, Any]:
    """Ask a process of its own what Keras computes on: its import may fail here."""
    asked = os.environ["KERAS_BACKEND"]
    here = backend.installed()
    found: dict[str, Any] = {"asked": asked, "installed": here, "device": None}
    problems += _keras_json()
    try:
        backend.check_backend()
    except UsageError as error:
        name = asked if asked in backend.BACKENDS else "jax"
        way = text.install(name) if name == asked else ""
        other = f"export KERAS_BACKEND={here[0] if here else 'jax'}"
        problems.append(Problem(str(error), way or other))
        return found
    try:
        found |= worker.ask("machine")
    except UsageError as error:
        problems.append(
            Problem(f"Keras can't compute here ({error})", "kerascnn doctor --json")
        )
    return found


def _keras_json() -> Iterator[Problem]:
    """Look at the file that Keras reads when it is imported."""
    home = os.environ.get("KERAS_HOME")
    file = (Path(home) if home else text.expanded("~/.keras")) / "keras.json"
    away = f"mv {shlex.quote(str(file))} {shlex.quote(str(file) + '.broken')}"
    if not file.exists():
        return
    known = {
        "floatx": ("float16", "float32", "float64", "bfloat16"),
        "image_data_format": ("channels_last", "channels_first"),
        "backend": (*backend.BACKENDS, "openvino", "numpy"),
    }
    try:
        said = json.loads(file.read_text("utf-8"))
        if not isinstance(said, dict):
            raise ValueError("no JSON object")
        for name, values in known.items():
            if name in said and said[name] not in values:
                yield Problem(f"{file} says {name}: {said[name]!r}", away)
    except (OSError, ValueError) as error:
        why = text.one_line(error, most=100)
        yield Problem(f"{file} can't be read ({why})", away)


def _gpus(problems: list[Problem]) -> list[dict[str, Any]]:
    found = gpus.found()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plugins = [
            each.metadata["Name"]
            for each in importlib.metadata.distributions()
            if str(each.metadata["Name"]).startswith("jax-cuda")
        ]
    if found and os.environ["KERAS_BACKEND"] == "jax" and not plugins:
        what = f"JAX does not see the {found[0]['name']}"
        if os.name == "nt":
            what += " (JAX has no GPU on Windows itself: take WSL2, or PyTorch)"
            problems.append(Problem(what, text.install("torch")))
        else:
            problems.append(Problem(what, text.install("gpu")))
    return found


def _caches(problems: list[Problem]) -> dict[str, Any]:
    folder = caches.cache_directory()
    found = {}
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    places = {"all": folder, "compiled": folder / "compiled"}
    if compiled:
        places["compiled"] = Path(compiled)
    for name, place in places.items():
        found[name] = {"folder": str(place), "bytes": _size(place)}
    parent = _first_there(folder)
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        problems.append(
            Problem(
                f"the cache folder {folder} can't be written: images are decoded and "
                "code is compiled anew in each run",
                "export KERASCNN_CACHE_DIR=/tmp/kerascnn",
            )
        )
    return found


def _size(folder: Path) -> int | None:
    """Return the bytes of a folder's files; `None` where it is not there."""
    if not folder.is_dir():
        return None
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _first_there(path: Path) -> Path:
    """Return a path, or the nearest of its parents that exists."""
    for each in (path, *path.parents):
        with contextlib.suppress(OSError):
            if each.exists():
                return each
    return Path(path.anchor or ".")


def _disk(problems: list[Problem], data_dir: Path | None) -> dict[str, Any]:
    from kerascnn.data.folders import data_directory

    places = {
        "runs": Path.cwd() / "runs",
        "caches": caches.cache_directory(),
        "data": data_directory(data_dir),
    }
    found = {}
    for name, place in places.items():
        free = shutil.disk_usage(_first_there(place)).free
        found[name] = {"folder": str(place), "free": free}
        if free < _LITTLE:
            way = "kerascnn runs clean" if name == "runs" else f"df -h {place}"
            left = f"{text.size(free)} of disk are left for {place}"
            problems.append(Problem(left, way))
    return found


def training_facts(name: str, options: Overrides, backends: bool) -> dict[str, Any]:
    """Return what a training will take here, predicted; with its `problems`.

    Each question is asked of a process of its own, whose failure is a problem.

    Args:
        name: The recipe's name, or its file's path.
        options: Those of the run.
        backends: Measure a step on the other installed backends, too.

    Returns:
        By name: `memory` and `seconds` (see `costs.memory` and the answers of
        `worker`), `backends` (seconds an epoch by backend, `None` where it fails), the
        `fastest` of them, and `problems`; `None` for what could not be found.
    """
    found: dict[str, Any] = {"recipe": name, "problems": []}
    problems: list[Problem] = []
    here = options.backend or os.environ["KERAS_BACKEND"]
    found["memory"] = None
    if here == "jax":
        found["memory"] = _asked("largest", name, options, here, problems)
    others = [each for each in backend.installed() if each != here]
    found["backends"] = {}
    for each in (here, *(others if backends else ())):
        text.say(f"measuring steps of {Path(name).stem} on {each}")
        took = _asked("seconds", name, options, each, problems)
        if each == here:
            found["seconds"] = took
        found["backends"][each] = took and took["epoch"]
    times = {name: time for name, time in found["backends"].items() if time}
    found["fastest"] = min(times, key=lambda name: times[name]) if times else None
    need = found["memory"]
    if need and need["room"] is not None and need["bytes"] > need["room"]:
        problems.append(
            Problem(
                f"{text.size(need['bytes'])} of memory are needed for batches of "
                f"{need['batch_size']}, and {text.size(need['room'])} are free",
                f"kerascnn run {name} --batch-size {need['largest_batch'] or 1}",
            )
        )
    found["problems"] = [dataclasses.asdict(each) for each in problems]
    return found


def _asked(
    question: str, name: str, options: Overrides, on: str, problems: list[Problem]
) -> dict[str, Any] | None:
    try:
        own = dataclasses.replace(options, backend=on)
        return worker.ask(question, name, own, {"KERAS_BACKEND": on})
    except UsageError as error:
        what = "memory" if question == "largest" else "time"
        way = re.search("kerascnn data get [^` ]+", str(error))
        said = f"{what} on {on} is not known: {error}"
        problems.append(Problem(said, way[0] if way else "kerascnn doctor"))
        return None
