"""The commands `kerascnn bench step`, `epoch`, `scale` and `checkpoints`."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from kerascnn import UsageError, text
from kerascnn import recipe as recipes
from kerascnn.bench import against, measure, paired, scaling
from kerascnn.cli import parsing
from kerascnn.engine import counts as counting
from kerascnn.process import estimate, settings
from kerascnn.process import machine as this_machine
from kerascnn.process.backend import installed
from kerascnn.process.cores import available
from kerascnn.report import records, speed
from kerascnn.without_weights import without_weights

if TYPE_CHECKING:
    from kerascnn.bench.measure import Result
    from kerascnn.recipe import Recipe

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]

OURS = "kerascnn"
TORCH = ("torch-eager", "torch-channels_last", "torch-compile")


@dataclasses.dataclass
class Step:
    """Time a training step: this package, stock Keras, plain PyTorch, in turns."""

    recipe: Name = "cifar_relu_9"
    """Whose network to train."""
    batch: int = 256
    """Images a step."""
    rounds: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")
    ] = None
    """Turns of each contender; the medians are shown (default: 7, with --against 15,
    which is the least)."""
    against: Annotated[
        str | None, tyro.conf.arg(metavar="COMMIT", help_behavior_hint="")
    ] = None
    """Compare with another commit of this checkout alone, from a git worktree. Exit
    code 1 where this checkout's step is slower: where the 95 % interval of the ratio
    of the times, over pairs of turns, lies wholly above 1.03."""
    json: bool = False
    """Print JSON instead of a table."""
    add: bool = False
    """Keep what is measured for README's table, `recipes/bench.jsonl`."""

    def __post_init__(self):
        text.check_positive(self, "batch", "rounds")
        _check_adds(self.add and self.against is not None, self.add)

    def __call__(self) -> None:
        if self.against is not None:
            self.compare(self.against)
            return
        recipe = recipes.load(self.recipe)
        contenders = [OURS, *(f"keras-{b}" for b in installed()), *torch_forms()]
        words = [self.recipe, str(self.batch), "0", "fixed"]
        results, missing = measure.compare(
            [(name, name, words) for name in contenders], self.rounds or 7
        )
        if self.add:
            keep("step", self.recipe, self.batch, self.batch, results)
        work = self.batch * _operations(recipe)
        report(
            f"{self.recipe}: one training step, batch {self.batch}",
            results,
            missing,
            images=self.batch,
            operations=work,
            as_json=self.json,
        )

    def compare(self, commit: str) -> None:
        """Print the comparison with another commit; exit with 1 where it is slower."""
        pairs = paired.PAIRS if self.rounds is None else self.rounds
        paired.check_pairs(pairs, " with --against")
        recipes.check_name(self.recipe)
        words = [self.recipe, str(self.batch), "0", "fixed"]
        found = against.compare(words, commit, pairs)
        title = f"{self.recipe}: one training step, batch {self.batch}"
        if self.json:
            more = {"title": title, "machine": machine(), "slower": found.slower}
            more["memory_ratio"] = found.memory_ratio
            text.print_json(more | dataclasses.asdict(found))
        else:
            table = Table(title=title, caption=f"{machine()}; {pairs} pairs of turns")
            table.add_column("code", no_wrap=True)
            for column in ("time", "fastest", "peak memory", "first"):
                table.add_column(column, justify="right")
            for side in (found.ours, found.theirs):
                table.add_row(
                    side.name,
                    speed.time(side.seconds),
                    speed.time(side.fastest),
                    f"{side.memory / 2**20:,.0f} M",
                    f"{side.compile:.1f} s",
                )
            Console().print(table)
            verdict = "slower" if found.slower else "not shown to be slower"
            print(
                f"kerascnn takes {found.ratio:.3f} of the time of {found.theirs.name} "
                f"(95 % interval {found.low:.3f} to {found.high:.3f}) and "
                f"{found.memory_ratio:.3f} of its peak memory: {verdict}."
            )
        if found.slower:
            raise SystemExit(1)


