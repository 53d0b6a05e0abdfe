"""Edges: the slides' kernels, and the filters by hand against PyTorch and Keras."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn import data, edges  # noqa: E402
from kerascnn.lessons import edges as lesson  # noqa: E402


@pytest.fixture(scope="module")
def grey():
    images = data.load("cifar10", data="sample").test.images[:3] / 255
    return (images @ [0.299, 0.587, 0.114]).astype("float32")


def test_sobel_is_separable_as_on_the_slide():
    x = lesson.product([1, 2, 1], [-1, 0, 1])
    assert x.tolist() == [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    assert x.tolist() == np.array(edges.SOBEL_X).tolist()
    y = lesson.product([1, 0, -1], [1, 2, 1])
    assert y.tolist() == [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]
    # The other slide's: G_y = [-1 -2 -1; 0 0 0; 1 2 1].
    assert (-y).tolist() == np.array(edges.SOBEL_Y).tolist()


@pytest.mark.parametrize("kernel", [edges.SCHARR_Y, edges.LAPLACIAN, ((1, 2, 5),)])
def test_correlate_equals_pytorch(grey, kernel):
    weights = torch.tensor(kernel, dtype=torch.float64)[None, None]
    rows, columns = len(kernel) // 2, len(kernel[0]) // 2
    image = torch.tensor(grey[0], dtype=torch.float64)[None, None]
    padded = torch.nn.functional.pad(image, (columns, columns, rows, rows), "reflect")
    expected = torch.nn.functional.conv2d(padded, weights)[0, 0].numpy()
    np.testing.assert_allclose(lesson.correlate(grey[0], kernel), expected, atol=1e-12)


@pytest.mark.parametrize("name", lesson.FILTERS)
def test_by_hand_equals_keras(grey, name):
    for image in grey:
        # float32 sums of nine products, with weights up to 10.
        np.testing.assert_allclose(
            lesson.in_keras(image, name), lesson.by_hand(image, name), atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "height"),
    # Sums of the positive weights; Roberts: both diagonals see the step.
    [("Sobel", 4), ("Scharr", 16), ("Prewitt", 3), ("Roberts", 2**0.5)],
)
def test_a_step_of_one(name, height):
    output = lesson.by_hand(lesson.step_image(), name)
    assert output.max() == pytest.approx(height)
    assert output.min() == 0
    # It is found where it is: between the columns 2 and 3, and nowhere else.
    assert np.flatnonzero(output.sum(axis=0)).tolist() in ([2, 3], [3])


def test_the_laplacian_keeps_the_sign():
    output = lesson.by_hand(lesson.step_image(), "Laplacian")
    assert output[2].tolist() == [0, 0, 1, -1, 0, 0]


def test_strength():
    assert lesson.strength(np.array([-4.0, 2.0, 0.0])).tolist() == [1.0, 0.5, 0.0]


def test_otsu_parts_two_heaps():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(0, 0.2, 900), rng.uniform(0.7, 1, 100)])
    assert 0.2 <= lesson.otsu(values) <= 0.7


def test_otsu_leaves_the_least_variance_within(grey):
    values = lesson.strength(lesson.by_hand(grey[0], "Sobel"))

    def within(cut):
        sides = (values[values > cut], values[values <= cut])
        return sum(len(side) * side.var() for side in sides if len(side))

    best = min(np.linspace(0, 1, 65), key=within)
    assert within(lesson.otsu(values)) == pytest.approx(within(best), rel=1e-12)


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/edges.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "0.18" in printed
    assert "0.35" in printed
