"""What a training on many devices takes, on paper: compute, gradients, images.

The training is data parallel: each device computes the gradients of its own images,
all devices add up their gradients, and each updates its copy of the weights. B is the
bytes of the gradients, n the number of devices, g how many of them fast links join, and
m = n / g the number of such groups.

- Compute: a device's images x operations / (share x peak). An operation is a
  multiplication or an addition, and a training step takes three times the operations of
  a forward pass (`engine.counts.training_operations`). The share of the peak is what a
  step of this package reached on a GPU, in `recipes/bench.jsonl`.
- All-reduce, in a ring: each device sends 2 (n - 1) / n x B bytes
  (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md). Of them
  2 (g - 1) / g x B go by the fast links of its group, and 2 (m - 1) / m x B / g to
  other groups, because there each device sends its own part of the group's sum.
  Latency is left out.
- Scaling, the share of the devices' speed that is left: compute / (compute +
  all-reduce) where one follows the other, compute / max(compute, all-reduce) where they
  overlap. XLA's latency-hiding scheduler overlaps a part. An epoch's time is the mean
  of both.
- Read: images a second x the mean bytes of an image's file, by all hosts together. A
  core decodes: images a second of a host / its cores.
- Memory of a device: four float32 numbers for each weight (weight, gradient, Adam's
  two moments), and the results of all layers with their gradients, in bfloat16.

Four supplies bound a training: the time to send gradients while a device computes, the
cores that decode, the memory, and the largest batch. The one of which the largest part
is needed breaks first. Above 100% the training waits for it or does not fit; a larger
batch costs accuracy, because 8,192 images a step are the most that were shown to keep
the accuracy of 256 (Goyal et al. 2017, https://arxiv.org/abs/1706.02677). A core is
assumed to decode and resize 300 images a second.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from kerascnn import recipe as recipes
from kerascnn.engine import counts
from kerascnn.report import markdown, records
from kerascnn.text import duration, size
from kerascnn.without_weights import without_weights

LARGEST_BATCH = 8192
# Assumed: the images that one core decodes and resizes in a second.
DECODED = 300
# Where no step was measured on a GPU.
SHARE = 0.3


@dataclasses.dataclass(frozen=True)
class Device:
    """A device's published figures, and those of the machine it sits in.

    Args:
        name: What it is called.
        flops: The peak of dense matrix products in bfloat16, operations a second.
        float32: The peak with float32 inputs (on NVIDIA's: TensorFloat-32).
        memory: Bytes.
        linked: Devices that its fast links join.
        inside: Bytes a second that it sends by these links.
        outside: Bytes a second that it sends to other groups, by its part of a network.
        host: Devices of a host.
        cores: Cores of a host.
        sources: Where the figures are published.
    """

    name: str
    flops: float
    float32: float
    memory: float
    linked: int
    inside: float
    outside: float
    host: int
    cores: int
    sources: tuple[str, ...]


DEVICES = {
    "h100": Device(
        *("NVIDIA H100 SXM", 989.4e12, 494.7e12, 80e9),
        *(8, 450e9, 400e9 / 8, 8, 112),
        sources=(
            "https://www.nvidia.com/en-us/data-center/h100/",
            "https://docs.nvidia.com/dgx/dgxh100-user-guide/introduction-to-dgxh100.html",
        ),
    ),
    "a100": Device(
        *("NVIDIA A100 SXM 80 GB", 312e12, 156e12, 80e9),
        *(8, 300e9, 200e9 / 8, 8, 128),
        sources=(
            "https://www.nvidia.com/en-us/data-center/a100/",
            "https://docs.nvidia.com/dgx/dgxa100-user-guide/introduction-to-dgxa100.html",
        ),
    ),
    # A pod's 256 chips share its links; 6.4 Tbit/s of network lead out of it.
    "tpu-v5e": Device(
        *("Google TPU v5e", 197e12, 197e12, 16e9),
        *(256, 200e9, 6.4e12 / 8 / 256, 8, 112),
        sources=("https://docs.cloud.google.com/tpu/docs/v5e",),
    ),
}


@dataclasses.dataclass(frozen=True)
class Images:
    """A training set: how many images, and the bytes of their files."""

    number: int
    stored: float
    source: str


# 138 GiB of files.
IMAGENET = Images(
    1_281_167,
    138 * 2**30,
    "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
)


@dataclasses.dataclass(frozen=True)
class Network:
    """What a training of a network takes for one image, and for its weights."""

    name: str
    operations: int
    parameters: int
    results: int
    epochs: int


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step on a number of devices; times in seconds, sizes in bytes.

    Attributes:
        devices: The number of devices.
        batch: Images of all devices.
        compute: A device's time for its images.
        sent: Bytes of gradients that each device sends.
        all_reduce: The time to send them.
        needs: The part of each supply that is needed: all-reduce, decoding, batch,
            memory.
        read: Bytes of image files a second, of all hosts.
        decoded: Images a second that each core decodes.
        epoch: An epoch's time: the mean of that with overlap and that without.
    """

    devices: int
    batch: int
    compute: float
    sent: float
    all_reduce: float
    needs: dict[str, float]
    read: float
    decoded: float
    epoch: float

    @property
    def scaling(self) -> tuple[float, float]:
        """The share of the devices' speed that is left, without overlap and with."""
        longer = max(self.compute, self.all_reduce)
        return self.compute / (self.compute + self.all_reduce), self.compute / longer

    @property
    def breaks_first(self) -> str:
        """The supply of which the largest part is needed."""
        return max(self.needs, key=lambda name: self.needs[name])


@functools.cache
def network(name: str) -> Network:
    """Return what a recipe takes, or `resnet50`, Keras's own; draws no weights.

    Raises:
        UsageError: There is no such recipe.
    """
    if name == "resnet50":
        import keras

        model: Any = without_weights(lambda: keras.applications.ResNet50(weights=None))
        epochs = 90  # Goyal et al.
    else:
        recipe = recipes.load(name)
        model, epochs = without_weights(recipe.network), recipe.epochs
    return Network(
        *(name, counts.training_operations(model), model.count_params()),
        *(sum(counts.results(model)), epochs),
    )


def share_of_peak(device: Device) -> tuple[float, str]:
    """Return the share of a device's peak that a step of ours reaches, and whence."""
    found = []
    for record in records.read("bench"):
        place = str(record["environment"].get("device"))
        known = [d for d in DEVICES.values() if d.name.startswith(place)]
        ours = [r for r in record["results"] if r["name"] == "kerascnn"]
        if record["kind"] == "step" and known and ours:
            work = network(record["recipe"]).operations * record["images"]
            share = work / ours[0]["seconds"] / known[0].float32
            said = f"{record['recipe']}, batch {record['batch']}, on {place}"
            found.append((known[0] != device, -share, f"measured: {said}"))
    if not found:
        return SHARE, "assumed"
    _, share, said = min(found)
    return -share, said


def step(
    net: Network,
    device: Device,
    devices: int,
    batch: int,
    share: float,
    images: Images = IMAGENET,
) -> Step:
    """Return a training step on a number of devices, each of `batch` images."""
    group = min(devices, device.linked)
    groups = -(-devices // group)
    gradients = 4 * net.parameters
    inside = 2 * (group - 1) / group * gradients
    outside = 2 * (groups - 1) / groups * gradients / group
    all_reduce = inside / device.inside + outside / device.outside
    compute = batch * net.operations / (share * device.flops)
    # Between no overlap and a whole one.
    seconds = (compute + all_reduce + max(compute, all_reduce)) / 2
    fastest = devices * batch / max(compute, all_reduce)
    hosts = -(-devices // device.host)
    decoded = fastest / hosts / device.cores
    memory = 16 * net.parameters + 2 * 2 * net.results * batch
    return Step(
        devices=devices,
        batch=devices * batch,
        compute=compute,
        sent=inside + outside,
        all_reduce=all_reduce,
        needs={
            "all-reduce": all_reduce / compute,
            "decoding": decoded / DECODED,
            "batch": devices * batch / LARGEST_BATCH,
            "memory": memory / device.memory,
        },
        read=fastest * images.stored / images.number,
        decoded=decoded,
        epoch=images.number / (devices * batch) * seconds,
    )


HEAD = ("devices", "batch", "compute", "sent each", "all-reduce", "scaling")
HEAD += ("images/s", "read", "a core decodes", "epoch", "all epochs", "breaks first")


def table(
    name: str, device: str, devices: Sequence[int], batch: int
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return the head and the rows of a plan, as text."""
    net, chosen = network(name), DEVICES[device]
    share, _ = share_of_peak(chosen)
    rows = []
    for number in devices:
        at = step(net, chosen, number, batch, share)
        low, high = at.scaling
        fastest = at.batch / max(at.compute, at.all_reduce)
        need = at.needs[at.breaks_first]
        rows.append(
            [
                f"{number:,}",
                f"{at.batch:,}",
                f"{1e3 * at.compute:.3g} ms",
                size(at.sent),
                f"{1e3 * at.all_reduce:.3g} ms",
                f"{low:.0%} to {high:.0%}",
                f"{fastest:,.0f}",
                f"{size(at.read)}/s",
                f"{at.decoded:,.0f}/s",
                duration(at.epoch) if at.epoch >= 10 else f"{at.epoch:.2g} s",
                duration(net.epochs * at.epoch),
                f"{at.breaks_first}, {need:.0%} needed",
            ]
        )
    return HEAD, rows


def said(name: str, device: str, batch: int) -> str:
    """Say what a plan is made from."""
    net, chosen = network(name), DEVICES[device]
    share, whence = share_of_peak(chosen)
    return (
        f"{name} has {net.parameters:,} parameters, and training takes "
        f"{net.operations / 1e9:.3g} billion operations an image: {net.epochs} epochs "
        f"of ImageNet's {IMAGENET.number:,} images ({size(IMAGENET.stored)}). Each "
        f"{chosen.name} takes {batch} images a step, in bfloat16, at {share:.0%} of "
        f"its {chosen.flops / 1e12:.4g} TFLOP/s ({whence}). It sends "
        f"{size(chosen.inside)}/s to the {chosen.linked} that its fast links join, "
        f"{size(chosen.outside)}/s to others; a host has {chosen.host} of them and "
        f"{chosen.cores} cores."
    )


# The page in a checkout.
PAGE = records.FOLDER / "plan.md"


def page(
    networks: Sequence[str] = ("imagenet_vgg16", "resnet50"),
    devices: Sequence[int] = (8, 64, 512),
    batch: int = 64,
) -> str:
    """Return the planning page of the documentation, as Markdown."""
    parts = [
        "# ImageNet on many devices",
        "`kerascnn plan` computed these plans on paper: no such training was run. Each "
        "figure follows from the network, from the devices' published figures, and "
        "from the share of a GPU's peak that a step of this package reached.",
    ]
    for name in networks:
        parts.append(f"## {name}")
        for device in DEVICES:
            head, rows = table(name, device, devices, batch)
            parts += [said(name, device, batch), markdown.table(head, rows)]
    formulas = (__doc__ or "").partition("\n\n")[2].strip()
    sources = [IMAGENET.source, *(x for d in DEVICES.values() for x in d.sources)]
    parts += ["## How it is computed", formulas, "## Published figures"]
    parts += ["\n".join(f"- <{source}>" for source in sources)]
    return "\n\n".join(parts) + "\n"
