"""Convolution by hand: the slides' numbers, PyTorch, keras.ops."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn.lessons import convolution as lesson  # noqa: E402

# The slides' numbers have one digit and are exact: only binary rounding is left.
EXACT = {"rtol": 0, "atol": 1e-12}


def test_one_to_nine_with_one_to_four():
    output = lesson.convolve_plane(lesson.COUNTING, lesson.COUNTING_KERNEL)
    assert output.tolist() == [[37, 47], [67, 77]]
    assert lesson.parameters(kernel=2, channels=1, filters=1) == 5


@pytest.mark.parametrize(
    ("stride", "printed"),
    [
        (1, [[-0.1, -0.1, -0.2], [0.3, -0.2, 0.1], [0.3, -0.3, 0.1]]),
        (2, [[-0.1, -0.2], [0.3, 0.1]]),
    ],
)
def test_the_slides_output_follows_from_the_corrected_kernel_only(stride, printed):
    corrected = lesson.convolve_plane(lesson.D, lesson.K, stride)
    np.testing.assert_allclose(corrected, printed, **EXACT)
    as_printed = lesson.convolve_plane(lesson.D, lesson.K_AS_PRINTED, stride)
    assert np.abs(as_printed - printed).max() > 0.09
    # The slide's worked cell does not show the swap.
    assert as_printed[0, 0] == pytest.approx(-0.1, abs=1e-12)


def test_the_two_kernels_differ_in_the_middle_row_alone():
    assert lesson.K.tolist() == [[0, 0.1, -0.1], [-0.2, 0.1, 0], [0, 0, 0.1]]
    assert lesson.K_AS_PRINTED.tolist() == [[0, 0.1, -0.1], [-0.2, 0, 0.1], [0, 0, 0.1]]


def random_layer(seed):
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(9, 8, 3)),
        generator.normal(size=(4, 3, 3, 5)),
        generator.normal(size=5),
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_by_hand_equals_pytorch(stride):
    image, kernel, bias = random_layer(seed=stride)
    expected = torch.nn.functional.conv2d(
        torch.tensor(image).permute(2, 0, 1)[None],
        torch.tensor(kernel).permute(3, 2, 0, 1),
        torch.tensor(bias),
        stride=stride,
    )[0].permute(1, 2, 0)
    # float64 on both sides: what differs is the order of 36 products.
    np.testing.assert_allclose(
        lesson.convolve(image, kernel, bias, stride),
        expected.numpy(),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_by_hand_equals_keras(stride):
    image, kernel, bias = random_layer(seed=stride)
    # float32 in Keras.
    np.testing.assert_allclose(
        lesson.convolve_in_keras(image, kernel, bias, stride),
        lesson.convolve(image, kernel, bias, stride),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "stride", "expected"),
    [
        (32, 5, 0, 1, 28),
        (28, 7, 0, 1, 22),
        (10, 7, 0, 1, 4),
        (28, 3, 1, 2, 14),
        (4, 2, 0, 2, 2),
        (5, 3, 0, 2, 2),
    ],
)
def test_output_size(size, kernel, padding, stride, expected):
    assert lesson.output_size(size, kernel, padding, stride) == expected


def test_parameters():
    assert lesson.parameters(kernel=7, channels=1, filters=32) == 1_600
    assert lesson.parameters(kernel=7, channels=32, filters=64) == 100_416


@pytest.mark.parametrize("filters", [1, 4])
def test_a_colour_image_gives_one_map_per_kernel(filters):
    image, kernel = np.ones((32, 32, 3)), np.ones((5, 5, 3, filters))
    maps = lesson.convolve(image, kernel)
    assert maps.shape == (28, 28, filters)
    assert (maps == 75).all()


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/convolution.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "-0.1 -0.1 -0.2" in printed
    assert printed.endswith("figure: runs/lessons/convolution.png\n")
