"""1 x 1 convolutions: the slides' table, NumPy, PyTorch, the moved weights."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn import data  # noqa: E402
from kerascnn.lessons import one_by_one as lesson  # noqa: E402


@pytest.fixture(scope="module")
def networks():
    """Both networks with the same weights, biases that are not 0 among them."""
    dense, convolutional = lesson.with_dense_layers(), lesson.with_convolutions()
    generator = np.random.default_rng(0)
    dense.set_weights(
        [
            w if w.ndim > 1 else generator.normal(size=w.shape)
            for w in dense.get_weights()
        ]
    )
    lesson.move_weights(dense, convolutional)
    return dense, convolutional


def test_one_by_one_is_a_dense_layer_for_each_pixel():
    generator = np.random.default_rng(0)
    x, kernel = generator.normal(size=(3, 4, 5)), generator.normal(size=(5, 6))
    bias = generator.normal(size=6)
    by_hand = lesson.one_by_one(x, kernel, bias)
    expected = torch.nn.functional.conv2d(
        torch.tensor(x).permute(2, 0, 1)[None],
        torch.tensor(kernel.T[:, :, None, None]),
        torch.tensor(bias),
    )
    # float64 on both sides: what differs is the order of five products.
    np.testing.assert_allclose(
        by_hand, expected[0].permute(1, 2, 0).numpy(), rtol=0, atol=1e-12
    )
    for output in lesson.one_by_one_in_keras(x, kernel, bias):
        # float32 in Keras.
        np.testing.assert_allclose(output, by_hand, rtol=1e-5, atol=1e-5)


def test_the_printed_parameters(networks):
    # Lecture 2: 320; 18,496; 401,536; 1,290 on both slides.
    for network in networks:
        counts = [layer.count_params() for layer in network.layers]
        assert [count for count in counts if count] == [320, 18_496, 401_536, 1_290]
        assert network.count_params() == 421_642


def test_the_networks_are_the_same_function(networks):
    dense, convolutional = networks
    images = data.load("fashion_mnist", data="sample").test.images[:4] / np.float32(255)
    logits = dense.predict_on_batch(images)
    logit_maps = convolutional.predict_on_batch(images)
    assert logit_maps.shape == (4, 1, 1, 10)
    assert np.ptp(logits) > 1
    # float32: sums of 3,136 products in another order.
    np.testing.assert_allclose(logit_maps[:, 0, 0], logits, rtol=0, atol=1e-4)


def test_a_larger_image_gives_a_map(networks):
    _, convolutional = networks
    image = np.random.default_rng(0).normal(size=(1, 36, 44, 1)).astype("float32")
    logits = convolutional.predict_on_batch(image)
    assert logits.shape == (1, 36 // 4 - 6, 44 // 4 - 6, 10)
    # Move the image by one step, and the middle of the map moves by one vector.
    moved = convolutional.predict_on_batch(np.roll(image, 4, axis=2))
    np.testing.assert_allclose(logits[:, 1, 1:-2], moved[:, 1, 2:-1], rtol=0, atol=1e-4)


def test_canvas():
    images = np.arange(1, 5)[:, None, None] * np.ones((4, 28, 28))
    hung = lesson.canvas(images, gap=3)
    assert hung.shape == (2 * 28 + 3 * 3,) * 2
    assert hung.sum() == 28 * 28 * 10
    for index in range(4):
        top, left = lesson.corner(index, n=2, gap=3)
        assert (hung[top : top + 28, left : left + 28] == index + 1).all()


def test_multiplications():
    # 28x28x9x32, 14x14x9x32x64, 3136x128 and 128x10.
    assert lesson.multiplications(28) == 225_792 + 3_612_672 + 401_408 + 1_280
    one, four = lesson.multiplications(28), lesson.multiplications(32)
    # Four windows share all but the last two layers.
    assert four < 2 * one


def test_probabilities():
    np.testing.assert_allclose(
        lesson.probabilities(np.log([[1.0, 3.0]])), [[0.25, 0.75]], rtol=1e-12
    )
    assert lesson.probabilities(np.array([1000.0, 0.0])).tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/one_by_one.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "421,642" in printed
    # A window that holds a garment exactly is answered as the garment alone: nearly,
    # since the canvas goes on where the single image is padded. It is trained, too.
    answers = [line for line in printed.splitlines() if line.count("%") == 2]
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in answers]
    assert len(cells) == 9
    agree = [alone.split(" ")[0] == there.split(" ")[0] for _, alone, there in cells]
    right = [alone.startswith(garment) for garment, alone, _ in cells]
    assert sum(agree) >= 8
    assert sum(right) >= 6
