"""A run that several processes train, and process 0 writes.

All compute the same from one seed, so each has what the next epoch needs. What a run
folder would hold, the others write to a folder of their own that goes with them, but
for checkpoints, which process 0 alone writes.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn.engine.finite import NotFiniteError
from kerascnn.process import hosts
from kerascnn.process.signals import Interrupted
from kerascnn.runs import Run
from kerascnn.text import one_line
from kerascnn.training import resume
from kerascnn.training.options import Overrides

if TYPE_CHECKING:
    import keras

# What may differ between processes of one run: cores and processors of their hosts.
_OWN = ("cores", "processor")


def join(overrides: Overrides) -> None:
    """Meet the other processes of a run, if options or environment name any."""
    given = overrides.coordinator, overrides.num_processes, overrides.process_id
    hosts.join(hosts.wanted(*given))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Speak in process 0 alone; tell the others of an error that they may not see."""
    if not hosts.is_joined():
        yield
        return
    try:
        with hosts.quiet():
            yield
    except (Interrupted, NotFiniteError):  # which all processes come to
        raise
    except BaseException as error:
        hosts.leave(one_line(error, most=300))
        raise


def agree(config: dict[str, Any], checkpoint: str | None = None) -> None:
    """Check that all processes train the same case, from the same checkpoint."""
    facts = resume.facts(config)
    facts = {name: facts[name] for name in facts if name not in _OWN}
    hosts.agree_on(facts | {"checkpoint": checkpoint})


def begin_alike(model: keras.Model) -> None:
    """Give a model the first weights of process 0, which other processors may round."""
    if hosts.is_joined():
        variables = model.variables
        values = hosts.of_first([np.asarray(v) for v in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def ended(run: Run) -> Run:
    """Return process 0's run, in every process, when process 0 has written its end."""
    if not hosts.is_joined():
        return run
    return Run(Path(hosts.shared(str(run.folder.absolute()))))


@contextlib.contextmanager
def begun(create: Callable[[], Run]) -> Iterator[Run]:
    """Give a new run of process 0, and in the others one that goes with the block."""
    if hosts.is_first():
        yield create()
        return
    with tempfile.TemporaryDirectory(prefix="kerascnn-") as folder:
        yield Run(Path(folder))


@contextlib.contextmanager
def own(run: Run) -> Iterator[Run]:
    """Give a run that goes on; in other processes than 0 a copy without its state."""
    if hosts.is_first():
        yield run
        return
    with tempfile.TemporaryDirectory(prefix="kerascnn-") as folder:
        for name in ("config.json", "metrics.jsonl", "result.json"):
            if (run.folder / name).exists():
                shutil.copy(run.folder / name, folder)
        yield Run(Path(folder))
