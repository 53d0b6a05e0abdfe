"""Batch normalisation by hand: the slides' numbers, PyTorch, finite differences."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn.lessons import batch_norm as lesson  # noqa: E402

# Some slides cut after two digits where others round.
SLIDE = 0.01


def test_six_samples_of_a_node():
    mean, biased, _ = lesson.statistics(lesson.NODE)
    assert mean.tolist() == [5.0]
    assert np.sqrt(biased) == pytest.approx([1.63], abs=SLIDE)
    np.testing.assert_allclose(
        lesson.forward(lesson.NODE).ravel(),
        [-1.83, 0, 0.61, 1.22, -0.61, 0.61],
        atol=SLIDE,
    )


def test_the_node_whose_data_are_lost():
    mean, biased, _ = lesson.statistics(lesson.ANOTHER_NODE)
    assert mean.tolist() == [5.0]
    assert biased.tolist() == [7.0]
    assert np.sqrt(biased) == pytest.approx([2.64], abs=SLIDE)
    np.testing.assert_allclose(
        np.abs(lesson.forward(lesson.ANOTHER_NODE).ravel()),
        [1.51, 0.75, 1.51, 0.37, 0.37, 0.75],
        atol=SLIDE,
    )


def test_three_images_of_one_channel():
    mean, biased, _ = lesson.statistics(lesson.THREE_IMAGES)
    assert lesson.THREE_IMAGES.shape == (3, 2, 2, 1)
    assert mean.tolist() == [2.5]
    assert biased == pytest.approx([6.58], abs=SLIDE)
    printed = {7: 1.75, 5: 0.97, 4: 0.58, 3: 0.19, 2: -0.19, 1: -0.58, 0: -0.97}
    outputs = lesson.forward(lesson.THREE_IMAGES)
    for value, output in zip(lesson.THREE_IMAGES.flat, outputs.flat, strict=True):
        assert output == pytest.approx(printed[value], abs=SLIDE)


def test_one_image_of_two_channels():
    mean, biased, unbiased = lesson.statistics(lesson.ONE_IMAGE)
    assert lesson.ONE_IMAGE.shape == (1, 2, 2, 2)
    assert mean.tolist() == [2.0, 3.0]
    assert biased.tolist() == [4.5, 6.5]
    assert unbiased == pytest.approx([6.0, 8.67], abs=SLIDE)
    outputs = lesson.forward(lesson.ONE_IMAGE)[0]
    np.testing.assert_allclose(
        outputs[..., 0], [[-0.94, 1.41], [0.47, -0.94]], atol=SLIDE
    )
    np.testing.assert_allclose(outputs[..., 1], [[1.56, -0.39], [-1.17, 0]], atol=SLIDE)


def test_two_images_of_two_channels():
    mean, biased, _ = lesson.statistics(lesson.TWO_IMAGES)
    assert lesson.TWO_IMAGES.shape == (2, 2, 2, 2)
    assert mean.tolist() == [2.0, 3.0]
    assert biased.tolist() == [4.0, 3.75]  # printed: 4.0, 3.7


def torch_layer(x, gamma, beta, momentum=0.1):
    """PyTorch's BatchNorm2d in float64, and its input in (batch, channels, h, w)."""
    layer = torch.nn.BatchNorm2d(x.shape[-1], momentum=momentum, dtype=torch.float64)
    layer.weight.data = torch.tensor(gamma)
    layer.bias.data = torch.tensor(beta)
    return layer, torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return {
        "x": generator.normal(2, 3, size=(5, 4, 3, 2)),
        "gradient": generator.normal(size=(5, 4, 3, 2)),
        "gamma": np.array([0.5, -2.0]),
        "beta": np.array([1.0, 3.0]),
    }


def test_forward_and_backward_equal_pytorch(batch):
    x, gradient, gamma, beta = batch.values()
    layer, image = torch_layer(x, gamma, beta)
    outputs = layer(image)
    outputs.backward(torch.tensor(np.moveaxis(gradient, -1, 1)))

    # Both in float64: what differs is the order of the sums.
    close = {"rtol": 1e-10, "atol": 1e-12}
    ours = lesson.forward(x, gamma, beta)
    np.testing.assert_allclose(
        ours, np.moveaxis(outputs.detach().numpy(), 1, -1), **close
    )
    of_x, of_gamma, of_beta = lesson.backward(gradient, x, gamma)
    np.testing.assert_allclose(of_x, np.moveaxis(image.grad.numpy(), 1, -1), **close)
    np.testing.assert_allclose(of_gamma, layer.weight.grad.numpy(), **close)
    np.testing.assert_allclose(of_beta, layer.bias.grad.numpy(), **close)


def test_backward_equals_autodiff(batch):
    x, gradient, gamma, beta = batch.values()
    by_hand = lesson.backward(gradient, x, gamma)
    by_autodiff = lesson.backward_by_autodiff(gradient, x, gamma, beta)
    for hand, auto in zip(by_hand, by_autodiff, strict=True):
        # Autodiff runs in float32; sums of 60 terms of size 1.
        np.testing.assert_allclose(hand, auto, rtol=1e-5, atol=1e-5)


