"""What the report on a GPU times: one contender at a time.

Each is a process of its own and has the GPU to itself. It compiles first, which is
timed apart; then it works for some turns, of which the medians are kept.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from typing import Any

from kerascnn.bench import measure
from kerascnn.training import worker

OURS = "kerascnn"
# PyTorch's forms with what is fastest on a GPU: cuDNN's algorithms and the compiler's
# kernels chosen by timing them.
TORCH = ("torch-channels_last", "torch-benchmark", "torch-compile", "torch-autotune")
# What XLA leaves out of a CUDA graph by default, each convolution and loop, put in.
GRAPHS = "--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE"
# What `--deterministic` asks for, which chooses no algorithm by timing it, and what
# leaves operations without a fixed order out alone.
FIXED = "--xla_gpu_deterministic_ops=true"
EXCLUDED = "--xla_gpu_exclude_nondeterministic_ops=true"


@dataclasses.dataclass(frozen=True)
class Case:
    """What one contender is timed at.

    Args:
        part: The part of the report that shows it.
        recipe: Whose network is trained.
        contender: As `bench.contenders` names it.
        batch: Images a step.
        images: Images an epoch; 0 for single steps on scaled images.
        flags: Added to XLA_FLAGS.
    """

    part: str
    recipe: str
    contender: str
    batch: int
    images: int = 0
    flags: str = ""

    @property
    def label(self) -> str:
        """The contender, and the flags that XLA is given."""
        return f"{self.contender} {self.flags}".strip()


def planned(tried: bool = False) -> list[Case]:
    """Return the cases, what matters most first.

    Args:
        tried: On a CPU, to see that the report works: one small net, and no contender
            that is for GPUs alone.
    """
    steps = [("cifar_relu_9", 256), ("cifar_vgg_aug", 256), ("fashion_lenet", 256)]
    epochs = [("cifar_vgg_aug", 256, 49_920)]
    if tried:
        steps, epochs = [("fashion_lenet", 64)], [("fashion_lenet", 64, 640)]
    sides = (OURS, "keras-jax", *(TORCH[:1] if tried else TORCH))
    halves = (OURS, f"{OURS}-bfloat16", f"{OURS}-bfloat16-padded")
    flags = {
        "command buffers": ("", GRAPHS),
        "deterministic": ("", FIXED, EXCLUDED),
    }
    return [
        *(
            Case("step", name, side, batch)
            for (name, batch), side in itertools.product(steps, sides)
        ),
        *(
            Case("epoch", name, side, batch, images)
            for (name, batch, images), side in itertools.product(epochs, sides)
        ),
        *(
            Case("mixed_bfloat16", name, side, batch)
            for (name, batch), side in itertools.product(steps, halves)
        ),
        # In an epoch, because there a loop runs the steps.
        *(
            Case(part, name, OURS, batch, images, flag)
            for part, given in flags.items()
            for (name, batch, images), flag in itertools.product(epochs, given)
        ),
    ]


def backend(case: Case) -> str:
    """Return the backend that a contender computes on."""
    kind, _, rest = case.contender.partition("-")
    return measure.BACKENDS.get(kind, rest)


@functools.cache
def device(name: str) -> str:
    """Ask a process what a backend computes on."""
    return worker.ask("machine", environment={"KERAS_BACKEND": name})["device"]


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Time a contender alone.

    Raises:
        UsageError: It ended before it was timed.
    """
    transform = "random" if case.images else "fixed"
    words = [case.recipe, str(case.batch), str(case.images), transform]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {case.flags}".strip()
    environment = {**os.environ, **({"XLA_FLAGS": flags} if flags else {})}
    contender = measure.Contender(case.contender, words, case.label, environment)
    try:
        (result,) = measure.interleave([contender], rounds)
    finally:
        contender.close()
    return dataclasses.asdict(result)
