"""A model file that is not plain is refused before Keras opens it.

The shapes of attacks are those of Keras's advisories of 2024 to 2026, named with each.
"""

import contextlib
import importlib
import inspect
import io
import json
import pathlib
import zipfile

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kerascnn
from kerascnn import UsageError, optim, recipe, saved, transforms
from kerascnn.without_weights import without_weights


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(2, 3, kernel_initializer="he_normal")(x)
    x = layers.Flatten()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.5)(x)
    model = keras.Model(image, layers.Dense(3)(x))
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return path, model


@pytest.fixture
def remake(good, tmp_path):
    """Write the good file with some members changed."""

    def make(compression=zipfile.ZIP_STORED, **changed):
        path = tmp_path / "remade.keras"
        with zipfile.ZipFile(good[0]) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                content = changed.pop(name, None)
                if content is None:
                    content = old.read(name)
                if content != b"":
                    new.writestr(name, content, compression)
            for name, content in changed.items():
                new.writestr(name, content, compression)
        return path

    return make


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def weights_file(path):
    with zipfile.ZipFile(path) as archive:
        return io.BytesIO(archive.read("model.weights.h5"))


def test_a_plain_model_loads(good, remake):
    path, model = good
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    for file in (path, remake()):
        loaded = saved.load_model(file)
        answer = keras.ops.convert_to_numpy(loaded(images, training=False))
        np.testing.assert_array_equal(answer, expected)


def test_a_sequential_model_loads(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, "relu")]
    )
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    loaded = saved.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="accelerate needs JAX")
def test_an_accelerated_model_loads_as_keras_own_layers(tmp_path):
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    x = layers.Dropout(0.3)(layers.MaxPooling2D()(x))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    fast = kerascnn.accelerate(model)
    fast.save(tmp_path / "model.keras")
    loaded = saved.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in loaded.layers] == [type(x) for x in model.layers]
    images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    np.testing.assert_array_equal(loaded(images), model(images))


PARTS = {
    "flip": lambda x: layers.RandomFlip()(x),
    "rotation": lambda x: layers.RandomRotation(0.1)(x),
    "noise": lambda x: layers.GaussianNoise(0.1)(x),
    "crop": lambda x: transforms.RandomCrop(2)(x),
    "skip": lambda x: x + layers.Conv2D(3, 3, padding="same")(x),
    "scaled": lambda x: (2 * x / 255.0 - 0.5) ** 2,
    "relu": lambda x: keras.ops.relu(x),
    "activation": lambda x: layers.Conv2D(2, 1, activation=keras.ops.relu)(x),
    "transposed": lambda x: layers.Conv2DTranspose(2, 3)(x),
    "max_norm": lambda x: layers.Conv2D(2, 1, kernel_constraint="max_norm")(x),
    "array": lambda x: x * np.array([1.0, 2.0, 3.0], "float32"),
    "index": lambda x: x[:, 1:, ..., ::-1],
    "mean": lambda x: keras.ops.mean(x, axis=(1, 2), keepdims=True),
    "pipeline": lambda x: layers.Pipeline([layers.RandomFlip()])(x),
    "attention": lambda x: layers.MultiHeadAttention(1, 2)(x, x),
    "wrapped": lambda x: layers.TimeDistributed(layers.Dense(2))(x),
    "inner": lambda x: compiled(
        keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 1)])
    )(x),
}


def my_loss(true, predicted):
    return keras.ops.mean(keras.ops.square(true - predicted), -1)


def compiled(model):
    model.compile(keras.optimizers.AdamW(1e-3), my_loss, metrics=["accuracy"])
    return model


@pytest.mark.parametrize("part", PARTS)
def test_everyday_parts_load_and_compute_the_same(part, tmp_path):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Flatten()(PARTS[part](image)))
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    loaded = saved.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )


