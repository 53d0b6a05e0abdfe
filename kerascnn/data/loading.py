"""Loading a data set by name: `load`."""

import math
import os
from dataclasses import replace
from pathlib import Path

from kerascnn import UsageError, text
from kerascnn.data import image_sets, streaming
from kerascnn.data.array_files import ArrayFile
from kerascnn.data.arrays import DataSet, Split
from kerascnn.data.cache import decoded
from kerascnn.data.decoding import Form
from kerascnn.data.fetching import get
from kerascnn.data.folders import SAMPLES, check_known, data_directory, prepared
from kerascnn.data.image_sets import ImageFiles
from kerascnn.data.listing import SHARE_WORDS

Folder = str | os.PathLike | None

CHOICES = ("auto", "full", "sample")

# Sets of large images have no sample of their own: whose stands in, to try a recipe.
_STAND_INS = {"imagenette": "cifar10"}


def load(
    name: str,
    data: str = "auto",
    data_dir: Folder = None,
    cache_dir: Folder = None,
    image_size: tuple[int, int] | None = None,
    skip_bad: bool = False,
    channels: int | None = None,
    exact: bool = False,
    stream: bool | None = False,
) -> DataSet:
    """Load an image classification set as uint8 arrays, decoded once into a cache.

    `name` is a set of tensorflow-datasets, or the path of a folder of images, of a CSV
    or Parquet of paths and labels, or of an .npz: it begins with `/`, `.` or `~`, or
    ends as such a file's name. "auto" takes the full set if it is prepared on this
    machine, else the bundled sample, and never touches the network; "full" fetches the
    full set if need be; "sample" takes the sample. Images are brought to `image_size`,
    height and width, and to 1 or 3 `channels`, where the set does not promise one size
    for all, and everywhere with `exact`. With `skip_bad` files of the user's own that
    can't be used are left out and counted. With `stream` images of files are decoded
    when they are asked for, and no cache is written; `None` does so where the memory
    of the machine does not hold them twice, and says so. An .npz is read whole.
    """
    check(name, data, data_dir, skip_bad)
    form = Form(image_size, channels, exact)
    if is_path(name):
        return _from_images(name, cache_dir, form, skip_bad, stream)
    if data != "sample":
        folder = prepared(name, data_dir)
        if folder is not None:
            return _from_folder(folder, cache_dir, form, stream=stream)
        if data == "full":
            return _from_folder(get(name, data_dir), cache_dir, form, stream=stream)
    # Only for who brings images to a size anyway.
    stand_in = _STAND_INS.get(name) if image_size else None
    sample = prepared(stand_in or name, SAMPLES)
    if sample is None:
        raise _nothing_here(name, data, data_dir)
    if data == "auto" and data_dir is not None:
        # The user says where the data are: to train on others would be a surprise.
        raise UsageError(
            f"{name} is not prepared in {data_directory(data_dir)}: pass the folder "
            "that holds it, fetch it there with `kerascnn data get "
            f"{name} --data-dir {data_dir}`, or take the sample with --data sample."
        )
    loaded = _from_folder(sample, cache_dir, form, stream=stream)
    missing = f", not in {data_directory()}" if data == "auto" else ""
    instead = f" instead of {name}, which has none" if stand_in else ""
    notice = (
        f"{loaded.name}: the bundled sample{instead}, {len(loaded.train):,} training "
        f"and {len(loaded.test):,} test images; expect results below the full set's.\n"
        f"The full set{missing}: kerascnn data get {name}"
    )
    return replace(loaded, sample=True, source="bundled sample", notice=notice)


def check(
    name: str, data: str = "auto", data_dir: Folder = None, skip_bad: bool = False
) -> None:
    """Check what `load` is asked for, as far as that shows without reading a set.

    Raises:
        UsageError: There is no such set, or options contradict each other.
    """
    text.choose(data, CHOICES, "choice of data")
    if is_path(name):
        image_sets.check(name)
        for option, given in (
            ("data", data != "auto" and data),
            ("data-dir", data_dir),
        ):
            if given:
                raise UsageError(
                    f"--{option} {given} is for the sets of tensorflow-datasets, and "
                    f"{name} is a path: leave one of them out."
                )
        return
    if skip_bad:
        raise UsageError(
            f"bad files are left out (skip_bad) of images of your own, and {name} is "
            "a set of tensorflow-datasets: leave the option out."
        )
    if data == "sample" and data_dir is not None:
        raise UsageError(
            f"--data-dir {data_dir} says where full sets lie, and the sample comes "
            "with the package: leave out --data-dir or --data sample."
        )
    if not prepared(name, data_dir) and not prepared(name, SAMPLES):
        check_known(name)


