"""The vanishing gradient: slopes and gradients against PyTorch."""

import time

import keras
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kerascnn import UsageError, data  # noqa: E402
from kerascnn.lessons import vanishing_gradient as lesson  # noqa: E402

ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu}


def test_slopes_equal_pytorch():
    x = np.array([-8.0, -2.0, -0.5, 0.5, 1.0, 7.0])
    for slope, activation in (
        (lesson.slope_of_sigmoid, torch.sigmoid),
        (lesson.slope_of_relu, torch.relu),
    ):
        leaf = torch.tensor(x, requires_grad=True)
        activation(leaf).sum().backward()
        np.testing.assert_allclose(slope(x), leaf.grad.numpy(), rtol=1e-12)
    assert lesson.slope_of_sigmoid(0.0) == 0.25


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_chain_equals_pytorch(activation):
    weights = [1.5, 0.7, 2.0, 0.3]
    leaf = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    x = leaf
    for weight in weights:
        x = ACTIVATIONS[activation](weight * x)
    x.backward()
    assert lesson.slope_of_chain(0.8, weights, activation) == pytest.approx(
        leaf.grad.item(), rel=1e-12
    )


def test_nine_sigmoids_with_weight_1_take_more_than_4_to_the_9():
    assert 4**9 == 262_144
    assert 0 < lesson.slope_of_chain(0.0, [1.0] * 9, "sigmoid") < 1 / 262_144
    assert lesson.slope_of_chain(1.0, [1.0] * 9, "relu") == 1


def test_glorot_uniform_equals_pytorchs_distribution():
    kernel = lesson.glorot_uniform((3, 3, 20, 40), np.random.default_rng(0))
    # torch.nn.init.xavier_uniform_: fan_in 180, fan_out 360.
    bound = np.sqrt(6 / 540)
    assert bound * 0.99 < np.abs(kernel).max() <= bound
    # 7,200 draws: the variance is known to within about 2%.
    assert kernel.var() == pytest.approx(2 / 540, rel=0.05)
    dense = lesson.glorot_uniform((100, 50), np.random.default_rng(0))
    assert 0.99 < np.abs(dense).max() / np.sqrt(6 / 150) <= 1


def test_the_lectures_parameters():
    assert lesson.network("sigmoid").count_params() == 4_022_794


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_gradient_norms_equal_pytorch(activation):
    split = data.load("cifar10", data="sample").train
    images, labels = split.images[:4].astype("float32") / 255, split.labels[:4]
    model = lesson.network(activation, widths=(4, 6, 8))
    norms = lesson.gradient_norms(model, images, labels)

    kernels = [
        torch.tensor(weight, dtype=torch.float64, requires_grad=True)
        for weight in model.get_weights()[::2]
    ]
    x = torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2)
    for index, kernel in enumerate(kernels[:9], 1):
        x = torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), padding=1)
        x = ACTIVATIONS[activation](x)
        if index % 3 == 0:
            x = torch.nn.functional.max_pool2d(x, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)  # Keras flattens with the channels last
    x = ACTIVATIONS[activation](x @ kernels[9]) @ kernels[10]
    torch.nn.functional.cross_entropy(x, torch.tensor(labels).long()).backward()

    assert len(norms) == 11
    # float32 against float64, through eleven layers.
    np.testing.assert_allclose(
        list(norms.values()), [kernel.grad.norm() for kernel in kernels], rtol=1e-3
    )


def test_first_step_of_adam_equals_pytorch():
    # Of the size of Adam's epsilon, and far above it.
    for gradient in (9.4e-9, -9.4e-9, 1e-3):
        weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        torch.optim.Adam([weight], lr=1.0).step()
        assert lesson.first_step_of_adam(gradient) == pytest.approx(
            -weight.item(), rel=1e-9
        )


def test_differences_of_logits():
    image = keras.Input((1, 1, 2))
    model = keras.Model(image, keras.layers.Flatten()(image))
    # Means 2 and 6; deviations 1 and 3.
    logits = np.array([[1.0, 9.0], [3.0, 3.0]], "float32").reshape(2, 1, 1, 2)
    assert lesson.differences_of_logits(model, logits) == pytest.approx((2, 2))


@pytest.mark.slow
def test_sigmoids_send_back_the_same_for_other_images_with_these_labels():
    split = data.load("cifar10", data="sample").train
    images, labels = split.images[:4].astype("float32") / 255, split.labels[:4]
    changes = {}
    for activation in ACTIVATIONS:
        model = lesson.network(activation, widths=(4, 6, 8))
        norms, of_others = (
            np.array(list(lesson.gradient_norms(model, x, labels).values()))
            for x in (images, 1 - images[::-1])
        )
        changes[activation] = np.abs(of_others / norms - 1)
    # The first kernel's gradient is multiplied by the images themselves.
    assert (changes["sigmoid"][1:] < 0.05).all()
    assert (changes["sigmoid"][-3:] < 1e-4).all()
    assert (changes["relu"][-3:] > 1e-3).all()


def test_other_backends_are_told_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(UsageError, match="KERAS_BACKEND"):
        lesson.main()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Processor time, since the machine may be busy with other things.
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/vanishing_gradient.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    rows = [line.split("│") for line in printed.splitlines() if "_" in line]
    sigmoid = {cells[1].strip(): float(cells[2]) for cells in rows if len(cells) == 5}
    relu = {cells[1].strip(): float(cells[3]) for cells in rows if len(cells) == 5}
    # What the lesson says: the sigmoid's gradient is lost on its way, ReLU's is not.
    assert sigmoid["convolution_1"] / sigmoid["dense_2"] < 1e-5
    assert relu["convolution_1"] / relu["dense_2"] > 0.1
    # For one weight it is about Adam's epsilon, so Adam's step is about half a full
    # one; and the logits differ from image to image by float32's rounding of 1.
    per_weight, step, by_class, by_image = (
        [float(cell) for cell in line.split("│")[2:4]]
        for line in printed.splitlines()
        if any(word in line for word in ("one weight", "learning rates", "deviation"))
    )
    assert per_weight[0] == pytest.approx(
        sigmoid["convolution_1"] / np.sqrt(3 * 3 * 3 * 64), rel=0.05
    )
    assert 0.3 < step[0] < 0.7
    assert step[1] == 1
    assert by_image[0] < 1e-6 * by_class[0]
    assert by_image[1] > 0.1 * by_class[1]