@pytest.mark.parametrize("optimizer", [lambda: "adam", lambda: optim.sgd(0.1)])
def test_a_trained_model_loads_uncompiled(optimizer, tmp_path):
    """README's own `trained.keras`: the optimiser and its state are in the file."""
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))
    model.compile(optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    fast = kerascnn.accelerate(model)
    for trained in (model, fast):
        trained.fit(images, np.zeros(4), verbose=0)
    model.save(tmp_path / "trained.keras")
    loaded = saved.load_model(tmp_path / "trained.keras")
    assert not loaded.compiled
    np.testing.assert_array_equal(loaded(images), model(images))


def test_how_a_model_was_compiled_runs_nothing(good, remake):
    config = config_of(good[0])
    attack = {
        "optimizer": {"module": "subprocess", "class_name": "Popen", "config": {}},
        "loss": {"module": "builtins", "class_name": "function", "config": "exec"},
    }
    for each in (config, config["config"]["layers"][1]):
        each["compile_config"] = attack
    loaded = saved.load_model(remake(**{"config.json": json.dumps(config)}))
    assert not loaded.compiled


def test_a_layer_without_input_is_refused(good, remake):
    """Keras would compute it while the file is opened, of any size."""
    config = config_of(good[0])
    pad = {
        "module": "keras.src.ops.numpy",
        "class_name": "Pad",
        "name": "pad",
        "config": {"pad_width": 10**9},
        "inbound_nodes": [{"args": [[1.0]], "kwargs": {}}],
    }
    config["config"]["layers"].append(pad)
    with pytest.raises(UsageError, match="its layer 'pad' has no input"):
        saved.load_model(remake(**{"config.json": json.dumps(config)}))


def test_an_array_of_text_is_refused(good, remake):
    config = config_of(good[0])
    array = {"class_name": "__numpy__", "config": {"value": ["a"], "dtype": "U9999999"}}
    config["config"]["layers"][1]["config"]["scale"] = array
    with pytest.raises(UsageError, match="an array of U9999999"):
        saved.load_model(remake(**{"config.json": json.dumps(config)}))


# What Keras has and the rule leaves out. A version of Keras with something new fails
# the test below: read what is new, then name it here or in `saved`.
BASES = "a base class: it computes nothing"
CODE = "runs code that a file or a module holds"
TEXT = "takes text, reads a vocabulary, or needs TensorFlow"
MANY = "makes as many results as a number in the file says"
REFUSED = {
    "keras.layers": {
        BASES: {"InputSpec", "Layer", "Wrapper"},
        CODE: {"FlaxLayer", "JaxLayer", "Lambda", "TFSMLayer", "TorchModuleWrapper"},
        TEXT: {
            *("HashedCrossing", "Hashing", "IntegerLookup", "StringLookup"),
            "TextVectorization",
        },
    },
    "keras.initializers": {BASES: {"Initializer"}},
    "keras.regularizers": {BASES: {"Regularizer"}},
    "keras.constraints": {BASES: {"Constraint"}},
    "keras.src.ops.core": {
        CODE: {
            *("AssociativeScan", "Cond", "ForiLoop", "Map", "Scan", "Switch"),
            *("VectorizedMap", "WhileLoop"),
        },
        MANY: {"Unstack"},
    },
    "keras.src.ops.linalg": {CODE: {"JVP"}},
    "keras.src.ops.math": {BASES: {"SegmentReduction"}},
    "keras.src.ops.numpy": {
        MANY: {"ArraySplit", "Dsplit", "Hsplit", "Split", "Vsplit"},
        "returns memory as it was left": {"EmptyLike"},
    },
    "keras.src.ops.function": {BASES: {"Function"}},
    "keras.src.ops.operation": {BASES: {"Operation"}},
}


def classes_of_keras():
    """Return the classes that a file may name, by module, and the names of each."""
    found = {}
    for part in ("layers", "initializers", "regularizers", "constraints"):
        module = getattr(keras, part)
        found[f"keras.{part}"] = {
            value.__name__ for value in vars(module).values() if inspect.isclass(value)
        }
    folder = pathlib.Path(inspect.getfile(keras)).parent / "src" / "ops"
    files = [*folder.glob("*.py"), folder.parent / "activations" / "activations.py"]
    for file in files:
        if file.stem.endswith("_test") or file.stem == "__init__":
            continue
        parts = file.relative_to(folder.parents[1]).with_suffix("").parts
        module = importlib.import_module(".".join(("keras", *parts)))
        names = {
            name
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, keras.Operation)
            and value.__module__ == module.__name__
        }
        if names:
            found[module.__name__] = names
    return found


NAMES = {
    "GroupedQueryAttention": "GroupQueryAttention",
    "OrthogonalInitializer": "Orthogonal",
    "IdentityInitializer": "Identity",
    "STFTInitializer": "STFT",
}


@pytest.mark.parametrize("module", classes_of_keras())
def test_each_class_of_keras_is_let_through_or_left_out_for_a_reason(module):
    names = {NAMES.get(name, name) for name in classes_of_keras()[module]}
    refused = set().union(*REFUSED.get(module, {}).values())
    allowed = saved.CLASSES.get(module, set())
    assert not refused & allowed
    assert names == refused | allowed


