"""What `fetching.get` runs in a process of its own.

`python -m kerascnn.data.downloading NAME FOLDER` prepares a set, and answers with a
line of JSON: the `error`, or null. After an error it exits with code 2.
"""

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from kerascnn import UsageError, processes
from kerascnn.data.archives import IDX_FILES, Splits, read_archive, read_idx
from kerascnn.data.official import OFFICIAL
from kerascnn.data.reading import quiet
from kerascnn.data.writing import progress_bars, write
from kerascnn.text import one_line

# In seconds: to connect, and to wait for the next bytes of a file. tfds waits for ever.
_TIMEOUTS = (10, 60)
# Tries again, of tfds' ten.
_RETRIES = 2
# In seconds: to wait for the first bytes, with all tries and the name server.
_PATIENCE = 45


def prepare(name: str, directory: str) -> None:
    """Download and prepare a set in this process, or raise `UsageError`."""
    import requests
    import tensorflow_datasets

    try:
        with quiet(), progress_bars(), _impatient(name):
            if name in OFFICIAL:
                # tfds unpacks these with TensorFlow; our own reader does without.
                source = _FROM_DOWNLOADS[name]
                write(name, directory, source, Path(directory, "downloads"))
            else:
                # Left alone, tfds takes what it has no checksum of as it comes.
                checked = tensorflow_datasets.download.DownloadConfig(
                    force_checksums_validation=True
                )
                tensorflow_datasets.builder(
                    name, data_dir=directory, file_format="array_record"
                ).download_and_prepare(download_config=checked)
    except UsageError:
        raise
    except requests.RequestException as error:
        raise _unreachable(name, error.request, _cause(error)) from error
    except tensorflow_datasets.download.DownloadError as error:
        raise _unreachable(name, None, one_line(error)) from error
    except ImportError as error:
        missing = error.name or "tensorflow"
        raise UsageError(
            f"tensorflow-datasets needs {missing} to prepare {name}: pip install "
            f"{missing}, and try again."
        ) from error
    # tfds and each of its sets raise what they like.
    except Exception as error:
        if match := re.match(r"Missing checksums url: (\S+), yet", str(error)):
            raise UsageError(
                f"tensorflow-datasets has no checksum of {match[1]}, so what comes "
                f"from there can't be checked: if you trust it, prepare {name} with "
                "tensorflow-datasets itself and name its folder with --data-dir."
            ) from error
        raise UsageError(
            f"tensorflow-datasets could not prepare {name} in {directory} "
            f"({type(error).__name__}: {one_line(error)})."
        ) from error


def _cifar10(manager: Any) -> Splits:
    # tfds keeps the address and the checksum of what it downloads.
    builder = _builder_class("cifar10")
    (url,) = (
        each for each in builder.url_infos if each.endswith("cifar-10-binary.tar.gz")
    )
    return read_archive("cifar10", manager.download(url), OFFICIAL["cifar10"])


def _fashion_mnist(manager: Any) -> Splits:
    address = _builder_class("fashion_mnist").URL
    urls = {
        split: tuple(f"{address}{name}.gz" for name in names)
        for split, names in IDX_FILES.items()
    }
    official = OFFICIAL["fashion_mnist"]
    splits = read_idx(manager.download(urls), official)
    for split, (images, labels) in splits.items():
        official.check(split, images, labels)
    return splits


_FROM_DOWNLOADS = {"cifar10": _cifar10, "fashion_mnist": _fashion_mnist}


@contextlib.contextmanager
def _impatient(name: str) -> Iterator[None]:
    """Give every request of this process a time limit; tfds knows none."""
    from requests.adapters import HTTPAdapter
    from tensorflow_datasets.core.download import downloader

    logging.getLogger("urllib3").setLevel(logging.ERROR)
    send: Any = HTTPAdapter.send

    def send_in_time(self, request, **options) -> Any:
        def give_up() -> None:
            processes.answer({"error": str(_unreachable(name, request, "no answer"))})
            os._exit(2)

        timer = threading.Timer(_PATIENCE, give_up)
        timer.daemon = True
        timer.start()
        try:
            return send(self, request, **(options | {"timeout": _TIMEOUTS}))
        finally:
            timer.cancel()

    with (
        # tfds' ten tries in one request, with pauses that double, take minutes.
        mock.patch.object(downloader, "MAX_RETRIES", _RETRIES),
        mock.patch.object(HTTPAdapter, "send", send_in_time),
    ):
        yield


def _unreachable(name: str, request: Any, cause: str) -> UsageError:
    host = urlsplit(request.url).hostname if request is not None else None
    more = (
        f", `kerascnn data import {name} PATH` with an archive you have, or the "
        "bundled sample, as in `kerascnn run RECIPE --data sample`"
    )
    return UsageError(
        f"{name} could not be downloaded{f' from {host}' if host else ''} ({cause}): "
        "try again later, or take a folder that holds it with --data-dir"
        f"{more if name in OFFICIAL else ''}."
    )


def _cause(error: BaseException) -> str:
    """What lies at the root: requests wraps urllib3's wrapping of the system's word."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return getattr(error, "strerror", None) or one_line(error)


def _builder_class(name: str) -> Any:
    import tensorflow_datasets

    return tensorflow_datasets.builder_cls(name)


def main() -> None:
    """Prepare the set that the command line names; answer with the error, or null."""
    processes.answers()
    try:
        prepare(*sys.argv[1:])
    except UsageError as error:
        processes.answer({"error": str(error)})
        # Threads of tfds may still be trying to download.
        os._exit(2)
    processes.answer({"error": None})


if __name__ == "__main__":
    main()
