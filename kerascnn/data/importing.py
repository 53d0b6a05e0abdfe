"""Prepare a set from an archive that is on this machine: `import_archive`."""

import os
import tempfile
from pathlib import Path

from kerascnn import UsageError
from kerascnn.data.archives import read_archive
from kerascnn.data.folders import check_known, data_directory, prepared, remove_empty
from kerascnn.data.official import OFFICIAL, Official
from kerascnn.data.writing import write


def import_archive(
    name: str,
    path: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    official: Official | None = None,
) -> Path:
    """Prepare CIFAR-10 or Fashion-MNIST from its official archive; return its folder.

    The result is what tensorflow-datasets would have prepared from its own download.
    The pickles of cifar-10-python.tar.gz are read, not executed.
    """
    if name not in OFFICIAL:
        check_known(name)
        raise UsageError(
            f"an archive of {name} cannot be imported, only one of "
            f"{' or '.join(OFFICIAL)}: fetch it with `kerascnn data get {name}`."
        )
    directory = data_directory(data_dir)
    if (folder := prepared(name, directory)) is not None:
        return folder
    splits = read_archive(name, path, official or OFFICIAL[name])
    try:
        # tfds insists on a folder for downloads, though there are none.
        with tempfile.TemporaryDirectory() as downloads:
            return write(name, directory, lambda manager: splits, downloads)
    except OSError as error:
        # Another process may have prepared the same set in the meantime.
        if (folder := prepared(name, directory)) is not None:
            return folder
        remove_empty(name, directory)
        raise UsageError(
            f"{directory} cannot be written ({error.strerror or error}): make room or "
            "pass another folder with --data-dir."
        ) from error