def _from_images(
    name: str, cache_dir: Folder, form: Form, skip_bad: bool, stream: bool | None
) -> DataSet:
    """Load images of the user's own; say which are tested on and which not used."""
    images = image_sets.opened(name, skip_bad)
    loaded = _from_folder(images.folder, cache_dir, form, images, stream)
    notice = told = (
        f"{loaded.name}: {len(loaded.train):,} training and {len(loaded.test):,} test "
        f"images, from {loaded.source}"
    )
    if images.held_out:
        notice += (
            f"; nothing there says which are test images, so {SHARE_WORDS} of each "
            "class is, chosen by the images' pixels: images added later move none"
        )
    if images.unused:
        notice += f"; not used: {images.unused}"
    if images.passed_over:
        notice += f"; passed over: {images.passed_over}"
    if loaded.skipped:
        many = f"{loaded.skipped:,} file{'s' * (loaded.skipped > 1)}"
        command = f"`kerascnn data check {images.folder}`"
        notice += (
            f"; left out, because they can't be used: {many}, which {command} names"
        )
    if images.doubt:
        notice += f"; {images.doubt}"
    if notice != told:
        more = f"\n{loaded.notice}" if loaded.notice else ""
        return replace(loaded, notice=f"{notice}.{more}")
    return loaded


def is_path(name: str) -> bool:
    """Whether a data set's name is the path of images of the user's own."""
    return (
        name.startswith((".", "~"))
        or name.lower().endswith(image_sets.ENDINGS)
        or Path(name).is_absolute()
    )


def _from_folder(
    folder: Path,
    cache_dir: Folder,
    form: Form,
    own: ImageFiles | ArrayFile | None = None,
    stream: bool | None = False,
) -> DataSet:
    large = _large(folder, form, own, stream)
    if (stream or large) and not isinstance(own, ArrayFile):
        loaded = streaming.files(own, form) if own else streaming.prepared(folder, form)
        if large:
            return replace(loaded, notice=f"{large}: they are read as a stream.")
        return loaded
    record, arrays = decoded(folder, cache_dir, form, own)
    train = Split(arrays["train_images"], arrays["train_labels"])
    test = Split(arrays["test_images"], arrays["test_labels"])
    notice = None
    if record.get("held_out") is True:
        notice = streaming.held_out(record["name"], record["version"], train, test)
    return DataSet(
        name=record["name"],
        classes=tuple(record["classes"]),
        train=train,
        test=test,
        sample=False,
        source=str(folder),
        version=record["version"],
        hash=record["hash"],
        notice=notice,
        skipped=len(record.get("skipped", ())),
        brought=_brought(record.get("changed", {}), arrays["train_images"].shape),
    )


def _large(
    folder: Path,
    form: Form,
    own: ImageFiles | ArrayFile | None,
    stream: bool | None,
) -> str | None:
    """Say how large a set is that memory does not hold; `None` of others.

    Raises:
        UsageError: Memory does not hold it, and `stream` says that it must.
    """
    if stream or not hasattr(os, "sysconf"):
        return None
    number, shape = streaming.extent(folder, form, own)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = number * math.prod(shape)
    said = (
        f"{number:,} images of {' x '.join(map(str, shape))} take {text.size(needed)}, "
        f"and this machine has {text.size(memory)} of memory"
    )
    # As an engine that keeps the images on the device asks for.
    if stream is None and 2 * needed > memory and not isinstance(own, ArrayFile):
        return said
    if own and needed > memory:
        raise UsageError(
            f"{said}: a set is held in memory whole, so take a smaller size of image, "
            "or on JAX read the images as a stream, as `kerascnn run RECIPE --engine "
            "stream` does."
        )
    return None


def _brought(changed: dict[str, int], shape: tuple[int, ...]) -> str | None:
    """Say how images were brought to one form, and how many."""
    said = []
    if many := changed.get("scaled"):
        said.append(
            f"{many:,} image{'s' * (many > 1)} of another size: cut to the centre and "
            f"scaled to {shape[1]} x {shape[2]} pixels"
        )
    if many := changed.get("grey"):
        said.append(f"{many:,} in colour: made grey")
    return f"{'; '.join(said)}." if said else None


def _nothing_here(name: str, data: str, data_dir: Folder) -> UsageError:
    where = "has no bundled sample" + (
        ""
        if data == "sample"
        else f" and is not prepared in {data_directory(data_dir)}"
    )
    return UsageError(
        f"{name} {where}: fetch the full set with `kerascnn data get {name}` and take "
        "it with --data full, or name the folder that holds it with --data-dir."
    )
