"""The command line: `kerascnn COMMAND`, or `python -m kerascnn COMMAND`."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import textwrap
import typing
from collections.abc import Sequence

from kerascnn import UsageError, __version__, text
from kerascnn.cli import parsing
from kerascnn.process import hosts, signals
from kerascnn.process.backend import check_backend, restart_for_memory
from kerascnn.report import markdown


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: what runs it, and how help and README show it."""

    name: str
    does: str
    target: str  # module:name of a dataclass of options, or a function; imported late
    example: str = ""
    more: tuple[tuple[str, str], ...] = ()  # other examples, and what they do
    computes: bool = False  # so long that what becomes of freed memory matters

    @property
    def found(self) -> typing.Any:
        """The dataclass or the function."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(f"kerascnn.{module}"), name)

    @property
    def examples(self) -> list[str]:
        """Whole command lines, as `readme` has them."""
        words = [self.example, *(example for example, _ in self.more)]
        return [" ".join(filter(None, ("kerascnn", self.name, w))) for w in words]


COMMANDS = (
    Command(
        "list",
        "shows the recipes, rung after rung, with the course's figures and ours",
        "cli.recipes:List",
    ),
    Command(
        "show",
        "shows what a recipe does and why, its layers, the course's figures",
        "cli.recipes:Show",
        "cifar_vgg_aug",
    ),
    Command(
        "diff",
        "shows what one recipe changes in another: layer by layer, and in code",
        "cli.recipes:Diff",
        "cifar_vgg_l2 cifar_vgg_aug",
    ),
    Command(
        "new",
        "writes a recipe of your own, mine.py: a copy to change",
        "cli.recipes:New",
        "mine --from cifar_vgg_aug",
    ),
    Command(
        "run",
        "trains a recipe, as `python -m kerascnn.recipes.cifar_vgg_aug` does",
        "cli.run:named",
        "cifar_vgg_aug",
        (
            (
                "cifar_vgg_aug --seeds 0-4",
                "trains it with each seed in turn; mean, deviation, interval",
            ),
            (
                "cifar_vgg_aug --budget 10min",
                "trains it for as many epochs as end within ten minutes",
            ),
            ("./mine.py", "trains a recipe of your own"),
            (
                "cifar_speedrun --weights cifar10 --dataset ./pets",
                "fine-tunes: begins with the weights of a run, or of a network of ours",
            ),
        ),
        computes=True,
    ),
    Command(
        "resume",
        "goes on with a run that was stopped, to the bit",
        "cli.run:resume",
        "RUN",
        (("RUN --epochs 90", "trains a finished run on; how it had ended is kept"),),
        computes=True,
    ),
    Command(
        "predict",
        "names the likeliest classes of images of yours",
        "cli.predict:Predict",
        "RUN IMAGE",
        computes=True,
    ),
    Command(
        "evaluate",
        "measures a run's model on its test images, or on another set's",
        "cli.predict:Evaluate",
        "RUN",
        computes=True,
    ),
    Command(
        "export",
        "writes a run's model as ONNX, StableHLO, SavedModel, LiteRT or Keras",
        "cli.export:Export",
        "RUN --to onnx",
        (
            (
                "RUN --to torch",
                "writes it as a PyTorch class to read, and a file with its tensors",
            ),
            ("RUN --card", "writes a model card, as Hugging Face has them"),
        ),
        computes=True,
    ),
    Command(
        "demo",
        "writes a page with a network in it: show it pictures, see what it sees",
        "cli.demo:Demo",
        "RUN",
        computes=True,
    ),
    Command(
        "report",
        "writes the page of a run, one HTML file; with --figures its figures too",
        "cli.report:Report",
        "RUN",
        computes=True,
    ),
    Command(
        "compare",
        "compares runs on the same images: accuracies, classes, which images changed",
        "cli.compare:Compare",
        "RUN RUN",
        computes=True,
    ),
    Command(
        "runs",
        "lists runs: recipe, what they change, accuracy, time, size, state",
        "cli.runs:Runs",
    ),
    Command(
        "runs clean",
        "removes checkpoints of finished runs, after asking",
        "cli.runs:Clean",
    ),
    Command(
        "doctor",
        "shows what is here and what is missing, with the command that mends it",
        "cli.doctor:Doctor",
        "",
        (
            (
                "cifar_vgg_aug",
                "predicts memory, time an epoch, largest batch and fastest backend too",
            ),
        ),
    ),
    Command(
        "lr-find",
        "suggests a learning rate, by some steps at a rising one; draws the losses",
        "studies.lr_find:LrFind",
        "cifar_vgg_aug",
        computes=True,
    ),
    Command(
        "sweep",
        "looks for the best learning rate and batch size, on held-out images",
        "studies.sweep:Sweep",
        "cifar_vgg_aug --learning-rate 1e-4:1e-2 --batch-size 64,128,256",
    ),
    Command(
        "learns",
        "says by which step recipes stop guessing, over several seeds",
        "studies.learns:Learns",
        "cifar_relu_12 cifar_he_12",
        computes=True,
    ),
    Command(
        "data get",
        "downloads a data set and prepares it",
        "cli.data:Get",
        "cifar10",
    ),
    Command(
        "data import",
        "prepares a data set from an archive you have",
        "cli.data:Import",
        "cifar10 FILE",
    ),
    Command(
        "data list", "shows which data sets are on this machine", "cli.data:ListData"
    ),
    Command(
        "data statistics",
        "computes mean and deviation of a set's pixels, for `transforms.standard`",
        "cli.data:Statistics",
        "cifar10",
    ),
    Command(
        "data check",
        "names the images of yours that can't be trained on, and why",
        "cli.data:Check",
        "FOLDER",
    ),
    Command(
        "bench step",
        "times a training step beside stock Keras and plain PyTorch",
        "cli.bench:Step",
        "",
        (
            (
                "RECIPE --against COMMIT",
                "times a step beside another commit's, and says whether it is slower",
            ),
        ),
        computes=True,
    ),
    Command(
        "bench epoch",
        "times whole epochs, with and without the random transforms",
        "cli.bench:Epoch",
        computes=True,
    ),
    Command(
        "bench input",
        "times a training step on a stream beside one on images in memory",
        "bench.input:Input",
        computes=True,
    ),
    Command(
        "bench scale",
        "shows how a step's time grows with batch, width and depth",
        "cli.bench:Scale",
        "",
        (
            (
                "--devices 1,2,4,8",
                "shows how it falls with the number of GPUs or cores",
            ),
        ),
        computes=True,
    ),
    Command(
        "bench checkpoints",
        "times epochs with and without checkpoints",
        "cli.bench:Checkpoints",
        computes=True,
    ),
    Command(
        "bench thresholds",
        "measures the bounds by which a convolution chooses its algorithm",
        "bench.thresholds:Thresholds",
        computes=True,
    ),
    Command(
        "bench operations",
        "times single operations: this package's beside XLA's own",
        "bench.operations:Operations",
        computes=True,
    ),
    Command(
        "bench gpu-report",
        "times steps and epochs on a GPU, beside PyTorch's fastest forms",
        "cli.gpu_report:GpuReport",
    ),
    Command(
        "bench ablation",
        "shows what each fast operation buys over the nets it serves",
        "bench.ablation:Ablation",
        computes=True,
    ),
    Command(
        "cookbook",
        "renders the cookbook, `recipes/README.md`",
        "report.cookbook:Cookbook",
    ),
    Command(
        "cookbook add",
        "takes a finished run into the cookbook, and renders it",
        "page.cards:Add",
        "RUN",
    ),
    Command(
        "plan",
        "plans ImageNet on many devices, on paper: compute, gradients, input",
        "cli.plan:Plan",
        "resnet50 --devices 8,64,512 --device h100",
    ),
    Command(
        "ladder plan",
        "shows what whole runs take here, what is measured, and what to run next",
        "cli.ladder:Plan",
        computes=True,
    ),
    Command(
        "ladder run",
        "works through the plan for some hours, and goes on where it stopped",
        "cli.ladder:Run",
        "--hours 8",
        computes=True,
    ),
    Command(
        "ladder ablation",
        "trains a recipe without one of its ingredients, for each in turn",
        "cli.ladder:Ablation",
        "cifar_speedrun --hours 8",
        computes=True,
    ),
    Command(
        "lessons",
        "lists the slides' worked examples; with --html writes all as one page",
        "cli.lessons:Lessons",
        "",
        (("--html", "runs them all and writes one HTML file: text, tables, figures"),),
    ),
    Command(
        "parity",
        "compares a recipe with the lecture's PyTorch network, layer by layer",
        "cli.parity:Parity",
        "cifar_vgg_bn",
        (
            (
                "fashion_lenet --train",
                "trains both whole, over three seeds, and compares their final "
                "accuracies",
            ),
        ),
        computes=True,
    ),
    Command(
        "backends",
        "trains a recipe on the three backends and shows where losses part",
        "cli.parity:Backends",
        "fashion_lenet",
        computes=True,
    ),
    Command(
        "completion",
        "prints what lets bash, zsh or fish complete these commands",
        "cli.completion:Completion",
        "bash",
    ),
)
# What the help puts above a command and those that follow it.
SECTIONS = {
    "list": "The course's recipes, and your own",
    "run": "Training",
    "predict": "Put a run to use",
    "report": "What runs came to",
    "doctor": "A good start",
    "data": "Data sets",
    "bench": "Measure and compare",
    "lessons": "Beside the course",
}
GROUPS = {
    "data": "get, import, list, measure and check data sets",
    "ladder": "plan and run the whole runs that the cookbook lacks",
    "bench": "time training, beside stock Keras, plain PyTorch and other commits",
}


def names(group: str = "") -> list[str]:
    """Return the words that may come first, or after a group's."""
    if group:
        split = [command.name.split() for command in COMMANDS]
        return [name[1] for name in split if name[0] == group and name[1:]]
    return list(dict.fromkeys(command.name.split()[0] for command in COMMANDS))


