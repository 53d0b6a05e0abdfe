"""What a run ran on: versions, device, machine, and the commit of this package."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerascnn import UsageError, __version__
from kerascnn.process import cores

PACKAGES = ("keras", "numpy", "tensorflow-datasets", "optax")
BACKEND_MODULES = {
    "jax": ("jax", "jaxlib"),
    "tensorflow": ("tensorflow",),
    "torch": ("torch",),
}

# The package's folders whose code decides no training.
NO_PART_OF_A_TRAINING = (
    *("recipes", "lessons", "bench", "parity", "report", "page"),
    *("prediction", "export", "demo", "twins", "studies", "cli", "translations"),
)


def describe(backend: str | None = None) -> dict[str, Any]:
    """Return the versions, the device and the machine that this process uses."""
    import keras

    backend = backend or keras.backend.backend()
    versions = {"python": platform.python_version(), "kerascnn": __version__}
    for package in PACKAGES:
        versions[package] = importlib.metadata.version(package)
    for module in BACKEND_MODULES[backend]:
        # The module's own word: TensorFlow comes in packages of several names.
        versions[module] = sys.modules[module].__version__
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.orig_argv[1:],
        "backend": backend,
        "device": device(backend),
        "processor": processor(),
        "cores": cores.available(),
        "system": platform.platform(),
        "versions": versions,
        "commit": commit(),
        "code": code(),
    }


def for_record(backend: str | None = None) -> dict[str, Any]:
    """Return what `describe` does, but for the command: its paths are nobody else's."""
    here = describe(backend)
    del here["command"]
    return here


def device(backend: str | None = None) -> str:
    """Return the device's name that a backend computes on, such as `"cpu"`."""
    import keras

    match backend or keras.backend.backend():
        case "jax":
            import jax

            return jax.local_devices()[0].device_kind
        case "tensorflow":
            gpus = sys.modules["tensorflow"].config.list_physical_devices("GPU")
            return "gpu" if gpus else "cpu"
        case _:
            cuda = sys.modules["torch"].cuda
            return cuda.get_device_name() if cuda.is_available() else "cpu"


def processor() -> str:
    """Return the processor's name."""
    name = _said("/proc/cpuinfo", "model name")
    return name or platform.processor() or platform.machine()


def _said(file: str, *names: str) -> str:
    """Return what Linux says in a file of lines `name: value`, the first of these."""
    with contextlib.suppress(OSError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(names):
                return line.partition(":")[2].strip()
    return ""


def peak_memory() -> int | None:
    """Return the most bytes this process has held; `None` on Windows."""
    # On Linux `getrusage` counts what the process that started this one held.
    if peak := _said("/proc/self/status", "VmHWM"):
        return int(peak.split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def begun() -> float:
    """Return when this process began, in seconds as `time.time` counts them."""
    psutil = _psutil()
    return psutil.Process().create_time() if psutil else time.time()


def held_memory() -> int | None:
    """Return the bytes that this process holds; `None` where psutil is missing."""
    psutil = _psutil()
    return psutil and psutil.Process().memory_info().rss


def free_memory(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return the bytes that can be had without swapping; `None` where none can say.

    Bounds are the machine's memory, those of the control groups that this process is
    in, which containers and SLURM set, and `KERASCNN_MEMORY` of the environment, the
    most that the process may hold.

    Args:
        groups: Where Linux shows the control groups.
        own: Where it says in which of them this process is.

    Raises:
        UsageError: `KERASCNN_MEMORY` says no size.
    """
    psutil = _psutil()
    found = [psutil.virtual_memory().available] if psutil else []
    found += _left_in_groups(groups, own)
    if words := os.environ.get("KERASCNN_MEMORY"):
        found.append(
            max(0, parsed_size(words, "KERASCNN_MEMORY") - (held_memory() or 0))
        )
    return min(found, default=None)


# In a control group's folder: what bounds the memory, what is used, and in memory.stat
# what of that lies in files that can be dropped. Versions 2 and 1 of the interface.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _left_in_groups(groups: Path, own: Path) -> Iterator[int]:
    """Give what each control group of this process leaves of its bound."""
    folders = {groups, groups / "memory"}
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():  # number:controllers:/path
            _, controllers, place = line.split(":", 2)
            root = groups / "memory" if "memory" in controllers.split(",") else groups
            inside = Path(place.lstrip("/"))
            folders |= {root / each for each in (inside, *inside.parents)}
    for folder in folders:
        for bound, used, droppable in _FILES:
            with contextlib.suppress(OSError, ValueError):
                most = int((folder / bound).read_text())  # "max" where there is none
                taken = int((folder / used).read_text())
                lines = (folder / "memory.stat").read_text().splitlines()
                counts = dict(line.split(" ", 1) for line in lines if " " in line)
                yield max(0, most - taken + int(counts.get(droppable, 0)))


def parsed_size(words: str, name: str) -> int:
    """Return the bytes that `"8GB"`, `"512 MB"` or `"1.5TB"` means."""
    parts = re.fullmatch(r" *([0-9]+(?:\.[0-9]+)?) *([kMGT]B) *", words)
    if parts is None:
        raise UsageError(f"{name}={words}: expected a size, such as 8GB or 512MB.")
    return int(float(parts[1]) * 1000 ** (1 + "kMGT".index(parts[2][0])))


def _psutil() -> Any:
    with contextlib.suppress(ImportError):
        import psutil

        return psutil
    return None


@functools.cache
def code() -> str:
    """Return the SHA-256 of this package's code that trains: 64 hexadecimal digits."""
    # It changes where the version does not, in a checkout that someone works on.
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package)
        if name.parts[0] not in NO_PART_OF_A_TRAINING:
            digest.update(name.as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def commit() -> str | None:
    """Return the commit of this package's checkout, with `+changes` if any."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words],
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
        ).stdout.strip()

    try:
        # Fails in an environment that merely lies within someone else's checkout.
        git("ls-files", "--error-unmatch", "kerascnn/__init__.py")
        changed = git("status", "--porcelain", "--", "kerascnn", "pyproject.toml")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
