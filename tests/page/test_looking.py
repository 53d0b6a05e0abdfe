"""What the page shows of a network, beside PyTorch's and NumPy's own."""

import base64
import io
import random

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from kerascnn import recipe as recipes
from kerascnn.page import looking, pictures
from kerascnn.training import build


def images(n, shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, *shape), dtype="uint8")


def model_of(name, shape):
    keras.utils.set_random_seed(3)
    return build.build(recipes.load(name), shape)[1]


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("name", "shape", "place", "side"),
    [
        # The maps that go into the last pooling, and those that leave the third block.
        ("fashion_lenet", (28, 28, 1), "MaxPool2d", 10),
        pytest.param(
            "cifar_vgg_bn", (32, 32, 3), "MaxPool2d", 4, marks=pytest.mark.slow
        ),
        ("cifar_vgg_skip", (32, 32, 3), "SkipBlock", 4),
    ],
)
@pytest.mark.few("fashion_lenet-shape0-MaxPool2d-10")
def test_grad_cam_is_pytorch_s(name, shape, place, side):
    import torch

    from kerascnn import twins
    from kerascnn.parity import weights

    model = model_of(name, shape)
    net = looking.network(model)
    for layer in net.layers:  # statistics that are not those of a new network
        if isinstance(layer, layers.BatchNormalization):
            draw = np.random.default_rng(5).uniform(0.5, 1.5, layer.gamma.shape)
            layer.moving_variance.assign(draw)
            layer.moving_mean.assign(draw - 1)
    twin = weights.to_torch(net, twins.load(name).network()).eval()
    given, classes = images(4, shape), np.array([3, 0, 7, 3])
    values = looking.prepared(model, given)
    found = looking.grad_cam(net, values, classes)

    seen = {}
    modules = [m for m in twin.modules() if type(m).__name__ == place]

    def keep(module, arguments, output=None):
        seen["maps"] = arguments[0] if output is None else output
        seen["maps"].retain_grad()

    if place == "MaxPool2d":
        modules[-1].register_forward_pre_hook(keep)
    else:
        modules[-2].register_forward_hook(keep)
    batch = torch.tensor(np.asarray(values).transpose(0, 3, 1, 2), requires_grad=True)
    twin(batch)[torch.arange(4), torch.tensor(classes)].sum().backward()
    maps, slopes = seen["maps"], seen["maps"].grad
    cam = torch.relu((slopes.mean((2, 3), keepdim=True) * maps).sum(1))
    cam = cam / cam.amax((1, 2), keepdim=True).clamp(min=1e-30)
    assert found.maps.shape == (4, side, side)
    np.testing.assert_allclose(found.maps, cam.detach().numpy(), atol=1e-4)
    assert found.maps.max() == 1


def test_a_network_without_maps_has_neither_grad_cam_nor_feature_maps():
    model = model_of("fashion_mlp", (28, 28, 1))
    net = looking.network(model)
    values = looking.prepared(model, images(2, (28, 28, 1)))
    assert looking.grad_cam(net, values, np.array([0, 1])) is None
    assert looking.feature_maps(net, values) == []


@pytest.mark.parametrize("n", [1, 5, 12, 13])
def test_logits_are_the_model_s_in_batches_of_any_number(n):
    model = model_of("fashion_lenet", (28, 28, 1))
    given = images(n, (28, 28, 1))
    expected = np.asarray(model(given, training=False))
    np.testing.assert_allclose(looking.logits(model, given, 5), expected, atol=1e-5)


@pytest.mark.parametrize(("side", "expected"), [(28, 130), (32, 100), (224, 4)])
def test_large_images_are_computed_by_few(side, expected):
    assert looking.batch_size(np.broadcast_to(0, (9, side, side, 3))) == expected