@dataclasses.dataclass
class Epoch:
    """Time whole epochs from raw images, with and without the random transforms."""

    recipe: Name = "cifar_vgg_aug"
    """What to train."""
    batch: Annotated[int | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Images a step (default: the recipe's)."""
    images: int = 10_000
    """Images an epoch."""
    rounds: int = 3
    """Turns of each contender; the medians are shown."""
    json: bool = False
    """Print JSON instead of a table."""
    add: bool = False
    """Keep what is measured for README's table, `recipes/bench.jsonl`."""

    def __post_init__(self):
        text.check_positive(self, "batch", "images", "rounds")
        _check_adds(False, self.add)

    def __call__(self) -> None:
        recipe = recipes.load(self.recipe)
        batch = self.batch or recipe.batch_size
        _check_fills(self.images, batch)
        words = [self.recipe, str(batch), str(self.images)]
        names = [OURS, *(f"keras-{b}" for b in installed()), *torch_forms()]
        results, missing = measure.compare(
            [
                *((name, name, [*words, "random"]) for name in names),
                (OURS, "without random", [*words, "fixed"]),
            ],
            self.rounds,
        )
        steps = self.images // batch
        if self.add:
            keep("epoch", self.recipe, batch, steps * batch, results)
        report(
            f"{self.recipe}: one epoch of {steps} steps, batch {batch}, raw images",
            results,
            missing,
            images=steps * batch,
            operations=steps * batch * _operations(recipe),
            as_json=self.json,
        )


@dataclasses.dataclass
class Checkpoints:
    """Time epochs with and without checkpoints, and without looking for NaN."""

    recipe: Name = "fashion_lenet"
    """What to train."""
    images: int = 10_000
    """Images an epoch."""
    epochs: int = 5
    """Epochs a turn."""
    rounds: int = 7
    """Turns of each; the medians are shown."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        text.check_positive(self, "images", "epochs", "rounds")

    def __call__(self) -> None:
        recipe = recipes.load(self.recipe)
        _check_fills(self.images, recipe.batch_size)
        if os.environ["KERAS_BACKEND"] != "jax":
            raise UsageError("bench checkpoints needs JAX: set KERAS_BACKEND=jax.")
        from kerascnn.bench import checkpoints

        results = checkpoints.measure(recipe, self.images, self.epochs, self.rounds)
        if self.json:
            rows = [dataclasses.asdict(result) for result in results]
            text.print_json({"machine": machine(), "results": rows})
            return
        steps = self.images // recipe.batch_size
        table = Table(
            title=f"{self.recipe}: one epoch of {steps} steps",
            caption=f"{machine()}; medians of {self.rounds} turns of {self.epochs} "
            "epochs; stop: training stands still for a checkpoint",
        )
        table.add_column("checkpoints", no_wrap=True)
        for column in ("epoch", "more time", "number", "stop each", "size"):
            table.add_column(column, justify="right")
        for result in results:
            table.add_row(
                checkpoints.FORMS[result.form],
                f"{result.seconds:.3f} s",
                f"{result.overhead:+.1%}",
                str(result.writes),
                f"{1e3 * result.stood:.1f} ms" if result.writes else "",
                f"{result.size / 1e6:.1f} MB" if result.writes else "",
            )
        Console().print(table)


@dataclasses.dataclass
class Scale:
    """Show how the time of a step grows with batch, width and depth, or falls with the
    number of devices."""

    recipe: Name = "cifar_vgg"
    """Whose network to train, with --devices."""
    devices: Annotated[
        str | None, tyro.conf.arg(metavar="1,2,4,8", help_behavior_hint="")
    ] = None
    """Time steps on these numbers of GPUs or cores, each in a process of its own: with
    the same batch (strong scaling), and with a batch that grows with the number
    (weak)."""
    batch: int = 256
    """Images a step, with --devices; in weak scaling, on the fewest devices."""
    rounds: int = 3
    """Turns of each case; the medians are shown."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        text.check_positive(self, "rounds", "batch")
        if self.devices is not None:
            parsing.parsed_numbers(self.devices, "1,2,4,8")

    def by_devices(self, numbers: list[int]) -> None:
        """Print the table by the number of devices."""
        recipes.check_name(self.recipe)
        found, missing = scaling.measured(self.recipe, self.batch, numbers, self.rounds)
        if self.json:
            results = [dataclasses.asdict(each) for each in found]
            head = {"recipe": self.recipe, "machine": machine(), "missing": missing}
            text.print_json(head | {"results": results})
            return
        cores = available()
        table = Table(
            title=f"{self.recipe}: one training step by the number of devices",
            caption=f"{machine()}, {cores} cores; efficiency: a device's images a "
            "second, divided by those on the fewest devices",
        )
        for column in ("scaling", "devices", "batch", "step", "images/s", "efficiency"):
            table.add_column(column, justify="right")
        for each in found:
            table.add_row(
                each.scaling,
                str(each.devices),
                str(each.batch),
                speed.time(each.result.seconds),
                f"{each.images_per_second:,.0f}",
                f"{each.efficiency:.0%}",
            )
        Console().print(table)
        if this_machine.device() == "cpu" and max(numbers) > cores:
            print(f"More devices than the {cores} cores share these cores.")
        for line in missing:
            print(f"left out: {line}")

    def __call__(self) -> None:
        if self.devices is not None:
            self.by_devices(parsing.parsed_numbers(self.devices, "1,2,4,8"))
            return
        cases = [
            *(("cifar_vgg", batch, "batch") for batch in (32, 64, 128, 256, 512)),
            *((name, 64, "width") for name in WIDTHS),
            *((name, 64, "depth") for name in DEPTHS),
        ]
        rows = []
        # Few at a time, for the memory: the cases of one series in turns.
        for series in ("batch", "width", "depth"):
            chosen = [case for case in cases if case[2] == series]
            results, missing = measure.compare(
                [
                    (OURS, f"{name}, batch {batch}", [name, str(batch), "0", "fixed"])
                    for name, batch, _ in chosen
                ],
                self.rounds,
            )
            if missing:
                raise UsageError("; ".join(missing))
            for result, (name, batch, _) in zip(results, chosen, strict=True):
                operations = batch * _operations(recipes.load(name))
                rows.append((series, result, batch, operations))
        if self.json:
            text.print_json(
                [
                    {"grows": grows, "batch": batch, "operations": operations}
                    | dataclasses.asdict(result)
                    for grows, result, batch, operations in rows
                ]
            )
            return
        table = Table(title="one training step of kerascnn on JAX")
        for column in ("grows", "case", "step", "images/s", "GFLOP/s", "memory"):
            table.add_column(column, justify="left" if column == "case" else "right")
        for grows, result, batch, operations in rows:
            table.add_row(grows, *_cells(result, batch, operations))
        Console().print(table)


# Lecture 4's base net and its wider forms; lecture 3's nets by number of convolutions.
WIDTHS = ("cifar_vgg_bn", "cifar_vgg_wide", "cifar_vgg_wider")
DEPTHS = ("cifar_sigmoid", "cifar_sigmoid_3", "cifar_relu_9", "cifar_relu_12")


def _check_adds(against: bool, add: bool) -> None:
    """Raise `UsageError` before anything is measured that could not be kept."""
    if against:
        raise UsageError("--add: README has no table of two commits: leave it out.")
    if add:
        records.check(sample=False)


def keep(
    kind: str, recipe: str, batch: int, images: int, results: Sequence[Result]
) -> None:
    """Add what was measured to `recipes/bench.jsonl`, if our own contender is there."""
    if any(result.name == OURS for result in results):
        case = {"kind": kind, "recipe": recipe, "batch": batch, "images": images}
        rows = [dataclasses.asdict(result) for result in results]
        here = this_machine.for_record()
        records.add("bench", {**case, "results": rows, "environment": here})


def _check_fills(images: int, batch: int) -> None:
    """Raise `UsageError` unless so many images fill a batch."""
    if images < batch:
        raise UsageError(f"--images {images}: less than a batch of {batch}.")


def torch_forms() -> list[str]:
    """Return the contenders of plain PyTorch, none where it is not installed."""
    return list(TORCH) if "torch" in installed() else []


def _operations(recipe: Recipe) -> int:
    """Count a recipe's, without drawing the weights of its network."""
    return counting.training_operations(without_weights(recipe.network))


def report(
    title: str,
    results: Sequence[Result],
    missing: Sequence[str],
    images: int,
    operations: int,
    as_json: bool,
) -> None:
    """Print a benchmark as a table, or as JSON; ratios are to this package's time."""
    with settings.computing():
        peak = estimate.matmul_peak()
    ours = next((r.seconds for r in results if r.name == OURS), None)
    if ours is None:
        raise UsageError("; ".join(missing))
    if as_json:
        rows = [
            dataclasses.asdict(result)
            | {
                "ratio": ours / result.seconds,
                "images_per_second": images / result.seconds,
                "flops": operations / result.seconds,
                "share_of_peak": operations / result.seconds / peak,
            }
            for result in results
        ]
        text.print_json(
            {
                "title": title,
                "machine": machine(),
                "peak_flops": peak,
                "results": rows,
                "missing": list(missing),
            }
        )
        return
    # A line of 80 columns holds it.
    table = Table(
        title=title,
        caption=f"{machine()}; matmul peak {peak / 1e9:.0f} GFLOP/s; a convolution "
        "counts as its direct sum, of which kerascnn computes a part; first: the first "
        "step, compilation included",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("contender", no_wrap=True)
    for column in (
        *("time", "images/s", "GFLOP/s", "memory", "of peak", "first", "ours/its"),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            *_cells(result, images, operations),
            f"{operations / result.seconds / peak:.0%}",
            f"{result.compile:.1f} s",
            f"{ours / result.seconds:.2f}",
        )
    console = Console()
    console.print(table)
    best = min(
        (r for r in results if r.name in TORCH), key=lambda r: r.seconds, default=None
    )
    if best is not None:
        console.print(
            f"kerascnn takes {ours / best.seconds:.2f} of the time of plain PyTorch's "
            f"best, {best.name}."
        )
    if not torch_forms():
        missing = [*missing, "PyTorch, which is not installed: pip install torch"]
    for line in missing:
        console.print(f"left out: {line}", markup=False)


def machine() -> str:
    """Return what the benchmarks ran on, in a few words."""
    device = this_machine.device()
    name = this_machine.processor() if device == "cpu" else device
    return f"{name}, {platform.system()}"


def _cells(result: Result, images: int, operations: int) -> list[str]:
    return [
        result.name,
        speed.time(result.seconds),
        f"{images / result.seconds:,.0f}",
        f"{operations / result.seconds / 1e9:.0f}",
        f"{result.memory / 2**20:,.0f} M",
    ]
