"""A run's model written in another format, checked on real images, and described."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn import UsageError, data
from kerascnn.data import decoding
from kerascnn.page import evidence, looking
from kerascnn.prediction.shipped import Shipped
from kerascnn.process import settings
from kerascnn.process.backend import installed
from kerascnn.text import install, one_line

if TYPE_CHECKING:
    from kerascnn.runs import Run

IMAGES = 64  # are compared
TOLERANCE = 1e-4  # of the logits' differences, relative where logits are above 1
# By format: how its file's name ends.
ENDINGS = {
    "keras": ".keras",
    "onnx": ".onnx",
    "stablehlo": ".stablehlo",
    "savedmodel": "-savedmodel",
    "litert": ".tflite",
    "torch": "_torch.py",
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written, and how far its logits are from Keras's on the images."""

    file: Path
    description: Path
    images: int
    difference: float


def export(run: Run, to: str, out: Path | None = None) -> Exported:
    """Write a run's model in another format, and a JSON file that describes it.

    The file takes raw images, uint8 `(n, height, width, channels)` of any n, to logits;
    it is run on real images, and gets its name only then. PyTorch's tensors lie in a
    file of their own beside it.

    Args:
        run: A run with a model.
        to: One of `ENDINGS`.
        out: The file, or the folder of a SavedModel; by default in the run's folder,
            and of a network that comes with the package in the present one.

    Raises:
        UsageError: A layer has no mapping, a package is missing, the file exists or
            can't be written, or its logits differ from Keras's. Nothing is written.
    """
    model = run.model()
    file = out or default(run, to)
    # The run's own file is described where it is.
    own = file == run.folder / "model.keras" and file.exists()
    described = file.with_name(file.name + ".json")
    for each in () if own else _files(to, file):
        if each.exists():
            raise UsageError(f"{each} exists: name another file with --out.")
    if not file.parent.is_dir():
        raise UsageError(f"--out {file}: there is no folder {file.parent}; make it.")
    images = _images(run)
    try:
        # Beside the file, so that a name is all that is left to be given.
        with (
            settings.keras_defaults(),
            tempfile.TemporaryDirectory(prefix=".export-", dir=file.parent) as folder,
        ):
            partial = Path(folder) / file.name
            expected = looking.logits(model, images)
            found = expected if own else _WRITERS[to](run, model, partial, images)
            difference = _difference(to, found, expected)
            text = _description(run, model, to, len(images), difference)
            written = Path(folder) / described.name
            written.write_text(json.dumps(text, indent=2) + "\n", "utf-8")
            # The description last: where it is, the rest is whole.
            for each in () if own else reversed(_files(to, file)[:-1]):
                (Path(folder) / each.name).replace(each)
            written.replace(described)
    except OSError as error:
        raise UsageError(
            f"{file} can't be written: {error.strerror or error}."
        ) from error
    return Exported(file, described, len(images), difference)


def default(run: Run, to: str) -> Path:
    """Return the file that an export writes where none is named."""
    if isinstance(run, Shipped):  # nothing is written into the package
        return Path(f"{run.folder.name}{ENDINGS[to]}")
    return run.folder / f"model{ENDINGS[to]}"


def _images(run: Run) -> np.ndarray:
    """Return real images of the kind that a run was evaluated on."""
    if isinstance(run, Shipped):  # the bundled ones, where the set is not here
        recorded = run.config["data"]
        size = tuple(recorded["image"][:2])
        images = data.load(recorded["name"], image_size=size).test.images
    else:
        images = evidence.evaluated_images(run).images
    return np.asarray(images[:IMAGES])


def _files(to: str, file: Path) -> list[Path]:
    """Return the files that an export writes."""
    tensors = [file.with_suffix(".safetensors")] * (to == "torch")
    return [file, *tensors, file.with_name(file.name + ".json")]


