"""The command `kerascnn completion`: what lets a shell complete the other commands."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

from kerascnn import recipe
from kerascnn.cli import commands
from kerascnn.data import folders
from kerascnn.prediction import shipped
from kerascnn.training.options import Command

Shell = Annotated[
    tyro.conf.Positional[Literal["bash", "zsh", "fish"]],
    tyro.conf.arg(metavar="{bash,zsh,fish}"),
]

# What is looked for when a word is completed: the runs and the data sets that are here.
FIND = "find {place} -mindepth {deep} -maxdepth {deep} -type d {shown} 2>/dev/null"
RUNS = FIND.format(place="runs", deep=2, shown="")
SETS = FIND.format(
    place='"${TFDS_DATA_DIR:-$HOME/tensorflow_datasets}"',
    deep=1,
    shown="! -name '.*' ! -name downloads -exec basename {} ';'",
)
# Commands whose run may be a network that comes with the package.
OURS = ("predict", "evaluate", "export", "demo")

BASH = """\
_kerascnn() {{
    local words=""
    case "$COMP_CWORD ${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
        "1 "*) words="{first}" ;;
{cases}
    esac
    case "${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _kerascnn kerascnn
"""


@dataclasses.dataclass
class Completion:
    """Print what lets a shell complete commands, options, recipes, runs and sets.

    For bash: `eval "$(kerascnn completion bash)"`, for zsh likewise, in the file that
    the shell reads when it starts; for fish: `kerascnn completion fish | source`.
    """

    shell: Shell
    """Which shell."""

    def __call__(self) -> None:
        print({"bash": bash, "zsh": zsh, "fish": fish}[self.shell](), end="")


def follow() -> dict[str, list[str]]:
    """Return the words that may follow each command, the longest command first.

    `RUN` and `SET` among them stand for those that are here.
    """
    found = {}
    for command in sorted(commands.COMMANDS, key=lambda each: -len(each.name.split())):
        hints = _hints(command)
        places = {_metavar(hint).strip("[]") for hint in hints.values() if _first(hint)}
        places |= {"run": {"RECIPE"}, "resume": {"RUN"}}.get(command.name, set())
        words = [_option(name) for name, hint in hints.items() if not _first(hint)]
        words = [w for h in hints.values() if _first(h) for w in _choices(h)] + words
        if command.name in OURS:
            words = [*shipped.names(), *words]
        words = [*(recipe.names() if "RECIPE" in places else ()), *words]
        found[command.name] = [*sorted(places & {"RUN", "SET"}), *words, "--quiet"]
    return found | {group: commands.names(group) for group in commands.GROUPS}


def values() -> dict[str, list[str]]:
    """Return the words that may follow an option, as `follow` has them."""
    found: dict[str, list[str]] = {}
    for command in commands.COMMANDS:
        for name, hint in _hints(command).items():
            metavar = _metavar(hint)
            words = [*_choices(hint)]
            if metavar.startswith("{"):
                words = metavar.strip("{}").split(",")
            elif metavar == "SET":
                words = ["SET"]
            elif metavar == "RUN|FILE":
                words = ["RUN", *shipped.names()]
            if words and not _first(hint):
                found.setdefault(_option(name), []).extend(words)
    return {option: [*dict.fromkeys(words)] for option, words in found.items()}


def _hints(command: commands.Command) -> dict[str, Any]:
    kind = command.found if dataclasses.is_dataclass(command.found) else Command
    return typing.get_type_hints(kind, include_extras=True)


def _option(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"


def _first(hint: Any) -> bool:
    """Whether a field is no option, but a word by its place."""
    return "Positional" in str(hint)


def _metavar(hint: Any) -> str:
    names = [getattr(each, "metavar", None) for each in typing.get_args(hint)]
    return next(filter(None, names), "")


def _choices(hint: Any) -> Sequence[str]:
    """Return the words that a type takes, if they are some."""
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return inside
    return [word for each in inside for word in _choices(each)]


def _here(words: Sequence[str]) -> list[str]:
    """Return words with what finds those that are here, in place of `RUN` and `SET`."""
    sets = sorted(each.name for each in folders.SAMPLES.iterdir() if each.is_dir())
    found = []
    for word in words:
        found += {"RUN": [f"$({RUNS})"], "SET": [*sets, f"$({SETS})"]}.get(word, [word])
    return found


def bash() -> str:
    """Return the commands for bash."""
    cases = []
    for command, words in follow().items():
        pattern = f'*" {command}"' if " " in command else f'*" {command} "*'
        cases.append(f'        {pattern}) words="{_quoted(words)}" ;;')
    after = [
        f'        {o}) words="{_quoted(words)}" ;;' for o, words in values().items()
    ]
    first = " ".join(commands.names())
    return BASH.format(first=first, cases="\n".join(cases), values="\n".join(after))


def _quoted(words: Sequence[str]) -> str:
    return " ".join(_here(words))


def zsh() -> str:
    """Return the commands for zsh, which can take those for bash."""
    return "autoload -U +X bashcompinit && bashcompinit\n" + bash()


def fish() -> str:
    """Return the commands for fish."""
    first = " ".join(commands.names())
    lines = [f"complete -c kerascnn -n __fish_use_subcommand -a '{first}'"]
    for command, words in follow().items():
        seen = "; and ".join(
            f"__fish_seen_subcommand_from {word}" for word in command.split()
        )
        lines.append(f"complete -c kerascnn -n '{seen}' -a \"{_of_fish(words)}\"")
    for option, words in values().items():
        name = option.removeprefix("--")
        lines.append(f'complete -c kerascnn -l {name} -x -a "{_of_fish(words)}"')
    return "\n".join(lines) + "\n"


def _of_fish(words: Sequence[str]) -> str:
    # fish asks Bourne's shell, and has no variable with a default of its own.
    found = []
    for word in _here(words):
        asked = re.fullmatch(r"\$\((.*)\)", word)
        quoted = asked and asked[1].replace('"', '\\\\\\"').replace("$", "\\\\\\$")
        found.append(f'(sh -c \\"{quoted}\\")' if asked else word)
    return " ".join(found)
