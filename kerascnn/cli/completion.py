"""The command `kerascnn completion`: what lets a shell complete the other commands."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Literal

import tyro

from kerascnn import recipe
from kerascnn.cli import commands
from kerascnn.training.options import Command

Shell = Annotated[
    tyro.conf.Positional[Literal["bash", "zsh", "fish"]],
    tyro.conf.arg(metavar="{bash,zsh,fish}"),
]

BASH = """\
_kerascnn() {{
    local words=""
    case "$COMP_CWORD ${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
        "1 "*) words="{first}" ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _kerascnn kerascnn
"""


@dataclasses.dataclass
class Completion:
    """Print what lets a shell complete the commands, their options and the recipes.

    For bash: `eval "$(kerascnn completion bash)"`, for zsh likewise, in the file that
    the shell reads when it starts; for fish: `kerascnn completion fish | source`.
    """

    shell: Shell
    """Which shell."""

    def __call__(self) -> None:
        print({"bash": bash, "zsh": zsh, "fish": fish}[self.shell](), end="")


def follow() -> dict[str, list[str]]:
    """Return the words that may follow each command, the longest command first."""
    found = {}
    for command in sorted(commands.COMMANDS, key=lambda each: -len(each.name.split())):
        kind = command.found if dataclasses.is_dataclass(command.found) else Command
        hints = typing.get_type_hints(kind, include_extras=True)
        options = [
            f"--{name.rstrip('_').replace('_', '-')}"
            for name, hint in hints.items()
            if "Positional" not in str(hint)
        ]
        takes = command.name == "run" or "RECIPE" in str(hints)
        found[command.name] = [*(recipe.names() if takes else ()), *options]
    return found | {group: commands.names(group) for group in commands.GROUPS}


def bash() -> str:
    """Return the commands for bash."""
    cases = []
    for command, words in follow().items():
        pattern = f'*" {command}"' if " " in command else f'*" {command} "*'
        cases.append(f'        {pattern}) words="{" ".join(words)}" ;;')
    return BASH.format(first=" ".join(commands.names()), cases="\n".join(cases))


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
        lines.append(f"complete -c kerascnn -n '{seen}' -a '{' '.join(words)}'")
    return "\n".join(lines) + "\n"
