"""Load a saved model without trusting the file.

A `.keras` file is a zip of two JSON files and one HDF5 file. Keras's `safe_mode` stops
pickled code, and has had holes: classes that run or fetch something when they are
built, weights that are links to other files, a few bytes that unfold to terabytes. So
nothing is left to it here: the file is looked through before Keras opens it, and only
the layers that an image classifier is made of are let through.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kerascnn import UsageError, shapes, spare_tensorflow

if TYPE_CHECKING:
    import keras

MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
# A description of a network; VGG16's has 30 kB.
LARGEST_JSON = 16 << 20
LARGEST_FILE = 8 << 30

# The classes that a model may be made of, by the module that its file names.
CLASSES = {
    None: {"__keras_tensor__"},
    "keras": {"DTypePolicy", "Sequential"},
    "keras.layers": {
        *("Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization"),
        *("CenterCrop", "Concatenate", "Conv2D", "Cropping2D", "Dense"),
        *("DepthwiseConv2D", "Dropout", "ELU", "Flatten", "GlobalAveragePooling2D"),
        *("GlobalMaxPooling2D", "GroupNormalization", "Identity", "InputLayer"),
        *("LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Multiply"),
        *("Normalization", "PReLU", "Permute", "ReLU", "Rescaling", "Reshape"),
        *("Resizing", "SeparableConv2D", "Softmax", "SpatialDropout2D", "Subtract"),
        *("UpSampling2D", "ZeroPadding2D"),
    },
    "keras.initializers": {
        *("Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform"),
        *("LecunNormal", "LecunUniform", "Ones", "Orthogonal", "RandomNormal"),
        *("RandomUniform", "TruncatedNormal", "VarianceScaling", "Zeros"),
    },
    "keras.regularizers": {"L1", "L2", "L1L2"},
    "keras.src.models.functional": {"Functional"},
    "keras.src.models.sequential": {"Sequential"},
    "keras.src.ops.numpy": {"Hypot", "Pad"},
}


def load_model(path: Path | str) -> keras.Model:
    """Load a `.keras` file that holds a plain image classifier and nothing else.

    Args:
        path: The file, as a run leaves it.

    Returns:
        The model, not compiled.

    Raises:
        UsageError: It is no such file, or it holds something that such a model has no
            use for.

    Example:
        >>> model = load_model("runs/fashion_mlp/20261124-101500/model.keras")
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            parameters = _check(archive)
    except _RefusedError as reason:
        raise _refused(path, reason) from reason
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}.") from error
    except (*_BROKEN, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} is not a whole .keras file ({_line(error)}); other formats, such "
            "as .h5, can hold code and are not read."
        ) from error
    spare_tensorflow()
    import keras

    try:
        model: Any = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever else is wrong with it
        raise UsageError(f"Keras can't load {path}: {_line(error)}") from error
    if sum(math.prod(weight.shape) for weight in model.weights) > parameters:
        raise _refused(path, "its model has more weights than the file")
    return model


class _RefusedError(Exception):
    pass


def _refused(path: Path, reason: object) -> UsageError:
    return UsageError(
        f"{path} is refused: {reason}. Open it with keras.saving.load_model only if "
        "you trust who made it."
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


# What reading a file that was cut, or written by nobody, may raise.
_BROKEN = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(RuntimeError, EOFError),  # h5py's own; deep JSON's RecursionError is one too
)


def _check(archive: zipfile.ZipFile) -> int:
    """Look through the file; return how many numbers its weights have."""
    names = [member.filename for member in archive.infolist()]
    if strange := [name for name in names if name not in MEMBERS]:
        raise _RefusedError(f"it holds {strange[0]!r}, and a model has no use for it")
    if sorted(names) != sorted(MEMBERS):
        raise _RefusedError(
            f"it holds {', '.join(names)} instead of {', '.join(sorted(MEMBERS))}"
        )
    for member in archive.infolist():
        if member.flag_bits & 1:
            raise _RefusedError(f"{member.filename} is encrypted")
        # Keras stores them as they are; what unfolds may be a bomb.
        if member.compress_type != zipfile.ZIP_STORED or (
            member.file_size != member.compress_size
        ):
            raise _RefusedError(f"{member.filename} is compressed")
        limit = LARGEST_JSON if member.filename.endswith("json") else LARGEST_FILE
        if member.file_size > limit:
            raise _RefusedError(f"{member.filename} has {member.file_size} bytes")
    config = json.loads(archive.read("config.json"))
    _check_classes(config)
    with archive.open("model.weights.h5") as file:
        stored = _check_weights(file, archive.getinfo("model.weights.h5").file_size)
    try:
        declared = _parameters(config)
    except Exception as error:  # Keras's own code, on a description of any kind
        raise _RefusedError(
            f"Keras can't make what it describes ({_line(error)})"
        ) from error
    if declared > stored:
        raise _RefusedError(
            f"its layers have {declared:,} weights, and the file has {stored:,} numbers"
        )
    return stored


def _check_classes(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check_classes(item)
    if not isinstance(value, dict):
        return
    if "class_name" in value:
        module, name = value.get("module"), value["class_name"]
        if not isinstance(name, str) or name not in CLASSES.get(module, set()):
            raise _RefusedError(
                f"it is made of {module}.{name}, which is not known here"
            )
        # What a name was registered as would win over the module.
        if value.get("registered_name") not in (None, name):
            raise _RefusedError(f"it calls {name} {value['registered_name']!r}")
    for item in value.values():
        _check_classes(item)


def _check_weights(file: IO[bytes], size: int) -> int:
    """Look through HDF5 without reading any weights; return how many there are."""
    import h5py
    from h5py import h5o  # type: ignore[attr-defined] # compiled, without types

    numbers = stored = 0
    visited = set()

    def check(group: Any) -> None:
        nonlocal numbers, stored
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _RefusedError(f"its weights {name!r} are a link to elsewhere")
            item = group[name]
            # One dataset under many names would count many times, and a group inside
            # itself would never end.
            address = h5o.get_info(item.id).addr
            if address in visited:
                raise _RefusedError(f"its weights {name!r} have another name too")
            visited.add(address)
            if isinstance(item, h5py.Group):
                check(item)
                continue
            if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
                raise _RefusedError(f"its weights {name!r} lie in another file")
            if item.dtype.kind not in "biufV" or item.dtype.hasobject:
                raise _RefusedError(f"its weights {name!r} are {item.dtype}")
            numbers += math.prod(item.shape)
            stored += item.nbytes
            # What is not stored as it is may be a bomb.
            if stored > size or item.id.get_storage_size() != item.nbytes:
                raise _RefusedError(
                    f"its weights {name!r} claim to be {item.nbytes} bytes"
                )

    with h5py.File(file, "r") as weights:
        visited.add(h5o.get_info(weights.id).addr)
        check(weights)
    return numbers


def _parameters(config: dict[str, Any]) -> int:
    """Count the weights of the network that a file describes, without making any."""
    spare_tensorflow()
    import keras

    model = shapes.without_weights(
        lambda: keras.saving.deserialize_keras_object(
            config | {"compile_config": None}, safe_mode=True
        )
    )
    return sum(math.prod(weight.shape) for weight in model.weights)
