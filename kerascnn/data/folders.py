"""Where prepared sets lie: `<data folder>/<name>[/<config>]/<version>`, as in tfds.

Only the folders are looked at, without tensorflow-datasets, whose builders would take a
second to import and may ask the network.
"""

import contextlib
import json
import os
import re
from pathlib import Path

from kerascnn import UsageError, suggestions
from kerascnn.text import expanded

SAMPLES = Path(__file__).parent / "samples"

_NAME = re.compile(
    r"(?P<set>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def data_directory(data_dir: str | os.PathLike | None = None) -> Path:
    """Return the folder of prepared sets: given, `TFDS_DATA_DIR`, or tfds's own."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return expanded(chosen).absolute()


def prepared(name: str, data_dir: str | os.PathLike | None = None) -> Path | None:
    """The folder of a prepared set, its highest version; None if it is not there.

    `name` is as tensorflow-datasets writes it: "cifar10", "cifar10:3.0.2",
    "cifar10_corrupted/fog_1".
    """
    match = _NAME.fullmatch(name)
    if match is None:
        if name:
            check_no_path(name)
        meant = suggestions.hint(
            name,
            [each.name for each in SAMPLES.iterdir()],
            "expected a name of tensorflow-datasets, such as cifar10, cifar10:3.0.2 or "
            "emnist/letters, or a folder's path, such as ./photos.",
        )
        raise UsageError(f"{name!r} cannot be the name of a data set: {meant}")
    folder = data_directory(data_dir) / match["set"]
    try:
        if match["config"]:
            return _newest(folder / match["config"], match["version"])
        return _newest(folder, match["version"]) or _default_config(
            folder, name, match["version"]
        )
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read ({error.strerror}): mend its permissions or pass "
            "another folder with --data-dir."
        ) from error


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a set that tensorflow-datasets has prepared."""
    return (folder / "dataset_info.json").is_file()


def check_known(name: str) -> None:
    """Raise `UsageError` with the nearest names where tfds has no set of this name."""
    import tensorflow_datasets

    known = tensorflow_datasets.list_builders(with_community_datasets=False)
    asked = re.split("[/:]", name)[0]
    if asked not in known:
        check_no_path(name)
        meant = suggestions.hint(
            asked,
            known,
            "`kerascnn data list` shows those on this machine; your own images are "
            "named by their folder's path, such as ./photos.",
        )
        raise UsageError(
            f"there is no data set {asked!r} in tensorflow-datasets: {meant}"
        )


def check_no_path(name: str) -> None:
    """Raise `UsageError` where a set's name is a path, or looks like one."""
    path = expanded(name)
    if os.path.isdir(path):
        raise UsageError(
            f"{name} is a folder here: to use its images, write "
            f"{os.path.join('.', name)}."
        )
    if os.path.exists(path):
        raise _no_folder(path)
    if len(path.parts) > 2 or path.suffix.lower() in _FILES:
        raise UsageError(
            f"there is no {name} here: expected a folder of images, or a name of "
            "tensorflow-datasets, such as cifar10."
        )


def check_folder(path: Path) -> None:
    """Raise `UsageError` unless the path of a folder of images is a folder's."""
    if path.is_dir():
        return
    if path.exists():
        raise _no_folder(path)
    kind = "file" if path.suffix.lower() in _FILES else "folder"
    raise UsageError(f"there is no {kind} {path}.")


# What data are often kept in, as against the dot in cifar10:3.0.2.
_FILES = (".csv", ".npz", ".npy", ".zip", ".gz", ".tgz", ".tar", ".parquet", ".h5")
_FILES += (".hdf5", ".mat", ".pkl", ".json", ".tfrecord", ".txt", ".jpg", ".png")


def _no_folder(path: Path) -> UsageError:
    more = ""
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz"):
        more = " unpack it, or, for CIFAR-10 or Fashion-MNIST, `kerascnn data import`"
        more = f";{more} takes their official archives"
    return UsageError(
        f"{path} is a file: expected a folder of images, a CSV or Parquet of paths and "
        f"labels, or an .npz of arrays{more}."
    )


def remove_empty(name: str, directory: Path) -> None:
    """Remove a set's folder below the folder of prepared sets if it is empty."""
    with contextlib.suppress(OSError):
        (directory / re.split("[/:]", name)[0]).rmdir()


def _newest(folder: Path, version: str | None) -> Path | None:
    if not folder.is_dir():
        return None
    versions = [
        each
        for each in folder.iterdir()
        if (_VERSION.fullmatch(each.name) if version is None else each.name == version)
        and is_prepared(each)
    ]
    return max(
        versions, key=lambda each: [*map(int, each.name.split("."))], default=None
    )


def _default_config(folder: Path, name: str, version: str | None) -> Path | None:
    """The configuration meant by the bare name: tfds' default, or the only one."""
    if not folder.is_dir():
        return None
    configs = {
        each.name: found
        for each in sorted(folder.iterdir())
        if (found := _newest(each, version)) is not None
    }
    if len(configs) > 1:
        default = folder / ".config" / "metadata.json"
        # A damaged one names none.
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            chosen = json.loads(default.read_text("utf-8")).get("default_config_name")
            if chosen in configs:
                return configs[chosen]
        raise UsageError(
            f"{name} is prepared in {len(configs)} configurations in {folder}: "
            f"name one of them, {', '.join(f'{name}/{each}' for each in configs)}."
        )
    return next(iter(configs.values()), None)
