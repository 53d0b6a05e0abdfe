"""The command `kerascnn doctor`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from kerascnn import UsageError, text
from kerascnn import recipe as recipes
from kerascnn.cli import data as sets
from kerascnn.data import folders
from kerascnn.studies import doctor
from kerascnn.training.options import Folder, Integer, Overrides

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[RECIPE]")]


@dataclasses.dataclass
class Doctor:
    """Show what is here for training, what is missing, and the command that mends it.

    With a recipe also what its training will take: the memory, by XLA's own analysis of
    the compiled step, the images and the process; the time of an epoch, by steps that
    are measured once and kept (remove costs.jsonl from the cache folder to measure
    anew); the largest batch that fits; and the fastest of the installed backends. That
    takes minutes for the large recipes, and a busy machine spoils it.
    """

    recipe: Name = ""
    """The recipe whose training is predicted, or the path of a file of your own."""
    batch_size: Integer = None
    """Images a step (default: the recipe's)."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="SET")] = None
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
    backends: bool = True
    """Measure the other installed backends too."""
    json: bool = False
    """Print a JSON object: versions, machine, backend, gpus, caches, disk, data, and
    problems (what, command); with a recipe also training: memory (bytes, room, process,
    images, step, batch_size, devices, largest_batch), seconds (step, epoch, epochs,
    compiling, whole, batch_size, images), backends (seconds an epoch), fastest."""

    def __post_init__(self):
        text.check_positive(self, "batch_size", "image_size")
        if self.recipe:
            recipes.check(self.recipe)

    def __call__(self) -> None:
        found = doctor.machine_facts(self.data_dir)
        found["data"] = self._data(found["problems"])
        if self.recipe:
            found["training"] = self._training()
            found["problems"] += found["training"].pop("problems")
        if self.json:
            text.print_json(found, indent=2)
            return
        for line in lines(found):
            print(text.printable(line))

    def _data(self, problems: list[dict[str, str]]) -> dict[str, Any] | None:
        """Return the images of the sets that are here, full and as a sample."""
        try:
            folder = folders.data_directory(self.data_dir)
            full, samples = (
                {name: sets.counts(file) for name, file in sorted(here.items())}
                for here in map(sets.prepared_sets, (folder, folders.SAMPLES))
            )
        except (UsageError, OSError) as error:
            said = f"the data can't be looked at ({text.one_line(error)})"
            problems.append({"what": said, "command": "kerascnn data list"})
            return None
        for name, counts in full.items():
            if counts is None:
                said = f"{name} in {folder} is damaged"
                command = f"rm -r {folder / name} && kerascnn data get {name}"
                problems.append({"what": said, "command": command})
        problems += [
            {
                "what": f"the full {name} is not here: runs take the bundled sample",
                "command": f"kerascnn data get {name}",
            }
            for name in samples
            if name not in full
        ]
        return {"folder": str(folder), "full": full, "samples": samples}

    def _training(self) -> dict[str, Any]:
        options = Overrides(
            batch_size=self.batch_size,
            dataset=self.dataset,
            image_size=self.image_size,
            skip_bad=self.skip_bad,
            data=self.data,
            data_dir=self.data_dir,
            precision=self.precision,
        )
        return doctor.training_facts(self.recipe, options, self.backends)


def lines(found: dict[str, Any]) -> list[str]:
    """Say in lines what is here, what a training takes, and what is wrong."""
    said = [*_here(found), *_training(found.get("training"))]
    problems = found["problems"]
    if not problems:
        return [*said, "", "Nothing is missing."]
    said += ["", "To mend:"]
    for each in problems:
        said += [f"  {each['what']}", f"    {each['command']}"]
    return said


def _here(found: dict[str, Any]) -> list[str]:
    said = []
    if versions := found["versions"]:
        here = [f"{name} {version}" for name, version in versions.items() if version]
        said += [f"versions   {', '.join(here)}"]
    if here := found["machine"]:
        free = here["free_memory"]
        said += [
            f"machine    {here['system']}, {here['processor']}, {here['cores']} cores",
            f"memory     {_size(free)} free",
        ]
    if here := found["backend"]:
        device = here["device"]
        number = f"{here['devices']} × {device}" if device else "no device"
        said += [
            f"backend    {here['asked']} on {number}; installed: "
            f"{', '.join(here['installed']) or 'none'}"
        ]
    for gpu in found["gpus"] or ():
        said += [f"GPU        {gpu['name']}, {_used(gpu)}"]
        for each in gpu["processes"]:
            said += [
                f"           process {each['pid']}, {each['name']}, holds "
                f"{_size(each['bytes'])}"
            ]
    if here := found["data"]:
        for name, counts in here["full"].items():
            sizes = " + ".join(f"{n:,}" for n in (counts or {}).values())
            said += [f"data       {name}: {sizes or 'damaged'} images"]
        samples = ", ".join(here["samples"])
        said += [f"data       samples of {samples}; full sets in {here['folder']}"]
    for name, each in (found["caches"] or {}).items():
        size = "not there" if each["bytes"] is None else text.size(each["bytes"])
        said += [f"caches     {name}: {size}, {each['folder']}"]
    for name, each in (found["disk"] or {}).items():
        said += [f"disk       {text.size(each['free'])} free for {name}"]
    return said


def _used(gpu: dict[str, Any]) -> str:
    return f"{_size(gpu['used'])} of {_size(gpu['memory'])} in use"


def _size(count: float | None) -> str:
    return "unknown" if count is None else text.size(count)


def _training(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    said = ["", f"{found['recipe']}, predicted:"]
    if memory := found["memory"]:
        named = {"process": "process", "images": "images and weights", "step": "step"}
        parts = ", ".join(
            f"{text.size(memory[name])} {words}"
            for name, words in named.items()
            if memory[name]
        )
        said += [
            f"  memory         {text.size(memory['bytes'])} in batches of "
            f"{memory['batch_size']} ({parts}); {_size(memory['room'])} free"
        ]
        if memory["room"] is not None:
            best = memory["largest_batch"]
            said += [f"  largest batch  {best or 'none fits'}"]
    if times := found.get("seconds"):
        said += [
            f"  time           {_time(times['epoch'])} an epoch of {times['images']:,} "
            f"images; {text.duration(times['whole'])} for all {times['epochs']}, "
            f"{text.duration(times['compiling'])} of them compiling"
        ]
    for name, seconds in found["backends"].items():
        best = ", the fastest here" * (name == found["fastest"])
        if seconds is not None:
            said += [f"  on {name:10}  {_time(seconds)} an epoch{best}"]
    return said


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else text.duration(seconds)
