"""The transforms against torchvision's rules, PyTorch, Pillow and NumPy.

Everything in `TestOnEveryBackend` runs on JAX here and, by `test_other_backend`, in one
process each on TensorFlow and PyTorch. Distributions are tested at ALPHA with fixed
seeds: a test that passes keeps passing until a backend changes its random stream.
"""

import contextlib
import json
import math
import subprocess
import sys
import zipfile

with contextlib.suppress(ImportError):
    import torch  # before TensorFlow, or the two crash

import keras
import numpy as np
import PIL.Image
import pytest
from keras import layers, ops
from scipy import stats

from kerascnn import UsageError, data, saved, transforms
from kerascnn.engine import placement
from kerascnn.training import build
from kerascnn.twins import rules

BACKEND = keras.backend.backend()
ALPHA = 1e-3  # each distribution test's chance of failing under another random stream

# scale, ratio: the lecture's, torchvision's defaults, one where most tries do not fit.
ERASING = [((0.01, 0.3), (1, 1)), ((0.02, 0.33), (0.3, 3.3)), ((0.5, 1.0), (0.3, 3.3))]


# One shape for all draws: JAX compiles each operation anew for every shape.
DRAWN = (20_000, 32, 24, 3)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def images(batch=32, height=16, width=12, channels=3, dtype="uint8"):
    """Images whose pixels are all above 0, so that black is seen."""
    shape = (batch, height, width, channels)
    return np.random.default_rng(0).integers(1, 256, shape).astype(dtype)


def random_layers():
    return [
        transforms.RandomCrop(2, seed=1),
        transforms.RandomCrop(2, seed=1, mode="reflect"),
        transforms.RandomErasing(0.75, (0.01, 0.3), (1, 1), seed=1),
        transforms.RandomRotation(5, seed=1),
    ]


def compiled(function):
    """The function as a training step would run it on this backend."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    return function


def transformed(layer, x, draw):
    # Compiled on JAX, which otherwise compiles every operation by itself.
    function = compiled(layer.transform) if BACKEND == "jax" else layer.transform
    return numpy(function(x, draw))


def called(layer, x):
    """The layer in training, as a step calls it."""
    if BACKEND != "jax":
        return numpy(layer(x, training=True))
    state = layer.seed_generator.state

    def call(value, x):
        return layer.stateless_call([], [value], x, training=True)

    result, [value] = compiled(call)(state.value, x)
    state.assign(value)
    return numpy(result)


def uniform_p_value(draws, values):
    """Chi-square of integer draws against the uniform over 0..values-1."""
    counts = np.bincount(draws, minlength=values)
    assert len(counts) == values, "a draw lies outside"
    return stats.chisquare(counts).pvalue


def independence_p_value(a, b):
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    return stats.chi2_contingency(table).pvalue


def crop_by_hand(image, offset, padding, mode="constant"):
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode)
    row, column = offset
    return padded[row : row + image.shape[0], column : column + image.shape[1]]


def erasing_by_hand(rng, height, width, p, scale, ratio):
    """torchvision's RandomErasing, literally: (top, left, height, width) or zeros."""
    if rng.random() >= p:
        return 0, 0, 0, 0
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h = round(math.sqrt(area * aspect))
        w = round(math.sqrt(area / aspect))
        if h < height and w < width:
            return (
                rng.integers(0, height - h + 1),
                rng.integers(0, width - w + 1),
                h,
                w,
            )
    return 0, 0, 0, 0


def rotation_sources(height, width, degrees):
    """Source row and column of each pixel in float64, and whether rounding is safe."""
    angle = math.radians(degrees)
    y, x = np.mgrid[:height, :width].astype("float64")
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    rows = math.cos(angle) * y + math.sin(angle) * x + (height - 1) / 2
    columns = math.cos(angle) * x - math.sin(angle) * y + (width - 1) / 2
    # float32 keeps coordinates of this size to about 1e-6.
    away = [np.abs(v - np.floor(v) - 0.5) > 1e-4 for v in (rows, columns)]
    return rows, columns, away[0] & away[1]