def readme() -> str:
    """Return README's table of the commands."""
    rows = [
        (f"`{example}`", does)
        for command in COMMANDS
        for example, does in zip(
            command.examples, [command.does, *(d for _, d in command.more)], strict=True
        )
    ]
    return markdown.table(("command", "what it does"), rows) + "\n"


def readme_options() -> str:
    """Return README's list of a run's options."""
    from kerascnn.training.options import Command as Run

    words = []
    for name, hint in typing.get_type_hints(Run, include_extras=True).items():
        option = f"--{name.replace('_', '-')}"
        *_, metadata = getattr(hint, "__metadata__", (None,))
        if metadata:
            named = metadata.metavar
            one = named.startswith("{")
            option += f" {named.strip('{}').replace(',', '|') if one else named}"
        elif choices := typing.get_args(hint):
            option += f" {'|'.join(choices)}"
        elif getattr(Run, name) is True:
            option += f"|--no-{option.removeprefix('--')}"
        words.append(f"`{option}`".replace(" ", "\0"))  # no line ends inside
    listed = textwrap.fill(", ".join(words), 84, break_on_hyphens=False)
    return listed.replace("\0", " ") + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    0; 1 where a comparison fails, 2 after a user's mistake, 3 where a run's numbers
    went wrong, 4 where another process of a run has died, 130 after Ctrl-C, 141 where
    nobody reads on, 143 after SIGTERM.
    """
    given = sys.argv[1:] if arguments is None else arguments
    words, quiet = parsing.told(given)

    def program() -> None:
        if arguments is None:
            signals.stop_quietly()
            if _computes(words):
                restart_for_memory()
        parsing.check_words(words)
        if words == ["--version"]:
            print(f"kerascnn {__version__}")
        else:
            if words[:1] != ["doctor"]:  # which says what is missing, and the rest
                check_backend()
            _dispatch(words)

    return hosts.ended(parsing.run(program, quiet))


def _computes(words: Sequence[str]) -> bool:
    """Whether the command that words name is one that computes."""
    names = [command.name.split() for command in COMMANDS if command.computes]
    return any(list(words[: len(name)]) == name for name in names)


def _dispatch(words: Sequence[str], group: str = "") -> None:
    """Run the command that the first words name."""
    known, program = names(group), f"kerascnn {group}".strip()
    if not words:
        raise UsageError(f"expected a command: {', '.join(known)}.")
    if words[0] in ("-h", "--help"):
        print(f"usage: {program} COMMAND ...\n\n{_help(group)}")
        return
    first = f"{group} {text.choose(words[0], known, 'command')}".strip()
    if first in GROUPS:
        _dispatch(words[1:], first)
        return
    # As `cookbook add`, where `cookbook` is a command too.
    longer = " ".join((first, *words[1:2]))
    by_name = {command.name: command for command in COMMANDS}
    command = by_name.get(longer, by_name[first])
    rest = words[len(command.name.split()) - len(group.split()) :]
    if dataclasses.is_dataclass(command.found):
        program = f"kerascnn {command.name}"
        parsing.parse(command.found, rest, program, command.examples)()
    else:
        command.found(rest, f"kerascnn {command.name}")


def _help(group: str) -> str:
    """Return a line for each command of a group, or for all that may come first."""
    does = {command.name: command.does for command in COMMANDS} | GROUPS
    found = [f"{group} {name}" for name in names(group)] if group else names()
    width = max(map(len, (name.split()[-1] for name in found)))
    lines = []
    for name in found:
        if name in SECTIONS:
            lines += [f"\n{SECTIONS[name]}:"]
        lines.append(f"  {name.split()[-1]:{width}}  {does[name]}")
    program = f"kerascnn {group}".strip()
    lines.append(
        f"\n`{program} COMMAND --help` shows a command's options and examples.\n"
        f"-q, --quiet, with any command: {parsing.ALONE}."
    )
    return "\n".join(lines).strip("\n")


if __name__ == "__main__":
    sys.exit(main())
