"""The plan of a training on many devices: beside figures known from elsewhere."""

import json

import pytest

from kerascnn.cli import commands
from kerascnn.studies import plan

H100 = plan.DEVICES["h100"]


@pytest.mark.parametrize(
    ("name", "parameters", "multiplications"),
    [
        # Simonyan and Zisserman, and the 3.86e9 of He et al.'s own strides.
        ("imagenet_vgg16", 138_357_544, 15.47e9),
        ("resnet50", 25_636_712, 3.86e9),
    ],
)
def test_networks_take_what_their_papers_say(name, parameters, multiplications):
    net = plan.network(name)
    assert net.parameters == parameters
    assert net.operations == pytest.approx(6 * multiplications, rel=0.03)


def ring(devices, size):
    """What each device of a ring sends, chunk by chunk, until all have all."""
    held = [[{d} for _ in range(devices)] for d in range(devices)]
    sent = [0.0] * devices
    for phase in ("add", "gather"):
        for turn in range(devices - 1):
            moved = []
            for d in range(devices):
                chunk = (d - turn + (phase == "gather")) % devices
                moved.append(((d + 1) % devices, chunk, set(held[d][chunk])))
                sent[d] += size / devices
            for to, chunk, of in moved:
                held[to][chunk] |= of
    assert all(len(of) == devices for chunks in held for of in chunks)
    return sent[0]


@pytest.mark.parametrize("devices", [2, 5, 8])
def test_one_group_sends_what_a_ring_does(devices):
    net = plan.network("resnet50")
    found = plan.step(net, H100, devices, 64, 0.3)
    assert found.sent == pytest.approx(ring(devices, 4 * net.parameters))
    assert found.all_reduce == pytest.approx(found.sent / H100.inside)


@pytest.mark.parametrize("devices", [64, 512])
def test_groups_send_as_much_together_and_less_over_the_network(devices):
    net = plan.network("resnet50")
    found = plan.step(net, H100, devices, 64, 0.3)
    size = 4 * net.parameters
    assert found.sent == pytest.approx(2 * (devices - 1) / devices * size)
    over = ring(devices // 8, size / 8)
    inside = found.sent - over
    times = inside / H100.inside + over / H100.outside
    assert found.all_reduce == pytest.approx(times)
    low, high = found.scaling
    assert 0 < low <= high <= 1


def test_what_breaks_first_has_the_largest_need():
    net = plan.network("imagenet_vgg16")
    few, many = (plan.step(net, H100, n, 64, 0.3) for n in (8, 512))
    assert many.needs["batch"] == pytest.approx(4)  # 32,768 of 8,192 images
    assert many.breaks_first == max(many.needs, key=many.needs.get)
    assert few.needs["batch"] < 1 < many.needs["batch"]
    assert few.epoch > many.epoch


def test_the_share_of_the_peak_is_that_of_the_kept_measurement():
    share, whence = plan.share_of_peak(H100)
    if whence == "assumed":
        pytest.skip("no step was measured on such a device")
    assert "measured" in whence
    assert 0.05 < share < 1


def test_the_page_is_the_command_s(capsys):
    """`kerascnn plan --page` writes it again."""
    written = plan.PAGE.read_text("utf-8")
    assert written == plan.page()
    for name in ("imagenet_vgg16", "resnet50"):
        assert commands.main(["plan", name, "--devices", "512", "--json"]) == 0
        (step,) = json.loads(capsys.readouterr().out)["steps"]
        (row,) = [
            line
            for line in written.partition(f"## {name}")[2].splitlines()
            if line.startswith("| 512 |")
        ][:1]
        assert f"| {step['batch']:,} | {1e3 * step['compute']:.3g} ms |" in row
        assert f"| {1e3 * step['all_reduce']:.3g} ms |" in row


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "8,few"], "--devices 8,few: expected numbers above 0"),
        (["--device", "h10"], "did you mean"),
        (["resnet_50"], "resnet_50"),
        (["--batch-size", "0"], "--batch-size"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys):
    assert commands.main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
