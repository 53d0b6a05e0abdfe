"""The commands `kerascnn list`, `show`, `diff` and `new`."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import keyword
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from kerascnn import UsageError, recipe, translations
from kerascnn.text import expanded, one_line, print_json

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
Recipe = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
Source = Annotated[str, tyro.conf.arg(name="from", metavar="RECIPE")]
Language = Annotated[str | None, tyro.conf.arg(metavar="en|vi", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


@dataclasses.dataclass
class List:
    """Show the recipes rung after rung, with sizes and the course's figures."""

    ladder: bool = False
    """Show the climb instead: the rungs that have a test accuracy, what changes, the
    course's, ours, and the gap."""
    json: bool = False
    """Print a JSON list, for each recipe: name, lecture, what, after, changes, dataset,
    parameters, epochs, batch_size, course (source, test, train, says), seeds, test and
    train (mean, deviation: ours), gap (points), peeking_bonus. Shares are 0 to 1."""

    def __post_init__(self):
        if self.ladder and self.json:
            raise UsageError("--json says all of --ladder too: leave out one of them.")

    def __call__(self) -> None:
        from kerascnn.report import ladder

        outlines = []
        for name in recipe.names():
            try:
                outlines.append(recipe.outline(name))
            except UsageError as mistake:  # one's own broken file hides no other
                print(f"left out: {mistake}", file=sys.stderr)
        if self.json:
            print_json(ladder.values(outlines), indent=2)
        elif self.ladder:
            ladder.climb(outlines)
        else:
            ladder.show(outlines)


@dataclasses.dataclass
class Show:
    """Show one recipe: what, why, layers, command, the course's figures."""

    recipe: Recipe
    """Its name, which `kerascnn list` shows, or its file."""
    json: bool = False
    """Print a JSON object: name, idea (text), notes (text on its runs), course (source,
    test, train, says), ours (text), settings (by name), layers (layer, output,
    parameters), parameters. Shares are 0 to 1. The texts are English."""
    lang: Language = None
    """The language of the texts, English or Vietnamese (default: KERASCNN_LANG of the
    environment, else en)."""

    def __post_init__(self):
        self._translation = translations.chosen(self.lang)
        if self.json and self.lang not in (None, translations.ENGLISH):
            raise UsageError("--json is English for programs: leave out --lang.")

    def __call__(self) -> None:
        recipe.check(self.recipe)
        from kerascnn.report import card

        found = recipe.load(self.recipe)
        if self.json:
            print_json(card.values(found), indent=2)
        else:
            card.show(found, translation=self._translation)


@dataclasses.dataclass
class Diff:
    """Show what one recipe changes in another: layer by layer, and in code."""

    old: Recipe
    """The recipe to start from: its name, which `kerascnn list` shows, or its file."""
    new: Recipe
    """The recipe to arrive at."""

    def __call__(self) -> None:
        recipe.check(self.old)
        recipe.check(self.new)
        from kerascnn.report import difference

        difference.show(recipe.load(self.old), recipe.load(self.new))


@dataclasses.dataclass
class New:
    """Write a recipe of your own, a copy of another, to change as you like."""

    name: Name
    """Its name: a letter, then letters, digits and underscores."""
    from_: Source
    """The recipe to copy: its name, which `kerascnn list` shows, or its file."""
    out: File = None
    """Where to write it (default: NAME.py in the present folder)."""

    def __post_init__(self):
        if not self.name.isidentifier() or keyword.iskeyword(self.name):
            raise UsageError(
                f"{self.name!r} can't be a recipe's name: expected a letter, then "
                "letters, digits and underscores."
            )
        if self.name in recipe.names():
            raise UsageError(f"{self.name} is a recipe of the course: name it anew.")
        recipe.check(self.from_)

    def __call__(self) -> None:
        old = recipe.find(self.from_)
        file = expanded(self.out or f"{self.name}.py")
        if file.is_dir():
            file = file / f"{self.name}.py"
        if file.name != f"{self.name}.py":
            raise UsageError(
                f"--out {file}: a recipe's file has its name: expected {self.name}.py."
            )
        path = shlex.quote(str(file if file.is_absolute() else f"./{file}"))
        source = old.read_text("utf-8", errors="replace")
        text = copied(source, self.name, self.from_, path)
        try:
            with file.open("x", encoding="utf-8") as new:
                new.write(text)
        except FileExistsError as error:
            raise UsageError(f"{file} is there already: name another.") from error
        print(
            f"{file} is a copy of {self.from_}: change what you want in it. These "
            "train it, the first on a few images:\n"
            f"kerascnn run {path} --limit 256 --epochs 1\n"
            f"kerascnn run {path}"
        )


DOCSTRING = '''\
"""{name}: {old}, changed.

Say here what you change and why: `kerascnn show` begins with this text. What differs
so far, `kerascnn diff {old} {path}` shows.

    kerascnn run {path}
"""'''


def copied(source: str, name: str, old: str, path: str) -> str:
    """Return a recipe's file as one of another name, by the user and after `old`."""
    try:
        tree = ast.parse(source)
        recipe_call = recipe.call_of(tree)
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"{old} can't be copied ({one_line(error)}): it assigns RECIPE = "
            "Recipe(...) once."
        ) from error
    wanted = {
        "name": _quoted(name),
        "parameters": "0",  # not stated, because the network will change
        "course": f"Course(source={_quoted('mine')})",
        "after": _quoted(Path(old).stem),
        "changes": "set()",
    }
    given = {word.arg: word.value for word in recipe_call.keywords}
    added = [f",\n    {key}={wanted[key]}" for key in wanted if key not in given]
    wanted["course"] += "".join(added)
    edits: list[tuple[Any, str]] = [
        (given[key], value) for key, value in wanted.items() if key in given
    ]
    docstring = DOCSTRING.format(name=name, old=old, path=path)
    content, head = source.encode(), f"{docstring}\n\n"
    if ast.get_docstring(tree) is not None:
        edits.append((tree.body[0], docstring))
        head = ""
    starts = [0, *itertools.accumulate(map(len, content.splitlines(keepends=True)))]
    for node, value in sorted(edits, key=lambda edit: -edit[0].lineno):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        content = content[:start] + value.encode() + content[end:]
    return head + content.decode()


def _quoted(text: str) -> str:
    """Write a string in double quotes."""
    return f'"{text}"'
