"""What the goldens hold, and the command that makes them anew: see test_goldens.py.

python -m tests.goldens.make
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

# As for the tests: the number of devices decides what XLA compiles.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

import kerascnn  # noqa: F401 - chooses the Keras backend before anything imports keras

FOLDER = Path(__file__).parent

# The networks whose compiled training step is kept.
STEPS = (
    *("cifar_relu_9", "cifar_vgg_aug", "cifar_conv"),
    *("fashion_lenet", "fashion_stride", "fashion_mlp"),
)
# The runs whose weights are kept: the recipe's name (`small` is below), its options.
RUNS = {
    "fashion_mlp": ["--batch-size", "128", "--limit", "640"],
    "fashion_lenet": ["--batch-size", "64", "--limit", "320"],
    "small": ["--batch-size", "128", "--limit", "256"],
}
ENGINES = ("epoch", "fit")


def key() -> str:
    """Return what the bits and the code of a compiled step depend on, here."""
    import jax
    import jaxlib
    import keras

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return (
        f"jaxlib {jaxlib.__version__}, keras {keras.__version__}, {processor()}, "
        f"{jax.device_count()} devices, {cores or os.cpu_count()} cores"
    )


def processor() -> str:
    """Return the processor's class, as LLVM tells them apart.

    On Linux these are its vendor, family, model and widest vectors, which a virtual
    machine may hide.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        said = {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
        flags = said.get("flags", "").split()
        widest = next((f for f in ("avx512f", "avx2", "avx") if f in flags), "")
        if "vendor_id" in said:
            names = ("vendor_id", "cpu family", "model")
            return " ".join([*(said[name] for name in names), widest])
    return f"{platform.machine()} {platform.processor()}"


def recipe(name: str) -> dict[str, Any]:
    """Return a recipe's fingerprint, its layers line by line, and its training."""
    import keras

    from kerascnn import describe
    from kerascnn import recipe as recipes
    from kerascnn.without_weights import without_weights

    found = recipes.load(name)
    model = without_weights(found.network)
    places = {id(each.output): place for place, each in enumerate(model.operations)}
    lines = []
    for place, layer in enumerate(model.operations):
        weights = layer.count_params() if isinstance(layer, keras.Layer) else 0
        line = f"{of_object(layer)} {layer.output.shape[1:]} {weights}"
        inputs = [places[id(tensor)] for tensor in keras.tree.flatten(layer.input)]
        if inputs not in ([place], [place - 1]):  # the image's own, the one before
            line += f" of {inputs}"
        lines.append(line)
    return {
        "fingerprint": describe.fingerprint(describe.describe(found)),
        "network": lines,
        "transform": [of_object(layer) for layer in found.transform()],
        "optimizer": of_object(found.optimizer()),
        "callbacks": [of_object(callback) for callback in found.callbacks()],
        "dataset": found.dataset,
        "batch_size": found.batch_size,
        "drop_last": found.drop_last,
        "epochs": found.epochs,
    }


def of_object(thing: Any) -> str:
    """Return the class of a layer, optimiser or callback, and its settings' digest."""
    if hasattr(thing, "get_config"):
        settings = thing.get_config()
    else:
        settings = {k: v for k, v in vars(thing).items() if not k.startswith("_")}
    return f"{type(thing).__name__} {digest(plain(settings))}"


def plain(value: Any) -> Any:
    """Return a configuration without the names, seeds and modules in it."""
    if isinstance(value, dict):
        left_out = ("name", "seed", "module", "registered_name", "build_config")
        kept = {k: plain(v) for k, v in value.items() if k not in left_out}
        return {k: v for k, v in kept.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.7g}")  # optimisers keep float32 values
    if callable(value):
        return value.__qualname__
    return value


def digest(value: Any) -> str:
    """Return the first 12 digits of the SHA-256 of a JSON value."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Compiled(Exception):
    """A training has compiled its step, and is not to go on."""


def step(name: str) -> dict[str, int]:
    """Return the structure of a recipe's training step, as its training compiles it.

    The training is the command line's, on the bundled sample, at the recipe's own
    batch size. Its engine lowers the step and compiles it before anything else that it
    compiles so; the training ends there, because the step need not run.
    """
    import jax
    from jax.experimental import serialize_executable
    from jax.experimental.compilation_cache import compilation_cache

    from kerascnn import recipe as recipes

    own_batches = ["--batch-size", str(recipes.load(name).batch_size)]
    own_batches += ["--record", "off"]
    found = []
    compile_ = jax.stages.Lowered.compile

    def watched(lowered, *arguments, **options):
        found.append(compile_(lowered, *arguments, **options))
        raise Compiled

    enabled = jax.config.jax_enable_compilation_cache
    # What JAX's cache brings back does not say how large its code is.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    jax.stages.Lowered.compile = watched
    try:
        with contextlib.suppress(Compiled):
            train(name, ["--engine", "epoch", "--epochs", "1", *own_batches])
    finally:
        jax.stages.Lowered.compile = compile_
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()
    (compiled,) = found
    memory = compiled.memory_analysis()
    # In HLO text: `%name = type opcode(operands)`.
    instruction = r"^\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][a-z0-9-]*)\("
    opcodes = Counter(re.findall(instruction, compiled.as_text(), re.MULTILINE))
    return {
        "temporary bytes": memory.temp_size_in_bytes,
        # XLA gives 0 for a CPU's `generated_code_size_in_bytes`.
        "code bytes": len(serialize_executable.serialize(compiled)[0]),
        "instructions": opcodes.total(),
        **{
            name: opcodes[name] for name in ("convolution", "dot", "while", "transpose")
        },
    }


def weights(name: str, engine: str) -> str:
    """Return `weights_sha256` of a short run of two epochs."""
    return train(name, [*RUNS[name], "--epochs", "2", "--engine", engine])


def train(name: str, options: list[str]) -> str:
    """Train a recipe from the command line, in this process.

    Returns:
        The run's `weights_sha256`.
    """
    from kerascnn import recipe as recipes
    from kerascnn.cli import run

    with tempfile.TemporaryDirectory() as folder:
        words = ["--data", "sample", *options, "--out", f"{folder}/run"]
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                run.main(small() if name == "small" else recipes.load(name), words)
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"{name} {options}: {said.getvalue()}") from stop
        return json.loads(Path(folder, "run/result.json").read_text())["weights_sha256"]


def small() -> Any:
    """Return a recipe with BatchNorm, dropout, L2 and random transforms.

    A batch of 128 images is work enough for the epoch engine to cut it among devices.
    """
    import keras
    from keras import layers

    from kerascnn import optim, transforms
    from kerascnn.recipe import Course, Recipe

    def network() -> keras.Model:
        image = keras.Input((32, 32, 3))
        x = image
        for filters in (16, 64):
            x = layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                kernel_regularizer=optim.weight_decay(5e-4),
            )(x)
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.Dropout(0.4)(layers.MaxPooling2D(4)(x))
        return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))

    return Recipe(
        name="small",
        dataset="cifar10",
        network=network,
        transform=lambda: [
            transforms.RandomCrop(padding=2),
            layers.RandomFlip("horizontal"),
            transforms.standard("cifar10"),
        ],
        optimizer=lambda: optim.adam(1e-3),
        batch_size=256,
        epochs=2,
        parameters=0,
        course=Course(source="nowhere"),
    )


def read(kind: str) -> dict[str, Any]:
    """Return the goldens of a kind: `recipes`, `weights` or `steps`."""
    return json.loads((FOLDER / f"{kind}.json").read_text())


def main() -> None:
    """Make the goldens of this processor and these versions; the others stay."""
    import keras

    from kerascnn import recipe as recipes

    made: dict[str, Any] = {
        "recipes": {
            "keras": keras.__version__,
            "recipes": {name: recipe(name) for name in recipes.names()},
        }
    }
    new = {
        "weights": {f"{n} {e}": weights(n, e) for n in RUNS for e in ENGINES},
        "steps": {name: step(name) for name in STEPS},
    }
    for kind, values in new.items():
        known = read(kind) if (FOLDER / f"{kind}.json").exists() else {}
        made[kind] = known | {key(): values}
    for kind, values in made.items():
        file = FOLDER / f"{kind}.json"
        file.write_text(json.dumps(values, indent=1) + "\n")
        print(f"wrote {file}", file=sys.stderr)


if __name__ == "__main__":
    main()
