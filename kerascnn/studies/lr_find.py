"""The command `kerascnn lr-find`: at which learning rates does a recipe's loss fall?

A few hundred steps with a rate that rises from one to the next, by a constant factor
(Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3).
The weights are those of no training: they are drawn for these steps and dropped.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from kerascnn import UsageError, text
from kerascnn import recipe as recipes
from kerascnn.data import loading
from kerascnn.data.streamed import StreamedSplit
from kerascnn.training.options import Folder, Integer, Overrides

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
Number = Annotated[int, tyro.conf.arg(metavar="N")]
Rate = Annotated[float, tyro.conf.arg(metavar="X")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]

# The loss diverges where its running mean is so many times the lowest, as fastai's and
# Lightning's finders have it; the share of the mean that the next step leaves.
DIVERGED, KEPT = 4.0, 0.9
# The rules leave out a share of the first steps, and the last ones, as fastai's do.
FIRST, LAST = 10, 5
# The width of the bell curve that smooths the losses, by their number.
WIDTH = 1 / 50
RULES = {
    "steepest": "where the smoothed loss falls fastest by the rate's logarithm "
    "(Smith 2017; fastai's `steep`)",
    "valley": "the middle of the longest fall of the smoothed loss (fastai's `valley`)",
}


@dataclasses.dataclass(frozen=True)
class Found:
    """What the steps of rising rates came to.

    Attributes:
        rates: Of each step.
        losses: Before each step's update.
        smoothed: The losses, smoothed without delay.
        diverged: Whether the steps ended because the loss had.
        own: The recipe's rate.
        steepest: The rate by this rule; `None` where the loss falls nowhere.
        valley: Likewise.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool
    own: float
    steepest: float | None
    valley: float | None


@dataclasses.dataclass
class LrFind:
    """Train some steps at a rising learning rate, and suggest one by two rules.

    The steps end early where the loss diverges. Nothing of them is kept but a picture:
    the weights are drawn anew by whatever trains afterwards.
    """

    recipe: Name
    """The recipe, or the path of a file of your own."""
    lowest: Rate = 1e-6
    """The first step's learning rate."""
    highest: Rate = 10.0
    """The last step's."""
    steps: Number = 200
    """How many there are, at most."""
    batch_size: Integer = None
    """Images a step (default: the recipe's)."""
    seed: Number = 0
    """Decides the weights, the order of the images and every random draw."""
    dataset: Annotated[
        str | None, tyro.conf.arg(metavar="SET", help_behavior_hint="")
    ] = None
    """Another set, as `kerascnn run` has it."""
    image_size: Integer = None
    """Bring the images to N x N pixels, as `kerascnn run` has it."""
    skip_bad: bool = False
    """Leave images out that can't be read, as `kerascnn run` has it."""
    data: Literal["auto", "full", "sample"] = "auto"
    """Which images, as `kerascnn run` has it."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras's dtype policy."""
    out: File = None
    """The picture (default: runs/lr-find/<recipe>.png)."""
    json: bool = False
    """Print a JSON object: recipe, batch_size, rates, losses, smoothed (lists, by
    step), diverged, own (the recipe's rate), steepest, valley (null where the loss
    falls nowhere), picture."""

    def __post_init__(self):
        recipes.check(self.recipe)
        text.check_positive(self, "batch_size", "image_size")
        if self.dataset is not None:
            loading.check(self.dataset, self.data, self.data_dir, self.skip_bad)
        if not 0 < self.lowest < self.highest < math.inf:
            raise UsageError(
                f"--lowest {self.lowest:g} --highest {self.highest:g}: expected two "
                "numbers above 0, the first the smaller."
            )
        if self.steps < 4 * LAST:
            raise UsageError(f"--steps {self.steps}: expected {4 * LAST} or more.")

    def __call__(self) -> None:
        from kerascnn.process import prepare

        prepare.prepare_process()
        recipe = recipes.load(self.recipe)
        names = ("batch_size", "seed", "precision", "data", "data_dir")
        names += ("dataset", "image_size", "skip_bad")
        options = Overrides(**{name: getattr(self, name) for name in names})
        found = search(recipe, options, (self.lowest, self.highest), self.steps)
        file = text.expanded(self.out or Path("runs", "lr-find", f"{recipe.name}.png"))
        picture(found, recipe.name, file)
        if self.json:
            size = self.batch_size or recipe.batch_size
            facts = {"recipe": recipe.name, "batch_size": size}
            facts |= dataclasses.asdict(found) | {"picture": str(file)}
            text.print_json(facts)
            return
        for line in lines(found, self.recipe, file):
            print(line)