def test_no_gradient_for_a_common_shift_or_scale(batch):
    x, gradient, gamma, _ = batch.values()
    of_x, _, _ = lesson.backward(gradient, x, gamma, epsilon=0)
    centred = x - x.mean((0, 1, 2))
    np.testing.assert_allclose(of_x.sum((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose((of_x * centred).sum((0, 1, 2)), 0, atol=1e-12)


def test_gamma_sigma_and_beta_mean_are_the_identity(batch):
    x = batch["x"]
    mean, biased, _ = lesson.statistics(x)
    outputs = lesson.forward(x, np.sqrt(biased + 1e-5), mean)
    np.testing.assert_allclose(outputs, x, rtol=1e-12)


def test_keras_keeps_the_biased_variance_and_pytorch_the_unbiased():
    layer, image = torch_layer(lesson.ONE_IMAGE, np.ones(2), np.zeros(2), momentum=1)
    layer(image)
    # float32 in Keras.
    np.testing.assert_allclose(
        lesson.variance_kept_by_keras(lesson.ONE_IMAGE), [4.5, 6.5], rtol=1e-6
    )
    assert layer.running_var.numpy() == pytest.approx([6.0, 8.67], abs=SLIDE)


def test_a_bias_is_redundant_before_the_layer_and_not_before_relu():
    x = np.array([[-1.0], [0.0], [1.0], [2.0]])
    assert lesson.effect_of_bias(x, 10.0, relu=False) < 1e-12
    # ReLU gives 0 0 1 2 without the bias and 0 1 2 3 with it.
    without = (np.array([0, 0, 1, 2]) - 0.75) / np.sqrt(0.6875 + 1e-5)
    with_bias = (np.array([0, 1, 2, 3]) - 1.5) / np.sqrt(1.25 + 1e-5)
    assert lesson.effect_of_bias(x, 1.0, relu=True) == pytest.approx(
        np.abs(with_bias - without).max(), rel=1e-12
    )


def test_the_same_sample_in_two_mini_batches():
    sample, light, dark = (np.full((1, 1, 1), v) for v in (1.0, 3.0, -1.0))
    outputs = lesson.in_many_batches(
        sample, np.stack([light, dark]), batch_size=2, draws=20, seed=0
    )
    # In pairs the layer sees only which of the two is larger.
    assert sorted(set(outputs.ravel().round(3))) == [-1.0, 1.0]


def test_noise_fades_with_the_batch():
    others = np.random.default_rng(1).normal(size=(300, 2, 2, 1))
    spread = [
        lesson.in_many_batches(others[0], others[1:], size, draws=100, seed=0).std(0)
        for size in (4, 16, 64)
    ]
    assert (spread[0] > 1.5 * spread[1]).all()
    assert (spread[1] > 1.5 * spread[2]).all()


def table_after(title, printed):
    """The cells of a printed table's rows, without its head."""
    lines = printed.split(title)[1].split("└")[0].splitlines()
    return [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in lines
        if "│" in line
    ]


def numbers(cell):
    return [float(word) for word in cell.split() if word != "±"]


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/batch_norm.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    statistics = table_after("Mean, sigma and variance", printed)
    # Slide, mean, sigma, the biased and the unbiased variance.
    assert [row[:5] for row in statistics] == [
        ["node", "5", "1.63", "2.67", "3.20"],
        ["node 2", "5", "2.65", "7.00", "8.40"],
        ["3 images", "2.5", "2.57", "6.58", "7.18"],
        ["1 image", "2 3", "2.12 2.55", "4.50 6.50", "6.00 8.67"],
        ["2 images", "2 3", "2.00 1.94", "4.00 3.75", "4.57 4.29"],
    ]
    assert [row[5] for row in statistics] == [row[3] for row in statistics]
    slides = [
        [-1.83, 0, 0.61, 1.22, -0.61, 0.61],
        [1.51, 0.75, 1.51, 0.37, 0.37, 0.75],  # signs lost
        [1.75, 0.97, -0.97, 0.58],
        [-0.97, 1.75, 0.19, -0.58],
        [-0.19, -0.97, -0.97, -0.58],
        [-0.94, 1.41, 0.47, -0.94],
        [1.56, -0.39, -1.17, 0],
    ]
    outputs = table_after("Outputs", printed)
    assert [numbers(slide) for _, _, slide in outputs] == slides
    for (name, output, _), slide in zip(outputs, slides, strict=True):
        ours = np.array(numbers(output))
        # Ours are rounded where the slides' are cut; 1e-9 for binary rounding.
        np.testing.assert_allclose(
            np.abs(ours) if name == "node 2" else ours, slide, atol=SLIDE + 1e-9
        )
    assert printed.endswith("figure: runs/lessons/batch_norm.png\n")
