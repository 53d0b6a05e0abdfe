"""The pages that are made from the package: recipes, lessons, notebooks, READMEs.

Nothing in them is written by hand: a card is `recipes/NAME/README.md`, which
`kerascnn cookbook` renders, beside the recipe's layers and its file.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import jupytext

from kerascnn import recipe
from kerascnn.lessons import page as lessons
from kerascnn.report import card, ladder, markdown

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Guides include these parts of README.md: a paragraph's bold lead, or a heading.
PARTS = {
    "headline": "<!-- headline: recipes/cifar_speedrun/runs.jsonl -->",
    "commands": "<!-- commands -->",
    "options": "<!-- options -->",
    **{
        name: f"**{lead}.**"
        for name, lead in {
            "data": "Data",
            "own_images": "Your own images",
            "large_sets": "Sets larger than memory",
            "fine_tuning": "Fine-tuning",
            "nothing_lost": "Nothing lost",
            "memory": "Memory",
            "recorded": "Inside a training",
            "page": "The page of a run",
            "numbers": "Honest numbers",
            "prediction": "Prediction",
            "demo": "A page to show it",
            "export": "Export",
            "start": "A good start",
            "models": "Models",
            "own_model": "Your own model",
            "backends": "GPU, other backends",
            "devices": "Several devices, several hosts",
            "own_recipe": "Your own recipe",
        }.items()
    },
}
# What a page made from a file of the checkout is called.
MADE = {
    "README.md": "index.md",
    "recipes/README.md": "generated/recipes/index.md",
    "recipes/speed.md": "generated/recipes/speed.md",
    "recipes/plan.md": "generated/recipes/plan.md",
    "kerascnn/README.md": "generated/code/index.md",
    "kerascnn/acceleration/README.md": "generated/code/acceleration.md",
    ".docs/README.vi.md": "generated/vietnamese.md",
    ".github/CONTRIBUTING.md": "generated/contributing.md",
    ".github/SECURITY.md": "generated/security.md",
}
PICTURES = (".png", ".svg")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
# A lesson's figure that the checkout keeps.
_FIGURES = {"augmentation": "recipes/pictures/lesson.png"}
_BADGE = "[![Open in Colab]"
_NOTEBOOKS = {
    "first_hour": ("recipes/fashion_lenet/curve.png", "Loss and accuracy by epoch"),
    "own_data": ("recipes/pictures/mistakes.png", "Images that a network got wrong"),
    "to_speedrun": ("recipes/cifar_speedrun/curve.png", "Loss and accuracy by epoch"),
}


def write(folder: Path) -> None:
    """Write all generated pages into a folder, in place of those that are there."""
    shutil.rmtree(folder, ignore_errors=True)
    for page, content in pages().items():
        file = folder.parent / page
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content.rstrip() + "\n", "utf-8")


def pages() -> dict[str, str]:
    """Return each generated page's text by its path below `.docs/`."""
    made = {
        page: moved((ROOT / file).read_text("utf-8"), file, page)
        for file, page in MADE.items()
        if file != "README.md"
    }
    made[MADE["kerascnn/README.md"]] += _contents("", ["acceleration"])
    made |= _recipes(made[MADE["recipes/README.md"]])
    made |= _lessons() | _notebooks() | _readme()
    return made