def test_feature_maps_are_the_layers_own():
    model = model_of("fashion_lenet", (28, 28, 1))
    net, given = looking.network(model), images(2, (28, 28, 1))
    stages = looking.feature_maps(net, looking.prepared(model, given))
    assert [stage.of for stage in stages] == [6, 6, 16, 16]
    first = stages[0]
    values, kernel = np.asarray(looking.prepared(model, given)), net.layers[1].kernel
    padded = np.pad(values, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    whole = np.einsum("nyxcij,ijco->noyx", windows, np.asarray(kernel))
    whole = np.maximum(whole + np.asarray(net.layers[1].bias)[:, None, None], 0)
    for channel in range(first.maps.shape[1]):
        gaps = abs(whole - first.maps[:, channel : channel + 1]).max((0, 2, 3))
        assert gaps.min() < 1e-4


@pytest.mark.parametrize(
    ("name", "stages", "side"),
    [
        ("fashion_down_stride", 1, 12),  # a single layer with maps
        ("cifar_edges", 6, 32),  # fixed filters before the first layer that learns
        ("fashion_lenet_fc", 4, 14),
    ],
)
def test_networks_of_any_shape_are_looked_at(name, stages, side):
    shape = (28, 28, 1) if name.startswith("fashion") else (32, 32, 3)
    model = model_of(name, shape)
    net = looking.network(model)
    values = looking.prepared(model, images(2, shape))
    found = looking.feature_maps(net, values)
    assert len(found) == stages
    assert all(np.isfinite(stage.maps).all() for stage in found)
    attention = looking.grad_cam(net, values, np.array([1, 2]))
    assert attention.maps.shape == (2, side, side)
    assert attention.maps.min() >= 0


def test_filters_are_the_first_layer_s():
    net = looking.network(model_of("fashion_lenet", (28, 28, 1)))
    found = looking.filters(net)
    assert found.kernels.shape == (6, 5, 5, 1)
    np.testing.assert_array_equal(
        found.kernels[4, 1, 2, 0], net.layers[1].kernel[1, 2, 0, 4]
    )
    dense = looking.network(model_of("fashion_mlp", (28, 28, 1)))
    found = looking.filters(dense)
    assert found.dense
    assert found.kernels.shape[1:] == (28, 28, 1)
    kernel = next(layer for layer in dense.layers if hasattr(layer, "kernel")).kernel
    np.testing.assert_array_equal(found.kernels[2].ravel(), np.asarray(kernel)[:, 2])


def test_augmented_images_are_shifted_and_mirrored_ones():
    recipe = recipes.load("cifar_vgg_aug")  # by up to two pixels, over black
    given = images(3, (32, 32, 3))
    before = random.getstate()
    found = looking.augmented(recipe, given, 4, seed=1)
    assert random.getstate() == before
    again = looking.augmented(recipe, given, 4, seed=1)
    np.testing.assert_array_equal(found, again)
    assert found.shape == (3, 4, 32, 32, 3)
    for image, draws in zip(given, found, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        moved = [padded[y : y + 32, x : x + 32] for y in range(5) for x in range(5)]
        either = np.stack([*moved, *(each[:, ::-1] for each in moved)]).astype(int)
        for draw in draws:
            assert abs(either - draw).max((1, 2, 3)).min() <= 1
    assert len({draw.tobytes() for draw in found[0]}) > 1


def test_a_transform_without_draws_has_no_augmented_images():
    recipe = recipes.load("fashion_lenet")
    assert looking.augmented(recipe, images(2, (28, 28, 1)), 3) is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fashion_lenet", (28, 28, 1)),
        pytest.param("cifar_vgg_aug", (32, 32, 3), marks=pytest.mark.slow),
    ],
)
def test_layers_hold_all_parameters(name, shape):
    recipe = recipes.load(name)
    found = looking.layers(model_of(name, shape))
    assert sum(layer.parameters for layer in found) == recipe.parameters
    assert found[-1].shape == (10,)


def test_a_sheet_holds_its_tiles():
    tiles = images(5, (4, 6, 3))
    sheet = pictures.sheet("name", tiles)
    data = base64.b64decode(sheet.uri.partition(",")[2])
    whole = np.asarray(Image.open(io.BytesIO(data)))
    for n, tile in enumerate(tiles):
        shown = str(sheet.show(n, "a <b>"))
        assert 'aria-label="a &lt;b&gt;"' in shown
        x, y, width, height = map(
            int, shown.split('viewBox="')[1].split('"')[0].split()
        )
        np.testing.assert_array_equal(whole[y : y + height, x : x + width], tile)


@pytest.mark.parametrize("shape", [(28, 28, 1), (100, 60, 3), (30, 224, 1), (8, 8, 4)])
def test_thumbnails_are_small(shape):
    found = pictures.thumbnails(images(2, shape))
    assert found.dtype == "uint8"
    assert max(found.shape[1:3]) <= pictures.SIDE
    assert found.shape[-1] in (1, 3)


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
@pytest.mark.slow
def test_other_backends_find_the_same(backend, passes_on):
    passes_on(backend, f"{__file__}::test_grad_cam_is_pytorch_s")