def _difference(to: str, found: np.ndarray, expected: np.ndarray) -> float:
    """Return how far logits are from Keras's; `UsageError` where that is too far."""
    scale = max(1.0, float(abs(expected).max()))
    difference = float(abs(found - expected).max()) / scale
    if not difference <= TOLERANCE:
        raise UsageError(
            f"{to}: the logits of {len(expected)} images differ from Keras's by "
            f"{difference:.1e}, where {TOLERANCE:.0e} is allowed; nothing is kept."
        )
    return difference


def _description(
    run: Run, model: Any, to: str, images: int, difference: float
) -> dict[str, Any]:
    config, result = run.config, run.result
    weights = b"".join(np.ascontiguousarray(w).tobytes() for w in model.get_weights())
    return {
        "recipe": config["recipe"],
        "classes": config["data"]["classes"],
        "input": {
            "name": "image",
            "dtype": "uint8",
            "shape": ["n", *model.input_shape[1:]],
            "preprocessing": "none: raw pixels, channels last; the model does the rest",
            "of_files": decoding.made_of_files(model.input_shape[1:]),
        },
        "output": {"name": "logits", "dtype": "float32", "shape": ["n", "classes"]},
        "test_accuracy": result.get("test_accuracy"),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "format": to,
        "checked": {"images": images, "largest_difference": difference},
    }


def need_onnx(what: str) -> None:
    """Raise `UsageError` where ONNX files can't be written and run back."""
    _need(what, "onnx", "onnx", "onnxruntime")


def _need(what: str, extra: str, *packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"{what} needs {package}, which is not installed: {install(extra)}."
            )


def _parts(images: np.ndarray) -> list[np.ndarray]:
    """Cut images into batches of several sizes, the last of them of one image."""
    cut = np.split(images, [min(7, len(images) - 1), len(images) - 1])
    return [part for part in cut if len(part)]


def _keras(run: Run, model: Any, file: Path, images: np.ndarray) -> np.ndarray:
    import keras

    if file.suffix != ".keras":
        raise UsageError(f"--out {file.name}: a Keras model's file ends in .keras.")
    model.save(file)
    return looking.logits(keras.saving.load_model(file), images)


def _onnx(run: Run, model: Any, file: Path, images: np.ndarray) -> np.ndarray:
    need_onnx("--to onnx")
    from kerascnn.export import onnx_graph

    content = onnx_graph.of_model(model).SerializeToString()
    file.write_bytes(content)
    return by_onnxruntime(content, images)


def by_onnxruntime(content: bytes, images: np.ndarray) -> np.ndarray:
    """Return the logits that onnxruntime computes of raw images."""
    import onnxruntime

    from kerascnn.export import onnx_graph

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = [
        session.run([onnx_graph.LOGITS], {onnx_graph.IMAGE: x})[0]
        for x in _parts(images)
    ]
    return np.concatenate([np.asarray(each) for each in found])


def _stablehlo(run: Run, model: Any, file: Path, images: np.ndarray) -> np.ndarray:
    import keras

    if keras.backend.backend() != "jax":
        raise UsageError("--to stablehlo is written by JAX: set KERAS_BACKEND=jax.")
    import jax
    from jax import export as exporting

    def logits(batch: Any) -> Any:
        return model(batch, training=False).astype("float32")

    (number,) = exporting.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((number, *images.shape[1:]), "uint8")
    platforms = ("cpu", "cuda", "rocm", "tpu")
    made = exporting.export(jax.jit(logits), platforms=platforms)(shape)
    file.write_bytes(made.serialize())
    read = exporting.deserialize(bytearray(file.read_bytes()))
    return np.concatenate([np.asarray(read.call(images[:7])), read.call(images[7:])])


