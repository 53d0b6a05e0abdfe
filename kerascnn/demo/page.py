"""The page of `kerascnn demo`: one HTML file with a network, and what runs it.

Its content security policy lets it connect to nothing and run nothing but its own
script, which it names by hash; `'wasm-unsafe-eval'` lets that compile WebAssembly, and
no JavaScript. The page brings images to the network's size as `kerascnn predict` does,
and the graph takes raw pixels, so that the probabilities are the same.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from kerascnn import UsageError, __version__, data, text
from kerascnn.data import usual
from kerascnn.export import formats
from kerascnn.page import document, evidence, findings, looking, pictures
from kerascnn.page.findings import Outcome
from kerascnn.prediction.predictor import Predictor
from kerascnn.prediction.shipped import Shipped
from kerascnn.process import settings

if TYPE_CHECKING:
    from kerascnn.runs import Run

NAME = "demo.html"
MOST = 300_000_000  # bytes of a compressed network: browsers hold no longer text
SAMPLES = 10  # images that the network gets right, and as many that it gets wrong
_FOLDER = Path(__file__).parent
_RUNTIME = _FOLDER / "onnxruntime_web"
_SCRIPTS = ("network", "images", "answer", "occlusion", "maps", "ways")
_OURS = '<meta name="generator" content="kerascnn demo">'


def write(run: Run, path: Path | None = None) -> Path:
    """Write the page of a run's network.

    Args:
        run: A run that has ended, or one that comes with the package.
        path: Where to; by default `demo.html` in the run's folder, and for a network
            that comes with the package in the current folder.

    Returns:
        The file.

    Raises:
        UsageError: A package is missing, a layer has no mapping to ONNX, the run has
            no model yet or its data are gone, or the file can't be written or is none
            of ours.
    """
    folder = Path() if isinstance(run, Shipped) else run.folder
    path = path or folder / NAME
    if path.exists() and not _is_ours(path):
        raise UsageError(f"{path} is no page of this command: name another with --out.")
    return document.save(render(run), path)


def render(run: Run) -> str:
    """Return the page's HTML."""
    formats.need_onnx("kerascnn demo")
    from kerascnn.demo import graph

    predictor = Predictor(run)
    if None in predictor.shape:
        raise UsageError(
            f"{run.folder} takes images of any size, and the page shows one: train "
            "with a recipe whose network has a size."
        )
    content, stages = graph.of_model(predictor.model)
    packed = gzip.compress(content, 9, mtime=0)
    if len(packed) > MOST:
        raise UsageError(
            f"the network takes {text.size(len(packed))}, and browsers open no page of "
            "that size: `kerascnn export RUN --to onnx` writes a file of its own."
        )
    outcome, matrix = _tested(predictor)
    _check(predictor, content, outcome.images[: formats.IMAGES])
    config = run.config
    height, width, channels = predictor.shape
    weights = [np.asarray(w) for w in predictor.model.trainable_weights]
    right, number = int(np.trace(matrix)), int(matrix.sum())
    held_out = bool(config.get("validation"))
    page = {
        "classes": predictor.classes,
        "shape": predictor.shape,
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "matrix": matrix.tolist(),
        "usual": config["data"].get("usual") or {},
        "said": usual.SAID,
    }
    style = document.style() + (_FOLDER / "templates/demo.css").read_text("utf-8")
    script = _script()
    return (
        document.environment(_FOLDER / "templates")
        .get_template("demo.html")
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=document.policy(style, script, "'wasm-unsafe-eval'"),
            sheets=[],
            ours=Markup(_OURS),
            name=config["recipe"],
            set=config["data"]["name"],
            classes=predictor.classes,
            size=(height, width),
            grey=channels == 1,
            accuracy=right / number,
            number=number,
            evaluated="held-out images" if held_out else "test images",
            partial=config["data"]["sample"] or "limit" in config["overrides"],
            parameters=sum(w.size for w in weights),
            samples=_samples(outcome),
            has_maps=bool(stages),
            page=page,
            network=base64.b64encode(packed).decode(),
            runtime=base64.b64encode(
                (_RUNTIME / "ort-wasm-simd-threaded.wasm.gz").read_bytes()
            ).decode(),
            licence=(_RUNTIME / "LICENSE").read_text("utf-8"),
            version=__version__,
        )
    )


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _OURS.encode() in file.read(1 << 16)
    except OSError:
        return False


def _tested(predictor: Predictor) -> tuple[Outcome, np.ndarray]:
    """Return evaluated images with the model's answers, and the confusion matrix.

    A network that comes with the package brings the matrix of the whole test set, which
    may be on no disk here; the images are the bundled ones.
    """
    run = predictor.run
    if not isinstance(run, Shipped):
        outcome = evidence.outcome_of(run)
        return outcome, findings.confusion(outcome)
    split = data.load(run.config["data"]["name"], "sample").test
    labels = np.asarray(split.labels)
    probabilities = predictor.probabilities(split.images)
    outcome = Outcome(split.images, labels, probabilities, predictor.classes)
    return outcome, np.array(run.result["confusion"])


def _check(predictor: Predictor, content: bytes, images: np.ndarray) -> None:
    """Raise `UsageError` where the graph's logits are not Keras's."""
    with settings.keras_defaults():
        expected = looking.logits(predictor.model, images)
    found = formats.by_onnxruntime(content, np.asarray(images))
    difference = abs(found - expected).max() / max(1.0, abs(expected).max())
    if not difference <= formats.TOLERANCE:
        raise UsageError(
            f"the page's logits would differ from Keras's by {difference:.1e}, where "
            f"{formats.TOLERANCE:.0e} is allowed: nothing is written."
        )


def _samples(outcome: Outcome) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return test images to click: surely right ones, and mistakes, a class's turn."""
    wrong = findings.mistakes(outcome, len(outcome))
    turns = [
        int((outcome.labels[wrong[:n]] == outcome.labels[i]).sum())
        for n, i in enumerate(wrong)
    ]
    wrong = wrong[np.argsort(turns, kind="stable")][:SAMPLES]
    groups = {
        "It gets these right": findings.surest(outcome, SAMPLES),
        "It gets these wrong": wrong,
    }
    return [
        (
            title,
            [
                {
                    "truth": int(outcome.labels[i]),
                    "says": outcome.classes[outcome.labels[i]],
                    "picture": pictures.png(np.asarray(outcome.images[i])),
                }
                for i in sorted(index, key=lambda i: outcome.labels[i])
            ],
        )
        for title, index in groups.items()
        if len(index)
    ]


def _script() -> str:
    """Return the page's module: the runtime, and in a block of its own our script."""
    runtime = (_RUNTIME / "ort.wasm.bundle.min.mjs").read_text("utf-8")
    # What follows the names names a file of npm's package for debuggers.
    runtime, _, exported = runtime.partition("export{")
    pairs = re.findall(r"(\w+) as (\w+)", exported.partition("}")[0])
    names = ",".join(f"{name}:{local}" for local, name in pairs if name != "default")
    ours = "\n".join(
        (_FOLDER / "templates" / f"{name}.js").read_text("utf-8") for name in _SCRIPTS
    )
    return f"{runtime}\nconst onnxruntime = {{{names}}};\n{{\n{ours}}}\n"
