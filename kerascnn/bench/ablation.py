"""What each trick of `acceleration` buys, over the networks that it serves."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import tyro

from kerascnn import UsageError, text
from kerascnn.bench import against, page, paired
from kerascnn.process import machine

COLUMNS = (
    *("trick", "network", "batch"),
    *("a step", "time without", "memory without", "where"),
)


def _stock(layer: str) -> Callable[[], None]:
    def switch_off() -> None:
        import keras

        from kerascnn.acceleration import layers

        layers.FAST_LAYERS.pop(getattr(keras.layers, layer))

    return switch_off


def _never(threshold: str, bound: float) -> Callable[[], None]:
    def switch_off() -> None:
        from kerascnn.acceleration.dispatch import THRESHOLDS

        THRESHOLDS[threshold] = THRESHOLDS[threshold]._replace(bound=bound)

    return switch_off


def _without_pieces() -> None:
    from kerascnn.acceleration import winograd

    winograd.TILE_SIZES.pop(7)


def _stock_silu() -> None:
    import keras

    from kerascnn.acceleration import layers

    layers.fast_silu = keras.activations.silu


def _unlinked() -> None:
    from kerascnn.acceleration import layers

    layers.BatchNormalization.affine_input = lambda self, y: ()


def _pooled_apart() -> None:
    from kerascnn.acceleration import layers

    layers.Conv2D.pooled = lambda self, y: None


def _unordered() -> None:
    from kerascnn.acceleration import convolution

    convolution.after = lambda x, other: x


class Trick(NamedTuple):
    """A trick in words, some of the recipes that it serves, what switches it off."""

    words: str
    recipes: tuple[str, ...]
    switch_off: Callable[[], None]


TRICKS = {
    "winograd": Trick(
        "3x3 convolutions by Winograd's algorithm",
        ("cifar_relu_9",),
        _never("winograd", math.inf),
    ),
    "order": Trick(
        "the images' gradient after the kernel's",
        ("cifar_relu_9", "cifar_vgg_aug"),
        _unordered,
    ),
    "pieces": Trick(
        "7x7 convolutions by Winograd's, in pieces", ("cifar_conv",), _without_pieces
    ),
    "bands": Trick(
        "few channels: band matrices", ("fashion_lenet",), _never("bands", -1)
    ),
    "convolution": Trick(
        "all fast convolutions", ("fashion_stride",), _stock("Conv2D")
    ),
    "pooling": Trick("max pooling", ("fashion_lenet",), _stock("MaxPooling2D")),
    "pooled-convolution": Trick(
        "pooling before a convolution is stored",
        ("cifar_vgg", "cifar_relu_9"),
        _pooled_apart,
    ),
    "silu": Trick("SiLU", ("cifar_silu_12", "cifar_speedrun"), _stock_silu),
    "normalization": Trick(
        "BatchNorm", ("cifar_bn_12", "cifar_vgg_aug"), _stock("BatchNormalization")
    ),
    "affine-input": Trick(
        "a convolution's affine input", ("cifar_bn_12", "cifar_vgg_aug"), _unlinked
    ),
    "dropout": Trick("Dropout", ("cifar_vgg_dropout",), _stock("Dropout")),
}


def _rows() -> list[tuple[str, str]]:
    """Return each trick beside each of its networks: the rows of the table."""
    return [(name, recipe) for name in TRICKS for recipe in TRICKS[name].recipes]


def switch_off(contender: str) -> bool:
    """Switch off the trick of `kerascnn-without-TRICK`; return whether there is one."""
    _, is_one, trick = contender.partition("kerascnn-without-")
    if is_one:
        TRICKS[trick].switch_off()
    return bool(is_one)


@dataclasses.dataclass
class Ablation:
    """Time training steps with each trick for the CPU switched off in turn.

    Each time is also given as a ratio to that with all tricks, in its 95 % interval,
    and so are the bytes that XLA plans for a step.
    """

    batch: int = 256
    """Images a step."""
    rounds: int = paired.PAIRS
    """Turns of each contender, at least 15; the medians are shown."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TRICK...")] = ()
    """The tricks (default: all)."""
    write: bool = False
    """Keep what was found with the package, and render its page anew."""

    def __post_init__(self):
        text.check_positive(self, "batch", "rounds")
        paired.check_pairs(self.rounds)
        unknown = [name for name in self.only if name not in TRICKS]
        if unknown:
            raise UsageError(
                f"no trick is called {unknown[0]}; there are {', '.join(TRICKS)}."
            )

    def __call__(self) -> None:
        rows = [row for row in _rows() if row[0] in (self.only or TRICKS)]
        found = page.read("ablation")
        for recipe in dict.fromkeys(recipe for _, recipe in rows):
            serving = [name for name, served in rows if served == recipe]
            names = ["kerascnn", *(f"kerascnn-without-{name}" for name in serving)]
            sides = [paired.Side(name, name, against.ROOT) for name in names]
            words = [recipe, str(self.batch), "0", "fixed"]
            on, *without = paired.measure(words, sides, self.rounds)
            for name, off in zip(serving, without, strict=True):
                found[f"{name} {recipe}"] = row = self.row(recipe, on, off)
                print(line(name, row), flush=True)
            if self.write:  # each recipe takes minutes
                ordered = {k: found[k] for k in map(" ".join, _rows()) if k in found}
                page.write("ablation", ordered, COLUMNS, line)

    def row(
        self, recipe: str, on: paired.Measured, off: paired.Measured
    ) -> dict[str, Any]:
        """Return the figures of a trick, and when and where they were measured."""
        ratio, low, high = off.ratio_to(on)
        return {
            "recipe": recipe,
            "batch": self.batch,
            "pairs": self.rounds,
            "with": dataclasses.asdict(on.result) | {"planned": on.planned},
            "without": dataclasses.asdict(off.result) | {"planned": off.planned},
            "time_ratio": [ratio, low, high],
            "machine": machine.processor(),
            "date": datetime.date.today().isoformat(),
        }


def line(key: str, row: dict[str, Any]) -> str:
    """Return a row of the table; its key begins with the trick's name."""
    on, off = row["with"], row["without"]
    ratio, low, high = row["time_ratio"]
    cells = (
        *(TRICKS[key.split()[0]].words, row["recipe"], str(row["batch"])),
        f"{on['seconds'] * 1e3:.0f} ms",
        f"{ratio:.2f} ({low:.2f} to {high:.2f})",
        f"{off['planned'] / on['planned']:.2f}",
        f"{row['machine']}, {row['date']}",
    )
    return f"| {' | '.join(cells)} |"
