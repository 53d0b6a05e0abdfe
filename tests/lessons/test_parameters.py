"""Parameters by hand: the slides' tables, Keras."""

import time

import pytest

from kerascnn.lessons import parameters as lesson

CONVOLUTIONAL = lesson.CONVOLUTIONAL


def test_the_printed_table():
    rows = lesson.count((28, 28, 1), CONVOLUTIONAL)
    # Lecture 1, channels last.
    assert [(row.output, row.parameters) for row in rows] == [
        ((22, 22, 32), 1_600),
        ((22, 22, 32), 0),
        ((16, 16, 64), 100_416),
        ((16, 16, 64), 0),
        ((10, 10, 128), 401_536),
        ((10, 10, 128), 0),
        ((4, 4, 256), 1_605_888),
        ((4, 4, 256), 0),
        ((4096,), 0),
        ((128,), 524_416),
        ((128,), 0),
        ((10,), 1_290),
    ]
    assert lesson.total(rows) == 2_635_146
    assert sum(row.values for row in rows) == 101_898


def test_the_printed_memory():
    forward_and_backward, parameters = lesson.megabytes(
        lesson.count((28, 28, 1), CONVOLUTIONAL)
    )
    # Printed with two digits.
    assert forward_and_backward == pytest.approx(0.78, abs=0.005)
    assert parameters == pytest.approx(10.05, abs=0.005)


@pytest.mark.parametrize(
    ("image", "network", "expected"),
    [
        ((28, 28, 1), lesson.PERCEPTRON, 203_530),
        ((32, 32, 3), lesson.PERCEPTRON, 789_258),
        ((32, 32, 3), lesson.PERCEPTRON_2, 855_050),
        ((32, 32, 3), lesson.PERCEPTRON_3, 920_842),
        ((32, 32, 3), CONVOLUTIONAL, 4_211_146),
        ((28, 28, 1), (*CONVOLUTIONAL[:4], lesson.Dense(10)), 2_150_410),
    ],
)
def test_the_courses_networks(image, network, expected):
    assert lesson.total(lesson.count(image, network)) == expected


def test_small_layers_counted_on_the_fingers():
    assert lesson.of_dense(inputs=3, units=2) == 6 + 2
    assert lesson.of_convolution(kernel=2, channels=1, filters=1) == 4 + 1


def test_by_hand_equals_keras():
    network = (lesson.Convolution(3, 4), lesson.Convolution(2, 5), lesson.Dense(6))
    rows = lesson.count((7, 8, 3), network)
    layers = lesson.in_keras((7, 8, 3), network).layers[1:]
    assert [row.layer for row in rows] == [type(layer).__name__ for layer in layers]
    assert [row.output for row in rows] == [layer.output.shape[1:] for layer in layers]
    assert [row.parameters for row in rows] == [
        layer.count_params() for layer in layers
    ]


def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/parameters.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert printed.count("2,635,146") == 3
    assert "0.78 MB" in printed
    assert "10.05 MB" in printed
    # What a fully connected layer would need for the first convolution's maps.
    assert f"{784 * 22 * 22 * 32 + 22 * 22 * 32:,}" in printed
