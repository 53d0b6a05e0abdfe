"""Download a set and prepare it with tensorflow-datasets: `get`.

The work is done in a process of its own: TensorFlow, which many sets take to be
prepared, stays out of the training process, and tfds' download threads, which would go
on trying for minutes, end with it.
"""

import os
import shutil
import sys
from pathlib import Path

from kerascnn import UsageError, processes
from kerascnn.data.folders import check_known, data_directory, prepared, remove_empty


def get(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Download a set and prepare it, if it is not prepared; return its folder."""
    if (folder := prepared(name, data_dir)) is not None:
        return folder
    check_known(name)
    directory = data_directory(data_dir)
    parts = _parts(directory)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [name, str(directory)]
    message = None
    try:
        with processes.Child(
            "kerascnn.data.downloading", words, environment, shown=True
        ) as child:
            message = child.answer()["error"]
    except processes.EndedError as error:
        message = (
            f"{name} could not be prepared: the process that did it ended with exit "
            f"code {error.code}."
        )
    folder = prepared(name, directory)
    if message is None and folder is not None:
        return folder
    # tfds leaves the pieces of what it could not download.
    for each in _parts(directory) - parts:
        shutil.rmtree(each, ignore_errors=True)
    remove_empty(name, directory)
    raise UsageError(
        message or f"{name} is not in {directory}, though it was prepared."
    )


def _parts(directory: Path) -> set[Path]:
    return set(directory.glob("downloads/*/*.tmp.*"))