_TENSORFLOW = """
import sys
import keras, numpy as np
kind, model, out, images, found = sys.argv[1:]
model = keras.saving.load_model(model)
images = np.load(images)
model(images[:1])
model.export(out, format=kind, verbose=False)
import tensorflow as tf
if kind == "tf_saved_model":
    read = tf.saved_model.load(out)  # whose variables live as long as it does
    logits = np.asarray(read.serve(tf.constant(images)))
else:
    reader = tf.lite.Interpreter(model_path=out)
    place = reader.get_input_details()[0]["index"]
    rows = []
    for image in images:
        reader.resize_tensor_input(place, (1, *image.shape))
        reader.allocate_tensors()
        reader.set_tensor(place, image[None])
        reader.invoke()
        rows.append(reader.get_tensor(reader.get_output_details()[0]["index"]).copy())
    logits = np.concatenate(rows)
np.save(found, logits)
"""


def _tensorflow(
    to: str, kind: str, run: Run, model: Any, file: Path, images: np.ndarray
) -> np.ndarray:
    """Have TensorFlow write the file, in a process of its own."""
    if "tensorflow" not in installed():
        raise UsageError(
            f"--to {to} is written by TensorFlow, which is not installed: "
            f"{install('tensorflow')}."
        )
    if to == "litert" and file.suffix != ".tflite":
        raise UsageError(f"--out {file.name}: a LiteRT model's file ends in .tflite.")
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model.keras"
        model.save(saved)
        words = [kind, str(saved), str(file)]
        return _elsewhere(to, "TensorFlow", _TENSORFLOW, words, images)


def _elsewhere(
    to: str, whose: str, program: str, words: list[str], images: np.ndarray
) -> np.ndarray:
    """Run a program in a process of its own, which writes the logits of images."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "images.npy", Path(folder) / "logits.npy"
        np.save(given, images)
        done = subprocess.run(
            [sys.executable, "-c", program, *words, str(given), str(found)],
            env={**os.environ, "KERAS_BACKEND": "tensorflow"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if not found.exists():
            why = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
            raise UsageError(f"--to {to}: {whose}: {one_line(ValueError(why))}")
        return np.load(found)


_TORCH = """
import importlib.util
import sys
import numpy as np
import torch
file, images, found = sys.argv[1:]
spec = importlib.util.spec_from_file_location("exported", file)
exported = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exported)
network = exported.load()
images = torch.from_numpy(np.load(images))
with torch.no_grad():
    parts = images[:1], images[1:8], images[8:]
    logits = torch.cat([network(part) for part in parts if len(part)])
foreign = {"keras", "kerascnn", "jax", "tensorflow"} & {*sys.modules}
if foreign:
    sys.exit(f"the file imports {', '.join(foreign)}")
np.save(found, logits.numpy())
"""


def _torch(run: Run, model: Any, file: Path, images: np.ndarray) -> np.ndarray:
    """Write a module and its tensors, and have PyTorch run them by themselves."""
    _need("--to torch", "torch", "torch")
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UsageError(
            f"--out {file.name}: a Python module's file has a name of letters, digits "
            "and underscores, and ends in .py."
        )
    from safetensors.numpy import save_file

    from kerascnn.export import torch_module

    names = [*run.config["data"]["classes"]]
    names += [f"unused {n}" for n in range(len(names), model.output_shape[-1])]
    text, tensors = torch_module.of_model(
        model, run.config["recipe"], names, stem=file.stem
    )
    file.write_text(text, "utf-8")
    beside = file.with_suffix(".safetensors")
    save_file(tensors, beside, {"format": "pt"})
    beside.chmod(file.stat().st_mode)  # which safetensors keeps to the owner
    return _elsewhere("torch", "PyTorch", _TORCH, [str(file)], images)


_WRITERS: dict[str, Callable[..., np.ndarray]] = {
    "keras": _keras,
    "onnx": _onnx,
    "stablehlo": _stablehlo,
    "savedmodel": functools.partial(_tensorflow, "savedmodel", "tf_saved_model"),
    "litert": functools.partial(_tensorflow, "litert", "litert"),
    "torch": _torch,
}