class TestOnEveryBackend:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_scalings(self, dtype):
        x = images(dtype=dtype)
        mean = np.array([0.4914, 0.4822, 0.4465])
        std = np.array([0.2470, 0.2435, 0.2616])
        scaled = x.astype("float64") / 255
        for layer, expected in [
            (transforms.unit(), scaled),
            (transforms.pm1(), (scaled - 0.5) / 0.5),
            (transforms.standard("cifar10"), (scaled - mean) / std),
            (transforms.standard(mean.tolist(), std.tolist()), (scaled - mean) / std),
            (transforms.standard(0.5, 0.25), (scaled - 0.5) / 0.25),
        ]:
            assert type(layer) is layers.Rescaling
            actual = numpy(layer(x))
            assert actual.dtype == "float32"
            # float32 rounds terms of up to 2.1 * 2 to 2.4e-7 each.
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)

    def test_scaling_is_float32_under_mixed_precision(self):
        policy = keras.config.dtype_policy()
        try:
            keras.config.set_dtype_policy("mixed_bfloat16")
            actual = numpy(transforms.unit()(images()))
        finally:
            keras.config.set_dtype_policy(policy)
        assert actual.dtype == "float32"
        np.testing.assert_allclose(actual, images() / 255, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("padding", [0, 1, 2, 4])
    def test_crop_offsets_are_uniform(self, padding):
        layer = transforms.RandomCrop(padding, seed=2)
        offsets = numpy(layer.draw(DRAWN))
        assert offsets.shape == (DRAWN[0], 2)
        side = 2 * padding + 1
        places = offsets[:, 0] * side + offsets[:, 1]
        if padding == 0:
            assert not places.any()
        else:
            assert uniform_p_value(places, side**2) > ALPHA

    def test_crop_offsets_are_independent(self):
        layer = transforms.RandomCrop(2, seed=3)
        first, second = (numpy(layer.draw(DRAWN)) for _ in range(2))
        for axis in range(2):
            offsets = first[:, axis]
            assert independence_p_value(offsets[:-1], offsets[1:]) > ALPHA
            assert independence_p_value(offsets, second[:, axis]) > ALPHA

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_crop_values(self, dtype):
        padding, x = 2, images(25, 6, 7, dtype=dtype)
        offsets = np.array([(i, j) for i in range(5) for j in range(5)])
        actual = transformed(transforms.RandomCrop(padding), x, offsets)
        expected = [crop_by_hand(x[i], offsets[i], padding) for i in range(25)]
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual, expected)

    @pytest.mark.parametrize("padding", [1, 2, 5])
    def test_crop_over_a_reflection(self, padding):
        side = 2 * padding + 1
        x = images(side**2, 6, 7)
        offsets = np.array([(i, j) for i in range(side) for j in range(side)])
        crop = transforms.RandomCrop(padding, mode="reflect")
        expected = [
            crop_by_hand(image, offset, padding, "reflect")
            for image, offset in zip(x, offsets, strict=True)
        ]
        np.testing.assert_array_equal(transformed(crop, x, offsets), expected)

    def test_alternating_flip_shows_both_sides_in_two_epochs(self):
        x = images(2_000, 8, 6)
        layer = transforms.RandomAlternatingFlip(seed=3)
        shown = []
        for epoch in range(4):
            layer.begin_epoch(epoch)
            result = numpy(layer(x, training=True))
            assert result.dtype == x.dtype
            flipped = (result == x[:, :, ::-1]).all(axis=(1, 2, 3))
            same = (result == x).all(axis=(1, 2, 3))
            assert (flipped ^ same).all()
            shown.append(flipped)
        np.testing.assert_array_equal(shown[0], shown[2])
        np.testing.assert_array_equal(shown[1], shown[3])
        np.testing.assert_array_equal(shown[0], ~shown[1])
        assert stats.binomtest(int(shown[0].sum()), 2_000).pvalue > ALPHA
        first = shown[0].astype(int)
        assert independence_p_value(first[:-1], first[1:]) > ALPHA
        np.testing.assert_array_equal(numpy(layer(x)), x)  # not in training

    def test_alternating_flip_follows_from_seed_and_image_alone(self):
        x = images(256, 8, 6)

        def sides(x, seed):
            layer = transforms.RandomAlternatingFlip(seed=seed)
            return numpy(layer.draw_for(x))

        one = sides(x, 1)
        np.testing.assert_array_equal(sides(x, 1), one)
        np.testing.assert_array_equal(sides(x[::-1], 1), one[::-1])
        np.testing.assert_array_equal(sides(x.astype("float32"), 1), one)
        assert independence_p_value(one.astype(int), sides(x, 2).astype(int)) > ALPHA

    def test_crop_uses_one_offset_per_image(self):
        layer = transforms.RandomCrop(2, seed=4)
        x = np.repeat(images(1), 256, axis=0)
        actual = called(layer, x)
        places = {
            crop_by_hand(x[0], (i, j), 2).tobytes(): (i, j)
            for i in range(5)
            for j in range(5)
        }
        # 256 uniform draws miss a given place with probability (24/25)^256 = 3e-5.
        assert {places[image.tobytes()] for image in actual} == set(places.values())

    @pytest.mark.parametrize(("scale", "ratio"), ERASING)
    def test_erasing_boxes_follow_torchvision(self, scale, ratio):
        (count, height, width, _), p = DRAWN, 0.75
        layer = transforms.RandomErasing(p, scale, ratio, seed=5)
        actual = numpy(layer.draw(DRAWN))
        rng = np.random.default_rng(6)
        expected = np.array(
            [erasing_by_hand(rng, height, width, p, scale, ratio) for _ in range(count)]
        )
        erased = [(boxes[:, 2:].min(axis=1) > 0) for boxes in (actual, expected)]
        assert not actual[~erased[0]].any()
        hits = np.array([[e.sum(), count - e.sum()] for e in erased])
        assert stats.chi2_contingency(hits).pvalue > ALPHA

        actual, expected = actual[erased[0]], expected[erased[1]]
        assert (actual[:, 2] < height).all()
        assert (actual[:, 3] < width).all()
        quantities = [lambda boxes, i=i: boxes[:, i] for i in range(4)]
        quantities += [
            lambda boxes: boxes[:, 2] * boxes[:, 3],
            lambda boxes: boxes[:, 2] / boxes[:, 3],
        ]
        for quantity in quantities:
            # On discrete values KS is conservative: it fails less often than ALPHA.
            assert stats.ks_2samp(quantity(actual), quantity(expected)).pvalue > ALPHA
        # The places, each uniform over those that its size leaves.
        for place, size, side in ((0, 2, height), (1, 3, width)):
            free = side - actual[:, size] + 1
            assert (actual[:, place] < free).all()
            jitter = rng.random(len(actual))
            position = (actual[:, place] + jitter) / free
            assert stats.kstest(position, "uniform").pvalue > ALPHA

    def test_erasing_boxes_are_independent(self):
        layer = transforms.RandomErasing(0.5, (0.02, 0.33), seed=7)
        boxes = [numpy(layer.draw(DRAWN)) for _ in range(2)]
        quartiles = []
        for draw in boxes:
            erased = draw[:, 2] > 0
            middle = draw[:, 0] >= np.median(draw[erased, 0])
            quartiles.append(erased * 1 + (erased & middle) * 1)
        first, second = quartiles
        assert independence_p_value(first[:-1], first[1:]) > ALPHA
        assert independence_p_value(first, second) > ALPHA

    def test_erasing_never_covers_a_whole_side(self):
        ratio = DRAWN[1] / DRAWN[2]
        whole = transforms.RandomErasing(1.0, (1, 1), (ratio, ratio), seed=8)
        assert not numpy(whole.draw(DRAWN)).any()

    @pytest.mark.parametrize(("p", "share"), [(0, 0), (1, 1)])
    def test_erasing_with_certainty(self, p, share):
        boxes = numpy(transforms.RandomErasing(p, seed=9).draw(DRAWN))
        assert (boxes[:, 2] > 0).mean() == share

    @pytest.mark.parametrize("value", [0, 7, (1, 2, 3)])
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_erasing_values(self, dtype, value):
        x = images(4, 6, 7, dtype=dtype)
        boxes = np.array([(0, 0, 2, 3), (1, 2, 5, 5), (4, 6, 2, 1), (0, 0, 0, 0)])
        layer = transforms.RandomErasing(value=value)
        expected = x.copy()
        for image, (i, j, h, w) in zip(expected, boxes, strict=True):
            image[i : i + h, j : j + w] = value
        actual = transformed(layer, x, boxes)
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(actual[3], x[3])

    def test_rotation_angles_are_uniform_and_independent(self):
        layer = transforms.RandomRotation(5, seed=10)
        first, second = (numpy(layer.draw(DRAWN)) for _ in range(2))
        assert first.shape == (DRAWN[0],)
        assert np.abs(first).max() <= 5
        assert stats.kstest(first, "uniform", (-5, 10)).pvalue > ALPHA
        assert stats.pearsonr(first[:-1], first[1:]).pvalue > ALPHA
        assert stats.pearsonr(first, second).pvalue > ALPHA
        uneven = numpy(transforms.RandomRotation((10, 90), 11).draw(DRAWN))
        assert stats.kstest(uneven, "uniform", (10, 80)).pvalue > ALPHA

    @pytest.mark.parametrize(("height", "width"), [(16, 12), (9, 14), (15, 15)])
    @pytest.mark.needs("torch")
    def test_rotation_is_pytorch_grid_sample(self, height, width):
        angles = np.random.default_rng(12).uniform(-180, 180, 40)
        x = images(40, height, width)
        actual = transformed(transforms.RandomRotation(180), x, angles)
        a = np.deg2rad(angles)
        aspect = height / width  # affine_grid measures both sides as -1..1
        rows = [
            np.cos(a),
            -np.sin(a) * aspect,
            0 * a,
            np.sin(a) / aspect,
            np.cos(a),
            0 * a,
        ]
        theta = np.stack(rows, axis=1).reshape(40, 2, 3)
        nchw = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64)
        grid = torch.nn.functional.affine_grid(
            torch.tensor(theta), list(nchw.shape), align_corners=False
        )
        expected = torch.nn.functional.grid_sample(
            nchw, grid, mode="nearest", padding_mode="zeros", align_corners=False
        )
        expected = expected.numpy().transpose(0, 2, 3, 1)
        safe = np.stack([rotation_sources(height, width, d)[2] for d in angles])
        assert safe.mean() > 0.99
        np.testing.assert_array_equal(actual[safe], expected[safe])

    def test_rotation_is_pillow_rotate(self):
        angles = np.random.default_rng(13).uniform(-180, 180, 40)
        x = images(40, 16, 12, 1)
        actual = transformed(transforms.RandomRotation(180), x, angles)
        expected = np.stack(
            [
                np.asarray(PIL.Image.fromarray(image[..., 0]).rotate(angle))
                for image, angle in zip(x, angles, strict=True)
            ]
        )[..., None]
        # Pillow computes coordinates in fixed point, good to about 1e-3 pixels here.
        assert (actual == expected).mean() > 0.995

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_rotation_of_right_angles(self, dtype):
        x = images(4, 6, 6, dtype=dtype)
        angles = np.array([0.0, 90.0, 180.0, 270.0])
        actual = transformed(transforms.RandomRotation(180), x, angles)
        assert actual.dtype == dtype
        for turns in range(4):
            np.testing.assert_array_equal(actual[turns], np.rot90(x[turns], turns))

    def test_keras_flip_is_torchvisions(self):
        x = np.repeat(images(1), 4_000, axis=0)
        actual = numpy(layers.RandomFlip("horizontal", seed=14)(x, training=True))
        flipped = (actual == x[:, :, ::-1]).all(axis=(1, 2, 3))
        same = (actual == x).all(axis=(1, 2, 3))
        assert (flipped ^ same).all()
        assert stats.binomtest(int(flipped.sum()), 4_000).pvalue > ALPHA
        flipped = flipped.astype(int)
        assert independence_p_value(flipped[:-1], flipped[1:]) > ALPHA

    def test_random_layers_act_in_training_only(self):
        x = images()
        for layer in random_layers():
            assert layer.supports_jit
            for result in (layer(x), layer(x, training=False)):
                np.testing.assert_array_equal(numpy(result), x)
                assert numpy(result).dtype == x.dtype
            first, second = (called(layer, x) for _ in range(2))
            assert first.dtype == x.dtype
            assert first.shape == x.shape
            assert (first != x).any()
            assert (first != second).any()

    def test_equal_seeds_give_equal_draws(self):
        for one, two in zip(random_layers(), random_layers(), strict=True):
            np.testing.assert_array_equal(
                numpy(one.draw(DRAWN)), numpy(two.draw(DRAWN))
            )

    def test_compiled_equals_eager(self):
        x = images()
        for layer in random_layers():
            draw = layer.draw(x.shape)
            eager = numpy(layer.transform(x, draw))
            fast = numpy(compiled(layer.transform)(ops.convert_to_tensor(x), draw))
            if isinstance(layer, transforms.RandomRotation):
                # Fused arithmetic may round a coordinate that lies on a pixel's edge.
                safe = [rotation_sources(16, 12, d)[2] for d in numpy(draw)]
                assert np.mean(safe) > 0.99
                np.testing.assert_array_equal(
                    fast[np.array(safe)], eager[np.array(safe)]
                )
            else:
                np.testing.assert_array_equal(fast, eager)

    def test_border_is_black_before_the_scaling(self):
        x = images(1)
        crop, scale = transforms.RandomCrop(2), transforms.standard("cifar10")
        actual = numpy(scale(crop.transform(x, np.array([[0, 0]]))))[0]
        black = -np.array([0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
        np.testing.assert_allclose(
            actual[:2], np.broadcast_to(black, (2, 12, 3)), rtol=0, atol=1e-6
        )
        assert (actual[2:, 2:] > black).all()

    def test_pipeline_trains_inside_a_model(self, tmp_path):
        inputs = keras.Input((16, 12, 3), dtype="uint8")
        x = inputs
        pipeline = [
            transforms.RandomCrop(2),
            layers.RandomFlip("horizontal"),
            transforms.RandomRotation(5),
            transforms.standard("cifar10"),
            transforms.RandomErasing(0.75, (0.01, 0.3), (1, 1)),
        ]
        for layer in pipeline:
            x = layer(x)
        outputs = layers.Dense(10)(layers.Flatten()(x))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
        if BACKEND == "jax":
            assert model.jit_compile
        labels = np.arange(20) % 10
        model.fit(images(20), labels, batch_size=10, verbose=0)
        path = tmp_path / "model.keras"
        model.save(path)
        again = keras.saving.load_model(path)
        np.testing.assert_array_equal(
            again.predict(images(20), verbose=0), model.predict(images(20), verbose=0)
        )


@pytest.mark.skipif(BACKEND != "jax", reason="starts the other backends from JAX")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backend(backend, passes_on):
    passes_on(backend, f"{__file__}::TestOnEveryBackend")


@pytest.mark.slow
def test_saved_scaling_needs_keras_only(tmp_path):
    model = keras.Sequential(
        [keras.Input((4, 4, 3), dtype="uint8"), transforms.standard("cifar10")]
    )
    path, output = tmp_path / "model.keras", tmp_path / "output.npy"
    model.save(path)
    np.save(tmp_path / "images.npy", images(2, 4, 4))
    code = (
        "import sys, keras, numpy as np\n"
        "folder = sys.argv[1]\n"
        "model = keras.saving.load_model(folder + '/model.keras')\n"
        "images = np.load(folder + '/images.npy')\n"
        "np.save(folder + '/output.npy', model.predict(images, verbose=0))\n"
        "assert 'kerascnn' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    expected = numpy(transforms.standard("cifar10")(images(2, 4, 4)))
    np.testing.assert_allclose(np.load(output), expected, rtol=0, atol=1e-6)
    with zipfile.ZipFile(path) as archive:
        assert "kerascnn" not in json.dumps(json.loads(archive.read("config.json")))


@pytest.mark.parametrize(
    "layer",
    [
        transforms.RandomCrop(3, seed=1),
        transforms.RandomCrop(3, seed=1, mode="reflect"),
        transforms.RandomErasing(0.3, (0.1, 0.2), (0.5, 2), value=(1, 2, 3), seed=2),
        transforms.RandomRotation((-3, 7), seed=3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_configuration_round_trip(layer):
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    assert layer.compute_output_shape((None, 8, 8, 3)) == (None, 8, 8, 3)
    np.testing.assert_array_equal(numpy(again.draw(DRAWN)), numpy(layer.draw(DRAWN)))


OURS = [
    kind
    for kind in vars(transforms).values()
    if isinstance(kind, type)
    and issubclass(kind, layers.Layer)
    and kind.__module__ == transforms.__name__
    and not kind.__name__.startswith("_")
]
# What their constructors ask for.
ARGUMENTS = {"RandomCrop": (2,), "RandomRotation": (5,)}


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_each_layer_is_known_wherever_layers_are_listed(kind, tmp_path):
    layer = kind(*ARGUMENTS.get(kind.__name__, ()))
    assert build.is_random(layer)
    assert hasattr(rules, kind.__name__)  # what a twin does in its place
    model = keras.Sequential([keras.Input((8, 8, 3)), layer, layers.Flatten()])
    assert placement.unknown_layer(model) is None
    model.save(tmp_path / "model.keras")
    loaded = saved.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].get_config() == layer.get_config()


def test_an_alternating_flip_keeps_its_seed():
    x = images(64)
    layer = transforms.RandomAlternatingFlip()
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    np.testing.assert_array_equal(numpy(again.draw_for(x)), numpy(layer.draw_for(x)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transforms.RandomCrop(-1), "padding=-1"),
        (lambda: transforms.RandomCrop(1.5), "padding=1.5"),
        (lambda: transforms.RandomCrop(2, mode="mirror"), "mode='mirror'"),
        (lambda: transforms.RandomErasing(p=1.2), "p=1.2"),
        (lambda: transforms.RandomErasing(scale=(0.3, 0.1)), r"scale=\(0.3, 0.1\)"),
        (lambda: transforms.RandomErasing(scale=(0.3, 1.1)), r"scale=\(0.3, 1.1\)"),
        (lambda: transforms.RandomErasing(ratio=(3, 1)), r"ratio=\(3, 1\)"),
        (lambda: transforms.RandomErasing(ratio=(0, 1)), r"ratio=\(0, 1\)"),
        (lambda: transforms.RandomRotation(-5), "degrees=-5"),
        (lambda: transforms.RandomRotation((5, -5)), r"degrees=\(5, -5\)"),
        (lambda: transforms.standard("cifar"), "Did you mean 'cifar10'"),
        (lambda: transforms.standard("imagenette"), r"'imagenette'.*Known: cifar10"),
        (lambda: transforms.standard(0.5), "standard\\(mean, std\\)"),
        (lambda: transforms.standard("cifar10", 0.5), "std=0.5"),
        (lambda: transforms.standard([0.5, 0.5], [0.2]), "one mean"),
        (lambda: transforms.standard(0.5, 0), "positive"),
        *(
            case
            for value in (math.inf, -math.inf, math.nan)
            for case in (
                (lambda v=value: transforms.standard(v, 0.5), "all finite"),
                (lambda v=value: transforms.standard([0, 1], [1, v]), "one mean"),
                (lambda v=value: transforms.RandomRotation(v), "finite number"),
                (lambda v=value: transforms.RandomRotation((v, 5)), "finite number"),
                (lambda v=value: transforms.RandomRotation((-5, v)), "finite number"),
                (lambda v=value: transforms.RandomErasing(p=v), "probability"),
                (lambda v=value: transforms.RandomErasing(scale=(0, v)), "fractions"),
                (lambda v=value: transforms.RandomErasing(ratio=(1, v)), "finite"),
                (lambda v=value: transforms.RandomErasing(ratio=(v, v)), "finite"),
                (lambda v=value: transforms.RandomErasing(value=v), "must be finite"),
                (lambda v=value: transforms.RandomErasing(value=(0, v)), "finite"),
            )
        ),
    ],
)
def test_mistakes_get_one_clear_line(make, message):
    with pytest.raises(UsageError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match=r"expected ndim=4.*\(8, 8, 3\)"):
        transforms.RandomCrop(2)(np.zeros((8, 8, 3)))
    with pytest.raises(UsageError, match=r"can't reflect 8 pixels .* 8 x 12"):
        transforms.RandomCrop(8, mode="reflect").transform(
            images(1, 8, 12), np.zeros((1, 2))
        )
    with pytest.raises(UsageError, match=r"one per channel: 3 here.*value=\(1, 2\)"):
        transforms.RandomErasing(value=(1, 2)).transform(images(1), np.zeros((1, 4)))


@pytest.mark.slow
@pytest.mark.full_data
@pytest.mark.parametrize("dataset", transforms.CHANNEL_STATISTICS)
def test_channel_statistics_are_the_data_sets(dataset):
    loaded = data.load(dataset)
    if loaded.notice:
        pytest.skip(f"the full {dataset} is not prepared on this machine")
    # The figures are given to four digits.
    for actual, given in zip(
        data.statistics(loaded.train.images),
        transforms.CHANNEL_STATISTICS[dataset],
        strict=True,
    ):
        np.testing.assert_allclose(actual, given, rtol=0, atol=0.5e-4)
