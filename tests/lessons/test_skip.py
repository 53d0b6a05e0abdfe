"""Skip connections: the lecture's parameters, and a PyTorch twin of the network."""

import time

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from kerascnn import data  # noqa: E402
from kerascnn.lessons import skip as lesson  # noqa: E402


def twin(kernels, images, join):
    """The slide's network in PyTorch, channels first, and its convolutions' outputs."""

    def convolve(x, name, **settings):
        return functional.relu(functional.conv2d(x, kernels[name], **settings))

    x, outputs = images, []
    for block in range(4):
        block_input = x
        for number in range(3 * block + 1, 3 * block + 4):
            x = convolve(x, f"conv {number}", padding="same")
            outputs.append(x)
        x = functional.max_pool2d(x, 2, 2)
        if join != "none":
            name = f"shortcut {block + 1}"
            shortcut = convolve(block_input, name, stride=2, padding=1)
            x = x + shortcut if join == "add" else torch.cat([x, shortcut], dim=1)
    x = x.permute(0, 2, 3, 1).flatten(1)  # Keras flattens height, width, channels
    x = functional.relu(x @ kernels["dense 1"])
    return x @ kernels["dense 2"], outputs


def kernels_of_twin(kernels):
    return {
        name: torch.tensor(
            kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel,
            requires_grad=True,
        )
        for name, kernel in kernels.items()
    }


def batch(number):
    train = data.load("cifar10", data="sample").train
    return (train.images[:number] / 255).astype("float32"), train.labels[:number]


@pytest.mark.parametrize(
    ("join", "parameters"),
    # COURSE: cifar_relu_12, cifar_skip_12, cifar_skip_concat_12.
    [("none", 8_873_994), ("add", 10_424_970), ("concatenate", 14_570_122)],
)
def test_at_full_width_the_parameters_are_the_lectures(join, parameters):
    kernels = lesson.initial_kernels(join, widths=(64, 128, 256, 512))
    # One bias for each filter or node; they begin at 0, so the lesson leaves them out.
    biases = sum(kernel.shape[-1] for kernel in kernels.values())
    assert sum(kernel.size for kernel in kernels.values()) + biases == parameters


def test_the_kernels_follow_glorots_rule():
    kernels = lesson.initial_kernels("none", widths=(64, 128, 256, 512))
    kernel = kernels["conv 12"]  # 9 x 512 inputs, 9 x 512 outputs of a weight's node
    bound = np.sqrt(6 / (9 * 512 + 9 * 512))
    assert np.abs(kernel).max() == pytest.approx(bound, rel=1e-4)
    assert kernel.var() == pytest.approx(bound**2 / 3, rel=0.01)
    doubled = lesson.initial_kernels("none", scale=2.0)["conv 5"]
    once = lesson.initial_kernels("none")["conv 5"]
    np.testing.assert_allclose(doubled, np.sqrt(2) * once, rtol=1e-6)


@pytest.mark.parametrize("join", lesson.JOINS)
def test_the_network_equals_its_twin(join):
    kernels = lesson.initial_kernels(join, widths=(3, 4, 5, 6), scale=2.0)
    images, _ = batch(4)
    logits, outputs = jax.jit(lesson.forward, static_argnames="join")(
        kernels, images, join=join
    )
    expected, signals = twin(
        kernels_of_twin(kernels), torch.tensor(images.transpose(0, 3, 1, 2)), join
    )
    # Sums of up to a hundred products in float32, twelve layers deep.
    expected = expected.detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-6)
    assert len(outputs) == len(signals) == 12
    for output, signal in zip(outputs, signals, strict=True):
        signal = signal.detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(output, signal, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("skip", [False, True])
def test_chain(skip):
    def layers(x):
        for _ in range(12):
            x = 0.25 * x + (x if skip else 0.0)
        return x

    expected = jax.grad(layers)(1.0)
    assert lesson.chain(0.25, 12, skip) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_main(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measured = {}
    sizes = lesson.sizes

    def remember(join, *arguments):
        measured[join] = sizes(join, *arguments)
        return measured[join]

    monkeypatch.setattr(lesson, "sizes", remember)
    start = time.process_time()
    lesson.main()
    assert time.process_time() - start < 20
    png = (tmp_path / "runs/lessons/skip.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    assert "Twelve convolutions" in capsys.readouterr().out
    images, labels = batch(32)
    kernels = kernels_of_twin(lesson.initial_kernels("add"))
    logits, outputs = twin(kernels, torch.tensor(images.transpose(0, 3, 1, 2)), "add")
    functional.cross_entropy(logits, torch.tensor(labels).long()).backward()
    for number in range(12):
        expected = outputs[number].square().mean().sqrt().item()
        assert measured["add"][0][number] == pytest.approx(expected, rel=1e-4)
        expected = kernels[f"conv {number + 1}"].grad.square().mean().sqrt().item()
        assert measured["add"][1][number] == pytest.approx(expected, rel=1e-3)

    # The lesson's claim: with a shortcut every kernel's gradient is larger, the first
    # one's too, and the signal reaches the end.
    plain_signals, plain = measured["none"]
    for join in ("add", "concatenate"):
        signals, gradients = measured[join]
        assert all(g > p for g, p in zip(gradients, plain, strict=True))
        assert signals[-1] > 5 * plain_signals[-1]