def search(
    recipe: Recipe, options: Overrides, ends: tuple[float, float], steps: int
) -> Found:
    """Train steps of the epoch engine at a rate that rises between two ends.

    Args:
        recipe: The recipe.
        options: A run's, of which those of its images, seed and network hold.
        ends: The lowest rate and the highest.
        steps: How many, at most.

    Raises:
        UsageError: The backend is not JAX, or the optimiser has no rate to turn.
    """
    if os.environ["KERAS_BACKEND"] != "jax":
        raise UsageError(
            "lr-find takes steps of the epoch engine, which needs JAX: set "
            "KERAS_BACKEND=jax."
        )
    import numpy as np

    factor = (ends[1] / ends[0]) ** (1 / (steps - 1))
    rates = [ends[0] * factor**number for number in range(steps)]
    own, losses, diverged = _losses(recipe, options, rates)
    if not losses:
        raise UsageError(
            f"the first loss of {recipe.name} is not finite: no rate can mend that."
        )
    rates = rates[: len(losses)]
    smoothed = smooth(losses, WIDTH * steps)
    kept = slice(len(losses) // FIRST, max(0, len(losses) - LAST))
    chosen = rates[kept], list(smoothed[kept])
    falls = len(chosen[0]) > 2 and min(np.diff(chosen[1])) < 0
    return Found(
        rates,
        losses,
        smoothed,
        diverged,
        own,
        steepest(*chosen) if falls else None,
        valley(*chosen) if falls else None,
    )


def _losses(
    recipe: Recipe, options: Overrides, rates: Sequence[float]
) -> tuple[float, list[float], bool]:
    """Train a step at each rate; return the recipe's, the losses, if they diverge."""
    import numpy as np

    from kerascnn import data, optim
    from kerascnn.engine import epoch, finite, placement
    from kerascnn.process import memory, settings
    from kerascnn.process.estimate import Estimate
    from kerascnn.process.signals import Signals
    from kerascnn.training import build
    from kerascnn.training.case import case_of

    progress = Estimate(f"{len(rates)} steps", len(rates), at_most=True)
    with settings.computing(), Signals(text.say, saves=False) as signals:
        with contextlib.redirect_stdout(io.StringIO()):
            case = case_of(recipe, options)
        model, optimizer = case.model, case.model.optimizer
        rate = optim.rate_of(optimizer)
        optimizer.build(model.trainable_variables)
        finite.begin(optimizer, "never")
        at = next(i for i, v in enumerate(optimizer.variables) if v is rate)
        size = min(case.plan.batch_size, len(case.train))
        mesh = placement.mesh(model, size, case.plan.devices)
        if mesh is not None:
            memory.keep_less()
        step = epoch.training_function(model, mesh, size, "light")
        streamed = isinstance(case.train, StreamedSplit)
        images: Any = None
        if not streamed:
            images = placement.copied(mesh, (case.train.images, case.train.labels))
        state = placement.copied(mesh, epoch.read_state(model))
        own, whole, epochs = float(np.asarray(rate)), len(case.train) // size, None
        losses: list[float] = []
        mean = lowest = math.inf
        for number, value in enumerate(rates):
            now, place = divmod(number, whole)
            if place == 0:
                order = data.order(options.seed, now, len(case.train))
                epochs = epochs or build.Epochs(model)
                epochs.on_epoch_begin(now)
            chosen = order[place * size : (place + 1) * size].astype("int32")[None]
            if streamed:
                images = placement.copied(mesh, case.train.batch(chosen[0]))
                chosen = np.arange(size, dtype="int32")[None]
            given = np.asarray(value, rate.dtype)
            state["optimizer"][at] = placement.copied(mesh, given)
            state, rows = step(state, *images, placement.cut(mesh, chosen))
            loss = float(rows[0][0])
            signals.check("stopped; nothing is kept.")
            progress.after(number + 1)
            if not math.isfinite(loss):
                return own, losses, True
            losses.append(loss)
            mean = loss if number == 0 else KEPT * mean + (1 - KEPT) * loss
            lowest = min(lowest, mean)
            if mean > DIVERGED * lowest:
                return own, losses, True
    return own, losses, False


def smooth(values: Sequence[float], width: float) -> list[float]:
    """Return the means of values weighted by a bell curve of a width, in steps."""
    from scipy.ndimage import gaussian_filter1d

    return [float(x) for x in gaussian_filter1d(list(values), width, mode="nearest")]


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the loss falls fastest by the rate's logarithm.

    Source: Smith (2017), section 3.3, in fastai's form, `steep` of
    fastai/callback/schedule.py (Apache 2.0).
    """
    slopes = [
        (after - before) / (math.log(higher) - math.log(lower))
        for before, after, lower, higher in zip(
            losses, losses[1:], rates, rates[1:], strict=False
        )
    ]
    return rates[slopes.index(min(slopes))]


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate in the middle of the longest fall of the loss.

    The longest strictly falling subsequence is looked for; where it ends, it is taken
    to have been in one piece.

    Source: `valley` of fastai/callback/schedule.py (Apache 2.0), after ESRI's.
    """
    lengths, ends = [], []  # ends: of falls of each length, the highest last value
    for loss in losses:
        place = bisect.bisect_left(ends, -loss)
        ends[place : place + 1] = [-loss]
        lengths.append(place + 1)
    longest = max(lengths)
    end = lengths.index(longest)
    third = longest / 3
    return rates[max(0, end - longest + int(third) + int(third / 2))]


def lines(found: Found, name: str, file: Path) -> list[str]:
    """Say what was found, and what to run next."""
    low, high = found.rates[0], found.rates[-1]
    why = "where the loss diverged" if found.diverged else "without diverging"
    said = [f"{len(found.losses)} steps from {low:.3g} to {high:.3g}, {why}."]
    for rule, meaning in RULES.items():
        value = getattr(found, rule)
        shown = "none: the loss falls nowhere" if value is None else f"{value:.2g}"
        said += [
            f"  {rule:9} {shown:8} {meaning if value is not None else ''}".rstrip()
        ]
    said += [f"  recipe's  {found.own:.2g}", f"  picture   {file}"]
    if found.valley is not None:
        said += [f"Try: kerascnn run {name} --learning-rate {found.valley:.2g}"]
    return said


def picture(found: Found, name: str, file: Path) -> None:
    """Draw the losses by the rate, with the suggestions, as PNG, SVG or PDF."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(found.rates, found.losses, color="0.75", linewidth=1, label="loss")
    axes.plot(found.rates, found.smoothed, color="#1b6ca8", label="smoothed")
    marks = {"steepest": "#d95f02", "valley": "#1b9e77"}
    for rule, color in marks.items():
        if (value := getattr(found, rule)) is not None:
            axes.axvline(value, color=color, label=f"{rule} {value:.2g}")
    axes.axvline(found.own, color="0.4", linestyle="--", label=f"own {found.own:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title=name)
    if found.smoothed:
        first, low = found.smoothed[0], min(found.smoothed)
        axes.set_ylim(low - 0.1 * (first - low) - 0.01, 1.5 * max(first, low) + 0.01)
    axes.legend()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--out {file}: the picture can't be written ({text.one_line(error)})."
        ) from error
