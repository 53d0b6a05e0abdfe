"""Weights go over to PyTorch and back, and what does not fit is refused by name."""

from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from keras import layers
from torch import nn

from kerascnn import UsageError
from kerascnn.parity import weights


def network(filters=4, pool=True):
    image = keras.Input((6, 8, 3))
    x = layers.Conv2D(filters, 3, activation="relu", name="first")(image)
    x = layers.BatchNormalization(epsilon=1e-5, name="norm")(x)
    if pool:
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(image, layers.Dense(5, name="last")(x))


def twin():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 3, 5),
    )


def shaken(module, seed=0):
    """Move every value, so that none is a zero or a one that could hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.dtype.is_floating_point:
                value += 0.3 * torch.rand(value.shape, generator=generator)
    return module


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(-1, 1, (4, 6, 8, 3)).astype("float32")


def logits(model, images):
    if isinstance(model, nn.Module):
        with torch.no_grad():
            x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
            return model.eval()(x).numpy()
    return keras.ops.convert_to_numpy(model(images, training=False))


# Sums of at most 27 products of numbers near 1, in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def test_from_torch_computes_the_same(images):
    module = shaken(twin())
    model = weights.from_torch(module.state_dict(), network())
    np.testing.assert_allclose(logits(model, images), logits(module, images), **CLOSE)


def test_to_torch_and_back_changes_nothing(images):
    model = weights.from_torch(shaken(twin()).state_dict(), network())
    module = weights.to_torch(model, twin())
    np.testing.assert_allclose(logits(model, images), logits(module, images), **CLOSE)
    again = weights.from_torch(module.state_dict(), network())
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        if old.dtype == np.float32:  # the other is Dropout's seed
            np.testing.assert_array_equal(old, new)


def test_layouts_by_hand():
    """A kernel's one entry lands where the formula says."""
    first, _, last = weights.layouts(network())
    kernel = np.zeros((3, 3, 3, 4))
    kernel[0, 1, 2, 3] = 1
    assert first.to_torch(kernel)[3, 2, 0, 1] == 1
    # Flatten of (2, 3, 4): row 1, column 2, channel 3 is input (1 * 3 + 2) * 4 + 3 in
    # Keras and (3 * 2 + 1) * 3 + 2 in PyTorch.
    kernel = np.zeros((24, 5))
    kernel[23, 4] = 1
    kernel[6, 0] = 2  # row 0, column 1, channel 2
    assert last.flattened == (2, 3, 4)
    assert last.to_torch(kernel)[4, 23] == 1
    assert last.to_torch(kernel)[0, (2 * 2 + 0) * 3 + 1] == 2
    np.testing.assert_array_equal(last.to_keras(last.to_torch(kernel)), kernel)


