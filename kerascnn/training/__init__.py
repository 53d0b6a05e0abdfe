"""Train a recipe: from the command line with `main`, from Python with `train`."""

from kerascnn.training.command import main
from kerascnn.training.overrides import Overrides
from kerascnn.training.trainer import train

__all__ = ["Overrides", "main", "train"]
