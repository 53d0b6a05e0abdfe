"""A run's model written in another format, checked on real images, and described."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn import UsageError
from kerascnn.page import evidence, looking
from kerascnn.process import settings
from kerascnn.process.backend import installed
from kerascnn.text import one_line

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
    it is run on real images before it is kept.

    Args:
        run: A run with a model.
        to: One of `ENDINGS`.
        out: The file, or the folder of a SavedModel; by default in the run's folder.

    Raises:
        UsageError: A layer has no mapping, a package is missing, the file exists or
            can't be written, or its logits differ from Keras's.
    """
    model = run.model()
    file = out or run.folder / f"model{ENDINGS[to]}"
    own = to == "keras" and out is None
    if file.exists() and not own:
        raise UsageError(f"{file} exists: name another file with --out.")
    if not file.parent.is_dir():
        raise UsageError(f"--out {file}: there is no folder {file.parent}; make it.")
    images = np.asarray(evidence.evaluated_images(run).images[:IMAGES])
    with settings.keras_defaults():
        expected = looking.logits(model, images)
        try:
            found = expected if own else _WRITERS[to](run, model, file, images)
        except OSError as error:
            raise UsageError(f"{file} can't be written: {error.strerror}.") from error
    scale = max(1.0, float(abs(expected).max()))
    difference = float(abs(found - expected).max()) / scale
    if not difference <= TOLERANCE:
        _remove(file)
        raise UsageError(
            f"{to}: the logits of {len(images)} images differ from Keras's by "
            f"{difference:.1e}, where {TOLERANCE:.0e} is allowed; nothing is kept."
        )
    described = file.with_name(file.name + ".json")
    text = json.dumps(_description(run, model, to, len(images), difference), indent=2)
    described.write_text(text + "\n", "utf-8")
    return Exported(file, described, len(images), difference)


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
        },
        "output": {"name": "logits", "dtype": "float32", "shape": ["n", "classes"]},
        "test_accuracy": result.get("test_accuracy"),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "format": to,
        "checked": {"images": images, "largest_difference": difference},
    }


def _remove(file: Path) -> None:
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


def need_onnx(what: str, extra: str = "onnx") -> None:
    """Raise `UsageError` where ONNX files can't be written and run back."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"{what} needs {package}, which is not installed: pip install "
                f"'kerascnn[{extra}]'."
            )


def _keras(run: Run, model: Any, file: Path, images: np.ndarray) -> np.ndarray:
    import keras

    if file.suffix != ".keras":
        raise UsageError(f"--out {file}: a Keras model's file ends in .keras.")
    shutil.copyfile(run.folder / "model.keras", file)
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
    # In batches of several sizes, the last of them of one image.
    parts = np.split(images, [min(7, len(images) - 1), len(images) - 1])
    found = [
        session.run([onnx_graph.LOGITS], {onnx_graph.IMAGE: x})[0]
        for x in parts
        if len(x)
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
kind, model, images, out, found = sys.argv[1:]
model = keras.saving.load_model(model)
images = np.load(images)
model(images[:1])
model.export(out, format=kind, verbose=False)
import tensorflow as tf
if kind == "tf_saved_model":
    logits = tf.saved_model.load(out).serve(tf.constant(images))
    logits = np.asarray(logits)
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
            f"--to {to} is written by TensorFlow, which is not installed: pip install "
            "'kerascnn[tensorflow]'."
        )
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "images.npy", Path(folder) / "logits.npy"
        np.save(given, images)
        words = [kind, str(run.folder / "model.keras"), str(given), str(file)]
        done = subprocess.run(
            [sys.executable, "-c", _TENSORFLOW, *words, str(found)],
            env={**os.environ, "KERAS_BACKEND": "tensorflow"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if not found.exists():
            why = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
            raise UsageError(f"--to {to}: TensorFlow: {one_line(ValueError(why))}")
        return np.load(found)


_WRITERS: dict[str, Callable[..., np.ndarray]] = {
    "keras": _keras,
    "onnx": _onnx,
    "stablehlo": _stablehlo,
    "savedmodel": functools.partial(_tensorflow, "savedmodel", "tf_saved_model"),
    "litert": functools.partial(_tensorflow, "litert", "litert"),
}