@pytest.mark.parametrize("part", ["losses", "metrics", "optimizers", "callbacks"])
def test_nothing_else_of_keras_is_let_through(part):
    assert not [module for module in saved.CLASSES if part in str(module)]


def test_every_recipe_is_made_of_known_layers():
    for name in recipe.names():
        case = recipe.load(name)
        model = without_weights(case.network)
        network = keras.saving.serialize_keras_object(model)
        saved._check_classes(network)
        for layer in case.transform():
            if not type(layer).__name__.startswith("Random"):
                saved._check_classes(keras.saving.serialize_keras_object(layer))


LAMBDA = {
    "class_name": "__lambda__",
    "config": {"value": "4wEAAAAA", "defaults": None, "closure": None},
}


@pytest.mark.parametrize(
    "replacement",
    [
        # A plain model's other name, with code in it.
        {
            "module": "keras",
            "class_name": "Sequential",
            "config": {"layers": [{"module": "keras.layers", "class_name": "Lambda"}]},
        },
        # CVE-2024-3660, CVE-2025-9906: code in a Lambda layer.
        {"module": "keras.layers", "class_name": "Lambda"},
        {"module": "builtins", "class_name": "function", "config": "exec"},
        LAMBDA,
        # CVE-2025-1550: any class of any module. CVE-2025-8747: Keras's own functions.
        {"module": "subprocess", "class_name": "Popen"},
        {"module": "keras.src.utils.file_utils", "class_name": "function"},
        {"module": "keras.config", "class_name": "enable_unsafe_deserialization"},
        # CVE-2025-12058: a vocabulary is read from a path, or fetched from an address.
        {"module": "keras.layers", "class_name": "StringLookup"},
        {"module": "keras.layers", "class_name": "TextVectorization"},
        # CVE-2025-49655: a pickled PyTorch module.
        {"module": "keras.layers", "class_name": "TorchModuleWrapper"},
        {"module": "keras.layers", "class_name": "TFSMLayer"},
        # The name of one class, registered as another.
        {
            "module": "keras.layers",
            "class_name": "Dense",
            "registered_name": "mine>Lambda",
        },
        {"module": "keras.layers", "class_name": ["Dense"]},
    ],
    ids=lambda value: str(value["class_name"]),
)
@pytest.mark.parametrize("where", ["layer", "argument"])
def test_classes_that_do_something_are_refused(good, remake, replacement, where):
    config = config_of(good[0])
    layer = next(
        each for each in config["config"]["layers"] if each["class_name"] == "Conv2D"
    )
    if where == "layer":
        layer |= replacement
    else:
        layer["config"]["activation"] = {"config": {}} | replacement
    with pytest.raises(UsageError, match="is refused"):
        saved.load_model(remake(**{"config.json": json.dumps(config)}))


def test_a_refused_file_leaves_keras_usable(good, remake):
    config = config_of(good[0])
    dense = config["config"]["layers"][-1]
    assert dense["class_name"] == "Dense"
    dense["config"]["units"] = 10**12
    with pytest.raises(UsageError, match="its layers have"):
        saved.load_model(remake(**{"config.json": json.dumps(config)}))
    with keras.StatelessScope():  # such as training opens: draws what waits for it
        pass


@pytest.mark.parametrize(
    "name",
    [
        "../../outside.txt",
        "/etc/outside.txt",
        "assets/layers/string_lookup/vocabulary.txt",
        "..\\outside.txt",
        "model.weights.npz",
    ],
)
def test_other_files_in_the_archive_are_refused(remake, tmp_path, name):
    """CVE-2025-12060 and its kin: names that lead out of the folder."""
    with pytest.raises(UsageError, match="has no use for it"):
        saved.load_model(remake(**{name: "x"}))
    assert not list(tmp_path.parent.rglob("outside.txt"))


