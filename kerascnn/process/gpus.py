"""What NVIDIA's driver says of the GPUs and of who holds their memory."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import Any

_TIME = 20.0  # seconds; a driver in trouble does not answer


def found() -> list[dict[str, Any]]:
    """Return the GPUs that nvidia-smi lists; none where it is missing or fails.

    Returns:
        For each, by name: `name`, `memory` and `used` in bytes, and `processes`, each
        with `pid`, `name` and `bytes` (`None` where the driver does not tell).
    """
    gpus = [
        {"name": name, "memory": _bytes(total), "used": _bytes(used), "uuid": uuid}
        for name, total, used, uuid in _asked("gpu", "name,memory.total,memory.used")
    ]
    held = _asked("compute-apps", "pid,process_name,used_memory")
    for gpu in gpus:
        uuid = gpu.pop("uuid")
        gpu["processes"] = [
            {"pid": int(pid), "name": name, "bytes": _bytes(used)}
            for pid, name, used, on in held
            if on == uuid and pid.isdigit()
        ]
    return gpus


def _asked(what: str, fields: str) -> list[list[str]]:
    """Return the rows of a query of nvidia-smi, the GPU's identity last."""
    fields += ",gpu_uuid"
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    words = [f"--query-{what}={fields}", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [program, *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIME,
            check=True,
        )
        rows = [line.split(", ") for line in done.stdout.splitlines()]
        # A process's name may hold commas.
        number = fields.count(",") + 1
        return [_row(row, number) for row in rows if len(row) >= number]
    return []


def _row(row: list[str], number: int) -> list[str]:
    more = len(row) - number
    if not more:
        return row
    return [row[0], ", ".join(row[1 : 2 + more]), *row[2 + more :]]


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) * 2**20 if mebibytes.strip().isdigit() else None