@pytest.mark.parametrize(
    ("model", "module", "message"),
    [
        (lambda: network(filters=6), twin, "'first'.*weight is.*4, 3, 3, 3"),
        (lambda: network(pool=False), twin, "'last'.*expected.*96"),
        (network, lambda: twin()[:3], "'last'.*no counterpart"),
        (network, lambda: nn.Sequential(*twin(), nn.Linear(5, 5)), "'6' has no counte"),
        (
            network,
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), *twin()[1:]),
            "'first'.*expected bias, weight, found weight",
        ),
        (
            network,
            lambda: nn.Sequential(twin()[0], nn.Linear(4, 4), *twin()[3:]),
            "'norm'.*expected bias, running_mean",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(model, module, message):
    model, module = model(), module()
    before = [w.copy() for w in model.get_weights()]
    with pytest.raises(UsageError, match=message):
        weights.to_torch(model, module)
    with pytest.raises(UsageError, match=message):
        weights.from_torch(module.state_dict(), model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_module_of_another_kind_is_refused():
    """A transposed convolution of 3 channels to 3 has a weight of the same shape."""
    image = keras.Input((6, 8, 3))
    model = keras.Model(image, layers.Conv2D(3, 3, name="first")(image))
    with pytest.raises(UsageError, match=r"'first'.*'0'.*ConvTranspose2d, expected C"):
        weights.to_torch(model, nn.Sequential(nn.ConvTranspose2d(3, 3, 3)))


def test_a_norm_without_gamma_fits_ones_alone(images):
    image = keras.Input((6, 8, 3))
    x = layers.BatchNormalization(scale=False, epsilon=1e-5, name="norm")(image)
    model = keras.Model(image, layers.Dense(5)(layers.Flatten()(x)))
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(6 * 8 * 3, 5))
    shaken(module)
    with pytest.raises(UsageError, match=r"'norm'.* no gamma.*'0\.weight' is not 1"):
        weights.from_torch(module.state_dict(), model)
    with torch.no_grad():
        module[0].weight.fill_(1)
    weights.from_torch(module.state_dict(), model)
    np.testing.assert_allclose(logits(model, images), logits(module, images), atol=1e-5)
    shaken(module, seed=1)
    with torch.no_grad():
        module[0].weight.fill_(1)
    weights.to_torch(model, module)
    np.testing.assert_allclose(logits(module, images), logits(model, images), atol=1e-5)


@pytest.mark.parametrize("learned", [True, False])
def test_what_a_state_dict_holds_besides_is_refused(learned):
    module = twin()
    value = torch.ones(4)
    if learned:
        module[1].gamma = nn.Parameter(value)
    else:
        module[1].register_buffer("gamma", value)
    with pytest.raises(UsageError, match=r"'1\.gamma' has no counterpart"):
        weights.to_torch(network(), module)
    with pytest.raises(UsageError, match=r"'1\.gamma' has no counterpart"):
        weights.from_torch(module.state_dict(), network())


@pytest.mark.parametrize(
    ("between", "modules"),
    [
        ([layers.Reshape((-1,))], []),
        ([layers.Flatten(), layers.LeakyReLU(0.1)], [nn.LeakyReLU(0.1)]),
        (
            [layers.Flatten(), layers.BatchNormalization(epsilon=1e-5)],
            [nn.BatchNorm1d(6 * 8 * 4)],
        ),
        # The same layer before and after: each place has its own input.
        ([activation := layers.ReLU(), layers.Flatten(), activation], [nn.ReLU()]),
    ],
)
def test_a_flattened_map_is_followed_to_the_next_weights(between, modules, images):
    image = keras.Input((6, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    for layer in between:
        x = layer(x)
    model = keras.Model(image, layers.Dense(5)(x))
    for weight in model.trainable_weights:
        weight.assign(np.random.default_rng(2).uniform(-1, 1, weight.shape))
    module = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), *modules),
        nn.Linear(6 * 8 * 4, 5),
    )
    weights.to_torch(model, module)
    # Sums of 192 products of numbers up to 20.
    found, expected = logits(module, images), logits(model, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    again = weights.from_torch(module.state_dict(), keras.models.clone_model(model))
    np.testing.assert_array_equal(logits(again, images), expected)


@pytest.mark.parametrize(
    ("between", "name"),
    [
        ([layers.Permute((3, 1, 2), name="odd"), layers.Flatten()], "odd"),
        ([layers.Reshape((48, 4), name="odd"), layers.Flatten()], "odd"),
        ([layers.Flatten(), layers.Reshape((6, 8, 4), name="odd")], "odd"),
        ([layers.Flatten(), lambda x: layers.Concatenate(name="odd")([x, x])], "odd"),
        ([lambda x: keras.ops.mean(x, axis=(1, 2))], "mean"),
        ([layers.Flatten(data_format="channels_first", name="odd")], "odd"),
    ],
)
def test_a_map_whose_order_is_not_known_is_refused(between, name):
    image = keras.Input((6, 8, 4))
    x = image
    for layer in between:
        x = layer(x)
    with pytest.raises(UsageError, match=f"layer '{name}"):
        weights.layouts(keras.Model(image, layers.Dense(5)(x)))


def test_a_vector_may_become_an_image_of_one_channel():
    model = keras.Sequential(
        [keras.Input((48,)), layers.Reshape((6, 8, 1)), layers.Conv2D(2, 3)]
    )
    assert [layout.kind for layout in weights.layouts(model)] == ["Conv2D"]


def test_weights_in_bfloat16_go_over():
    image = keras.Input((3,))
    dense = layers.Dense(2, dtype=keras.DTypePolicy("bfloat16"))
    model = keras.Model(image, dense(image))
    module = weights.to_torch(model, nn.Sequential(nn.Linear(3, 2)))
    kernel = keras.ops.convert_to_numpy(keras.ops.cast(dense.kernel, "float32"))
    np.testing.assert_array_equal(module[0].weight.detach().numpy(), kernel.T)


def test_other_layers_are_refused_by_name():
    image = keras.Input((6, 6, 3))
    separable = layers.SeparableConv2D(4, 3, name="odd")(image)
    with pytest.raises(UsageError, match="'odd' \\(SeparableConv2D\\)"):
        weights.layouts(keras.Model(image, separable))
    shared = layers.Conv2D(3, 3, padding="same", name="twice")
    with pytest.raises(UsageError, match="'twice' is used 2 times"):
        weights.layouts(keras.Model(image, shared(shared(image))))


@pytest.mark.parametrize("suffix", ["safetensors", "SafeTensors", "pt", "PTH"])
@pytest.mark.parametrize("kind", [str, Path])
def test_files_keep_values_and_order(suffix, kind, tmp_path):
    state = shaken(twin()).state_dict()
    path = kind(tmp_path / f"weights.{suffix}")
    weights.write(path, state)
    zipped = Path(path).read_bytes().startswith(b"PK")
    assert zipped is suffix.lower().startswith("pt")
    read = weights.read(path)
    assert list(read) == list(state)
    for key, value in state.items():
        assert torch.equal(read[key], value)


def test_foreign_safetensors_need_an_order(tmp_path):
    from safetensors.torch import save_file

    state = twin().state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    with pytest.raises(UsageError, match="in which order"):
        weights.read(path)
    assert list(weights.read(path, order=list(state))) == list(state)
    with pytest.raises(UsageError, match="does not fit the network: 'extra'"):
        weights.read(path, order=[*state, "extra"])


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("order", ["5", "[[1]]", "[", '"0.weight"', '{"a": 1}'])
def test_an_order_that_is_no_list_of_names_is_one_line(order, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file(twin().state_dict(), path, metadata={"order": order})
    with pytest.raises(UsageError, match="can't be read as weights") as error:
        weights.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(name, value, tmp_path):
    state = twin().state_dict()
    state["5.bias"][3] = value
    weights.write(tmp_path / name, state)
    with pytest.raises(UsageError, match=r"'5\.bias' is not finite"):
        weights.read(tmp_path / name)


def test_a_file_of_another_kind_is_not_written(tmp_path):
    with pytest.raises(UsageError, match=r"\.npz: expected a name ending in"):
        weights.write(tmp_path / "weights.npz", twin().state_dict())


@pytest.mark.parametrize("state", [{1: torch.ones(2)}, {"a": np.ones(2)}])
def test_what_is_no_state_dict_is_refused(state):
    with pytest.raises(UsageError, match="expected a state dict"):
        weights.from_torch(state, network())


@pytest.mark.parametrize(
    "value", [Evil(), {"a": Evil()}, {"a": 1}, [1], {1: torch.ones(2)}]
)
def test_files_with_more_than_tensors_are_refused(value, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    torch.save(value, path)
    with pytest.raises(UsageError):
        weights.read(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_broken_files_are_one_line(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(UsageError, match=r"weights\.\w+ can't be read"):
        weights.read(path)
    path.write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"weights\.\w+ can't be read"):
        weights.read(path)