def test_two_members_of_one_name_are_refused(remake):
    path = remake()
    with (
        zipfile.ZipFile(path, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("config.json", "{}")
    with pytest.raises(UsageError, match="is refused"):
        saved.load_model(path)


def test_a_compressed_member_is_refused(remake):
    with pytest.raises(UsageError, match="is compressed"):
        saved.load_model(remake(compression=zipfile.ZIP_DEFLATED))


def test_an_encrypted_member_is_refused(remake):
    path = remake()
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    while entry >= 0:
        content[entry + 8] |= 1  # the flag of encryption, in the archive's directory
        entry = content.find(b"PK\x01\x02", entry + 1)
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"is encrypted\. Open it with .* only if"):
        saved.load_model(path)


def test_what_keras_cannot_make_is_refused(good, monkeypatch):
    def broken(config):
        raise RuntimeError("two\nlines")

    with monkeypatch.context() as patch:
        patch.setattr(saved, "_parameters", broken)
        with pytest.raises(UsageError, match=r"what it describes \(two lines\)"):
            saved.load_model(good[0])
    config = config_of(good[0])
    monkeypatch.setattr(saved, "_check", lambda archive: (config, 3))
    with pytest.raises(UsageError, match="has more weights than the file"):
        saved.load_model(good[0])


def test_an_absurd_description_is_refused(remake):
    huge = b" " * (saved.LARGEST_JSON + 1)
    with pytest.raises(UsageError, match=r"config\.json has \d+ bytes"):
        saved.load_model(remake(**{"config.json": huge}))
    deep = "[" * 100_000
    with pytest.raises(UsageError, match="not a whole"):
        saved.load_model(remake(**{"config.json": deep}))


def test_layers_larger_than_the_file_are_refused(good, remake):
    """A few bytes that say a billion units: the memory is never asked for."""
    config = config_of(good[0])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "Dense":
            layer["config"]["units"] = 10**12
    with pytest.raises(UsageError, match=r"its layers have 7[0-9,]* weights"):
        saved.load_model(remake(**{"config.json": json.dumps(config)}))


@pytest.mark.parametrize(
    "kind", ["external", "soft", "storage", "virtual", "bomb", "hardlink", "loop"]
)
def test_weights_that_are_not_in_the_file_are_refused(good, remake, tmp_path, kind):
    """CVE-2026-1669: links to other files. CVE-2026-0897: shapes of terabytes.

    One dataset under many names is a bomb too, and a group inside itself has no end.
    """
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["vars"] = np.arange(4.0)
    content = weights_file(good[0])
    with h5py.File(content, "r+") as file:
        match kind:
            case "external":
                file["layers/more"] = h5py.ExternalLink(str(secret), "/vars")
            case "soft":
                file["layers/more"] = h5py.SoftLink("/layers/dense")
            case "storage":
                raw = [(str(tmp_path / "secret.h5"), 0, 16)]
                file.create_dataset("more", (4,), "float32", external=raw)
            case "virtual":
                layout = h5py.VirtualLayout((4,), "float64")
                layout[:] = h5py.VirtualSource(str(secret), "vars", (4,))
                file.create_virtual_dataset("more", layout)
            case "bomb":
                file.create_dataset(
                    "more", (50_000_000, 50_000_000), "float32", compression="gzip"
                )
            case "hardlink":
                file["first"] = np.zeros(3, "float32")
                file["more"] = file["first"]
            case "loop":
                file["more"] = file["/"]
    with pytest.raises(UsageError, match="is refused: its weights 'more'"):
        saved.load_model(remake(**{"model.weights.h5": content.getvalue()}))


def test_other_formats_are_refused(good, tmp_path):
    legacy = tmp_path / "model.h5"  # CVE-2025-9905: safe_mode is no word in it
    legacy.write_bytes(weights_file(good[0]).getvalue())
    (tmp_path / "pickle.keras").write_bytes(b"\x80\x04N.")
    for path in (legacy, tmp_path / "pickle.keras", tmp_path):
        with pytest.raises(UsageError, match=r"not a whole \.keras file"):
            saved.load_model(path)
    with pytest.raises(UsageError, match="there is no file"):
        saved.load_model(tmp_path / "nothing.keras")


def test_a_cut_file_is_refused(good, tmp_path):
    content = good[0].read_bytes()
    path = tmp_path / "cut.keras"
    for length in range(0, len(content), len(content) // 20):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError):
            saved.load_model(path)


@pytest.mark.parametrize("examples", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_weights_load_or_are_refused(examples, good, remake):
    """The zip's own checksum is right: HDF5's metadata are what lies."""
    whole = weights_file(good[0]).getvalue()
    places = st.integers(0, len(whole) - 1)

    @settings(derandomize=True, deadline=None, database=None, max_examples=examples)
    @given(st.dictionaries(places, st.integers(0, 255), min_size=1, max_size=20))
    def check(changes):
        content = bytearray(whole)
        for place, value in changes.items():
            content[place] = value
        path = remake(**{"model.weights.h5": bytes(content)})
        with contextlib.suppress(UsageError):
            saved.load_model(path)

    check()
