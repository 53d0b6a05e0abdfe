"""Downsampling by hand: the slides' numbers, PyTorch, Keras."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn.lessons import downsampling as lesson  # noqa: E402

EXPECTED = {
    "maximum": [[6, 8], [14, 16]],
    "average": [[3.5, 5.5], [11.5, 13.5]],
    "stride 1": [[44, 54, 64], [84, 94, 104], [124, 134, 144]],
    "stride 2": [[44, 64], [124, 144]],
    # At the middle of each window, by the definition: the mean of its four pixels.
    "resized": [[3.5, 5.5], [11.5, 13.5]],
}


def test_one_to_sixteen_by_hand():
    assert lesson.maximum(lesson.COUNTING).tolist() == EXPECTED["maximum"]
    assert lesson.average(lesson.COUNTING).tolist() == EXPECTED["average"]
    assert lesson.strided(lesson.COUNTING, stride=1).tolist() == EXPECTED["stride 1"]
    assert lesson.strided(lesson.COUNTING).tolist() == EXPECTED["stride 2"]
    assert lesson.resized(lesson.COUNTING).tolist() == EXPECTED["resized"]


def test_one_to_sixteen_in_keras():
    results = lesson.in_keras(lesson.COUNTING)
    assert {name: result.tolist() for name, result in results.items()} == EXPECTED


def by_pytorch(image):
    functional = torch.nn.functional
    batch = torch.tensor(image)[None, None]
    kernel = torch.tensor(lesson.KERNEL)[None, None]
    results = {
        "maximum": functional.max_pool2d(batch, 2, 2),
        "average": functional.avg_pool2d(batch, 2, 2),
        "stride 1": functional.conv2d(batch, kernel),
        "stride 2": functional.conv2d(batch, kernel, stride=2),
        "resized": functional.interpolate(
            batch, scale_factor=0.5, mode="bilinear", align_corners=False
        ),
    }
    return {name: result[0, 0].numpy() for name, result in results.items()}


@pytest.mark.parametrize("shape", [(6, 8), (7, 9)])
def test_by_hand_equals_pytorch(shape):
    image = np.random.default_rng(0).normal(size=shape)
    expected = by_pytorch(image)
    # float64 on both sides: what differs is the order of four terms.
    close = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_array_equal(lesson.maximum(image), expected["maximum"])
    np.testing.assert_allclose(lesson.average(image), expected["average"], **close)
    np.testing.assert_allclose(
        lesson.strided(image, stride=1), expected["stride 1"], **close
    )
    np.testing.assert_allclose(lesson.strided(image), expected["stride 2"], **close)
    if shape == (6, 8):  # an odd size moves the centres of PyTorch's new pixels
        np.testing.assert_allclose(lesson.resized(image), expected["resized"], **close)


def test_resizing_by_half_is_the_average():
    image = np.random.default_rng(1).normal(size=(10, 6))
    np.testing.assert_allclose(
        lesson.resized(image), lesson.average(image), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("halve", [lesson.maximum, lesson.average])
def test_220_pixels_become_110_and_55(halve):
    image = np.zeros((220, 220))
    assert halve(image).shape == (110, 110)
    assert lesson.twice(halve, image).shape == (55, 55)


def test_what_is_left_of_one_bright_pixel():
    image = np.zeros((8, 8))
    image[3, 5] = 16
    assert lesson.twice(lesson.maximum, image).tolist() == [[0, 16], [0, 0]]
    assert lesson.twice(lesson.average, image).tolist() == [[0, 1], [0, 0]]
    assert lesson.twice(lesson.nearest, image).tolist() == [[0, 0], [0, 0]]


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/downsampling.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "11.5  13.5" in printed
    assert printed.endswith("figure: runs/lessons/downsampling.png\n")