def moved(content: str, file: str, page: str) -> str:
    """Return Markdown whose links, made for a file of the checkout, suit a page.

    Links to files that have no page here become their text.

    Args:
        content: The Markdown.
        file: Where it stood in the checkout.
        page: Where it will stand below `.docs/`.
    """
    at = (HERE / page).parent

    def link(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if re.match(r"https?:|#", target):
            return found[0]
        place, _, anchor = target.partition("#")
        full = ((ROOT / file).parent / place).resolve()
        name = full.relative_to(ROOT).as_posix()
        if picture or full.suffix in PICTURES:
            return f"{picture}[{words}]({os.path.relpath(full, at)})"
        known = _page_of(name)
        if known is None:
            return words
        if known == page:
            return f"[{words}](#{anchor or 'the-file'})"
        anchor = f"#{anchor}" * bool(anchor)
        return f"[{words}]({os.path.relpath(HERE / known, at)}{anchor})"

    # Of parts between fences, every second one is code.
    parts = re.split(r"(^```.*?^```$)", content, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if n % 2 else _LINK.sub(link, part) for n, part in enumerate(parts)
    )


def _page_of(file: str) -> str | None:
    """Return the page on a file of the checkout."""
    if file in MADE:
        return MADE[file]
    found = re.fullmatch(
        r"recipes/(\w+)(?:/README\.md)?|kerascnn/recipes/(\w+)\.py", file
    )
    name = found and (found[1] or found[2])
    return f"generated/recipes/{name}.md" if name in recipe.names() else None


def _contents(caption: str, names: list[str]) -> str:
    """Return a list of pages for the sidebar alone."""
    lines = ["", "", ":::{toctree}", ":hidden:"]
    lines += [f":caption: {caption}"] * bool(caption)
    return "\n".join([*lines, "", *names, ":::", ""])


def _recipes(top: str) -> dict[str, str]:
    outlines = ladder.in_order([recipe.outline(name) for name in recipe.names()])
    names = [outline.name for outline in outlines]
    made = {MADE["recipes/README.md"]: top + _contents("", [*names, "speed", "plan"])}
    for name in names:
        page, file = f"generated/recipes/{name}.md", f"recipes/{name}/README.md"
        shown = card.values(recipe.load(name))
        rows = [
            [each["layer"], each["output"], f"{each['parameters']:,}"]
            for each in shown["layers"]
        ]
        total = ["**trainable parameters**", "", f"**{shown['parameters']:,}**"]
        cells = [[cell.replace("|", "\\|") for cell in row] for row in [*rows, total]]
        made[page] = "\n\n".join(
            [
                _led(moved((ROOT / file).read_text("utf-8"), file, page).strip()),
                "## The network",
                f"Transform: {shown['settings']['transform']}. "
                f"Training: {shown['settings']['training']}.",
                markdown.table(card.LAYERS, cells),
                "## The file",
                _file(f"kerascnn/recipes/{name}.py", page),
            ]
        )
    return made


def _led(content: str) -> str:
    """Return a page whose first paragraph leads into it."""
    return re.sub(r"^(# .*\n\n)", r"\1{.lead}\n", content, count=1, flags=re.MULTILINE)


def _file(file: str, page: str) -> str:
    """Return a directive that shows a file of the checkout."""
    place = os.path.relpath(ROOT / file, (HERE / page).parent)
    return f"```{{literalinclude}} {place}\n:language: python\n:caption: {file}\n```"


def _lessons() -> dict[str, str]:
    made, rows = {}, []
    for name in lessons.names():
        said, page = lessons.text(name), f"generated/lessons/{name}.md"
        subject, _, question = said.title.partition(": ")
        rows.append([f"[{subject}]({name}.md)", question])
        made[page] = "\n\n".join(
            [
                f"# {subject}",
                "{.lead}\n" + question[:1].upper() + question[1:],
                *said.paragraphs,
                *(
                    [_picture(_FIGURES[name], subject, page)]
                    if name in _FIGURES
                    else []
                ),
                f"    python -m kerascnn.lessons.{name}",
                "prints its tables and saves its figure under `runs/lessons/`.",
                "## The file",
                _file(f"kerascnn/lessons/{name}.py", page),
            ]
        )
    page = "generated/lessons/index.md"
    picture = _picture(_FIGURES["augmentation"], "What one lesson draws", page)
    table = markdown.table(("lesson", "what it asks"), rows)
    said = "The slides' worked examples, one runnable file each. `kerascnn lessons\n"
    said += "--html` runs them all and writes one page."
    content = "\n\n".join(["# Lessons", said, picture, table])
    return made | {page: content + _contents("", lessons.names())}


def _picture(file: str, words: str, page: str) -> str:
    return moved(f"![{words}](../{file})", "x/x", page)


def _notebooks() -> dict[str, str]:
    """Return the notebooks' pages, and the notebooks themselves, without outputs."""
    made = {}
    for name, (picture, words) in _NOTEBOOKS.items():
        notebook = jupytext.read(HERE / "notebooks" / f"{name}.py")
        # The site keeps to itself: the badge is an image of another's.
        title, *about = [
            part
            for part in notebook.cells[0].source.split("\n\n")
            if not part.startswith(_BADGE)
        ]
        page, place = f"generated/notebooks/{name}.md", f"notebooks/{name}.ipynb"
        link = f'<a href="../../{place}" download>Download the notebook</a>'
        made[page] = "\n\n".join(
            [title, *about, link, _picture(picture, words, page)]
            + [
                each.source
                if each.cell_type == "markdown"
                else f"```ipython\n{each.source}\n```"
                for each in notebook.cells[1:]
            ]
        )
        made[f"generated/downloads/{place}"] = jupytext.writes(notebook, fmt="ipynb")
    return made


def _readme() -> dict[str, str]:
    """Return parts of README.md, for the guides to include."""
    readme = (ROOT / "README.md").read_text("utf-8")
    made = {}
    for name, begin in PARTS.items():
        if begin not in readme:
            raise SystemExit(f"README.md has no {begin}: .docs/pages.py names it.")
        _, _, rest = readme.partition(begin)
        if begin.startswith("<!--"):
            part = rest.partition(markdown.END)[0]
        else:
            part = re.split(r"\n(?=\*\*[A-Z][^*]*\.\*\*|## )", rest)[0]
        page = f"generated/readme/{name}.md"
        # An included file's links are those of the guide that includes it.
        made[page] = moved(part.strip(), "README.md", "guides/guide.md")
    return made
