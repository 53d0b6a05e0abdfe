"""The command `kerascnn plan`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from kerascnn import UsageError, text
from kerascnn import recipe as recipes
from kerascnn.cli import parsing
from kerascnn.studies import plan

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]


@dataclasses.dataclass
class Plan:
    """Plan a training of ImageNet on many devices, on paper.

    The plan follows from the network, from the devices' published figures, and from
    the share of a GPU's peak that a step of this package reached: time of a step,
    bytes of gradients, images and bytes a second, scaling, and what breaks first.
    Trains nothing.
    """

    recipe: Name = "imagenet_vgg16"
    """The recipe, or resnet50, Keras's own."""
    devices: Annotated[str, tyro.conf.arg(metavar="N,N")] = "8,64,512"
    """Numbers of devices, each a plan."""
    device: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(plan.DEVICES)}}}")] = (
        "h100"
    )
    """The kind of device."""
    batch_size: int = 64
    """Images a step and device."""
    json: bool = False
    """Print a JSON object: network, device, share of the peak, and steps (devices,
    batch, compute, sent, all_reduce, needs, read, decoded, epoch: seconds, bytes)."""
    page: bool = False
    """Write the page with the plans of both networks, recipes/plan.md of a checkout."""

    def __post_init__(self):
        text.check_positive(self, "batch_size")
        text.choose(self.device, list(plan.DEVICES), "device")
        if self.recipe != "resnet50":
            recipes.check(self.recipe)
        self.numbers()

    def numbers(self) -> list[int]:
        """Return the numbers of devices."""
        return parsing.parsed_numbers(self.devices, "8,64,512")

    def __call__(self) -> None:
        if self.page:
            if not plan.PAGE.parent.exists():
                raise UsageError(f"--page: there is no {plan.PAGE.parent}.")
            plan.PAGE.write_text(plan.page(), "utf-8")
            print(plan.PAGE)
            return
        if self.json:
            net, device = plan.network(self.recipe), plan.DEVICES[self.device]
            share, _ = plan.share_of_peak(device)
            steps = [
                dataclasses.asdict(plan.step(net, device, n, self.batch_size, share))
                for n in self.numbers()
            ]
            found = {"network": dataclasses.asdict(net), "share": share, "steps": steps}
            text.print_json(found | {"device": dataclasses.asdict(device)}, indent=2)
            return
        print(plan.said(self.recipe, self.device, self.batch_size))
        head, rows = plan.table(
            self.recipe, self.device, self.numbers(), self.batch_size
        )
        for row in rows:
            print()
            for name, value in zip(head, row, strict=True):
                print(f"  {name:15} {value}")
