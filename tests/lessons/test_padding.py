"""Padding by hand: the slide's numbers, PyTorch, Keras."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn.lessons import padding as lesson  # noqa: E402


def by_pytorch(image, kernel, padding, stride):
    maps = torch.nn.functional.conv2d(
        torch.tensor(image)[None, None],
        torch.tensor(kernel)[None, None],
        padding=padding,
        stride=stride,
    )
    return maps[0, 0].numpy()


def test_the_slides_4_by_4_example():
    without = lesson.convolve(lesson.COUNTING, lesson.KERNEL)
    # 1*1 + 2*2 + 3*3 + 5*4 + 6*5 + 7*6 + 9*7 + 10*8 + 11*9 = 348, and so on.
    assert without.tolist() == [[348, 393], [528, 573]]
    padded = lesson.convolve(lesson.COUNTING, lesson.KERNEL, (1, 1))
    assert padded.shape == (4, 4)
    assert padded[1:3, 1:3].tolist() == without.tolist()
    # The top left corner: 1*5 + 2*6 + 5*8 + 6*9.
    assert padded[0, 0] == 111
    np.testing.assert_array_equal(
        padded, by_pytorch(lesson.COUNTING, lesson.KERNEL, 1, 1)
    )


@pytest.mark.parametrize("size", [7, 8, 28])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padding_1_equals_pytorch(size, stride):
    generator = np.random.default_rng(0)
    image, kernel = generator.normal(size=(size, size)), generator.normal(size=(3, 3))
    expected = by_pytorch(image, kernel, 1, stride)
    output = lesson.convolve(image, kernel, (1, 1), stride)
    # float64 on both sides: what differs is the order of nine products.
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)
    assert len(output) == lesson.output_size(size, 3, padding=1, stride=stride)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [1, "same"])
def test_by_hand_equals_keras(size, stride, padding):
    generator = np.random.default_rng(0)
    image, kernel = generator.normal(size=(size, size)), generator.normal(size=(3, 3))
    zeros = lesson.same(size, 3, stride) if padding == "same" else (padding, padding)
    # float32 in Keras.
    np.testing.assert_allclose(
        lesson.convolve_in_keras(image, kernel, padding, stride),
        lesson.convolve(image, kernel, zeros, stride),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "zeros"),
    [
        (28, 3, 1, (1, 1)),
        (28, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (28, 5, 1, (2, 2)),
        (28, 2, 2, (0, 0)),
        (28, 1, 2, (0, 0)),
    ],
)
def test_the_zeros_of_same(size, kernel, stride, zeros):
    assert lesson.same(size, kernel, stride) == zeros


def test_with_stride_2_the_two_paddings_are_one_pixel_apart():
    image = np.arange(64.0).reshape(8, 8)
    middle = np.zeros((3, 3))
    middle[1, 1] = 1  # puts out the pixel in the middle of each window
    slide = lesson.convolve(image, middle, (1, 1), stride=2)
    keras = lesson.convolve(image, middle, (0, 1), stride=2)
    assert slide.tolist() == image[::2, ::2].tolist()
    assert keras.tolist() == image[1::2, 1::2].tolist()


def test_the_slides_network():
    sizes, size = [], 28
    for _, _, stride in lesson.NETWORK:
        size = lesson.output_size(size, 3, padding=1, stride=stride)
        sizes.append(size)
    assert sizes == [28, 14, 14, 7, 7]


def test_share_of_image():
    once = lesson.share_of_image(size=5, kernel=3, depth=1)
    np.testing.assert_allclose(once[0, :3], [4 / 9, 6 / 9, 6 / 9], rtol=1e-12)
    np.testing.assert_allclose(once[1:4, 1:4], 1, rtol=1e-12)
    twice = lesson.share_of_image(size=5, kernel=3, depth=2)
    # The corner's mean of one corner, four borders' neighbours and the inside.
    np.testing.assert_allclose(twice[0, 0], (4 / 9 + 2 * 6 / 9 + 1) / 9, rtol=1e-12)


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/padding.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "1,818,890" in printed
    assert "7 x 7 x 512" in printed
