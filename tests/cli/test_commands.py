"""The table of commands: help, README and completion say the same; recipes by path."""

import contextlib
import dataclasses
import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import kerascnn
from kerascnn import recipe
from kerascnn.cli import commands, completion
from kerascnn.runs import Run

README = Path(kerascnn.__file__).parents[1] / "README.md"
SHORT = ["--data", "sample", "--limit", "256", "--epochs", "1", "--batch-size", "64"]


@pytest.mark.parametrize(
    ("part", "rendered"),
    [("commands", commands.readme), ("options", commands.readme_options)],
)
def test_readme_says_what_the_command_line_takes(part, rendered):
    _, _, rest = README.read_text("utf-8").partition(f"<!-- {part} -->\n")
    assert rest.partition("<!-- end -->")[0] == rendered()


def test_each_command_is_named_once_and_found():
    names = [command.name for command in commands.COMMANDS]
    assert len(set(names)) == len(names)
    for command in commands.COMMANDS:
        assert callable(command.found)
        head = f"  {command.name.split()[-1]} "
        width = len(head) + len(command.does)
        assert width < 100, command.name


@pytest.mark.parametrize("group", ["", *commands.GROUPS])
def test_help_has_a_line_for_each(group, capsys):
    assert commands.main([*group.split(), "--help"]) == 0
    listed = re.findall(r"^  ([\w-]+) ", capsys.readouterr().out, re.MULTILINE)
    assert listed == commands.names(group)
    assert len(listed) > 1


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda each: each.name)
def test_each_command_has_help(command, capsys):
    code = 0
    try:
        code = commands.main([*command.name.split(), "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    shown = capsys.readouterr().out
    assert f"usage: kerascnn {command.name}" in shown
    if dataclasses.is_dataclass(command.found):
        for line in command.examples if command.example else ():
            assert f"\n    {line}\n" in shown


@pytest.mark.parametrize(
    "words",
    [["run", "fashion_mlp"], *([c.name] for c in commands.COMMANDS if c.name != "run")],
    ids=lambda words: words[0],
)
def test_no_text_of_an_option_is_broken_before_the_width(words, monkeypatch, capsys):
    """By docstring-parser's reading of what stands below each field."""
    import docstring_parser

    from kerascnn.training.options import Command

    command = next(c for c in commands.COMMANDS if c.name == words[0])
    options = Command if words[0] == "run" else command.found
    if not dataclasses.is_dataclass(options):
        return
    monkeypatch.setenv("COLUMNS", "3000")
    with contextlib.suppress(SystemExit):
        commands.main([*" ".join(words).split(), "--help"])
    shown = capsys.readouterr().out
    kinds = [kind for kind in options.__mro__ if dataclasses.is_dataclass(kind)]
    said = [
        p for kind in kinds for p in docstring_parser.parse_from_object(kind).params
    ]
    assert len({each.arg_name for each in said}) == len(dataclasses.fields(options))
    for each in said:
        assert " ".join(each.description.split()) in shown, each.arg_name


def test_each_command_is_in_a_section(capsys):
    assert commands.main(["--help"]) == 0
    parts = capsys.readouterr().out.split("\n\n")
    assert parts[0] == "usage: kerascnn COMMAND ..."
    heads = [part.splitlines()[0].rstrip(":") for part in parts[1:-1]]
    assert heads == [*commands.SECTIONS.values()]
    assert all(len(part.splitlines()) > 1 for part in parts[1:-1])


# Completion.


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("", commands.names()),
        ("re", ["resume", "report"]),
        ("data ", commands.names("data")),
        ("data s", ["statistics"]),
        ("bench step --ag", ["--against"]),
        ("bench step cifar_vgg_d", ["cifar_vgg_decay", "cifar_vgg_dropout"]),
        ("run fashion_ml", ["fashion_mlp"]),
        ("run fashion_mlp --ep", ["--epochs"]),
        ("run fashion_mlp --data sample --li", ["--limit"]),
        ("new mine --fr", ["--from"]),
        ("data get --", ["--data-dir", "--quiet"]),
        ("resume run --fo", ["--force"]),
        ("cookbook --c", ["--check"]),
        ("report runs/f", ["runs/fashion_mlp/20261124-101500"]),
        ("resume runs/fashion_mlp/", ["runs/fashion_mlp/20261124-101500"]),
        ("predict ci", ["cifar10"]),
        ("predict cifar10 --expl", ["--explain"]),
        ("run fashion_mlp --weights fas", ["fashion"]),
        ("run fashion_mlp --weights runs", ["runs/fashion_mlp/20261124-101500"]),
        ("run fashion_mlp --dataset fa", ["fashion_mnist"]),
        ("run fashion_mlp --dataset my", ["my_set"]),
        ("data statistics my", ["my_set"]),
        ("run fashion_mlp --data s", ["sample"]),
        ("run fashion_mlp --backend t", ["tensorflow", "torch"]),
        ("export cifar10 --to s", ["stablehlo", "savedmodel"]),
        ("completion f", ["fish"]),
        ("nothing ", []),
    ],
)
def test_bash_completes(line, offered, tmp_path):
    (tmp_path / "runs" / "fashion_mlp" / "20261124-101500").mkdir(parents=True)
    (tmp_path / "sets" / "my_set").mkdir(parents=True)
    words = " ".join(f"'{word}'" for word in ["kerascnn", *line.split(" ")])
    script = (
        f"{completion.bash()}\nCOMP_WORDS=({words})\n"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_kerascnn\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"TFDS_DATA_DIR": str(tmp_path / "sets")},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.split() == offered
    assert not done.stderr


OFFERED = {
    "run fashion_m": ["fashion_mlp"],
    "run fashion_mlp --dataset fa": ["fashion_mnist"],
    "run fashion_mlp --dataset my": ["my_set"],
    "export cifar10 --to s": ["savedmodel", "stablehlo"],
    "bench st": ["step"],
}


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_completes(tmp_path):
    (tmp_path / "sets" / "my_set").mkdir(parents=True)
    (tmp_path / "completion").write_text(completion.zsh())
    outside, inside = os.openpty()  # zsh completes in a terminal alone
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        env=os.environ | {"TFDS_DATA_DIR": str(tmp_path / "sets"), "TERM": "dumb"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        cwd=tmp_path,
        start_new_session=True,
    )

    def answered(keys, *words):
        os.write(outside, keys.encode())
        seen, until = "", time.monotonic() + 20
        while not all(word in seen for word in words):
            assert select.select([outside], [], [], until - time.monotonic())[0], seen
            seen += os.read(outside, 65_536).decode()

    try:
        answered("PROMPT=a''sks:; autoload -U compinit && compinit -u -D\n", "asks:")
        answered("source ./completion; print rea''dy\n", "ready", "asks:")
        for line, offered in OFFERED.items():
            one = len(offered) == 1
            whole = [f"{line[: line.rindex(' ')]} {offered[0]}"] if one else offered
            answered(f"kerascnn {line}" + "\t" * (2 - one), *whole)
            answered("\x15")  # Ctrl-U takes the line away
    finally:
        shell.kill()
        shell.wait()
        os.close(inside)
        os.close(outside)


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish_completes(tmp_path):
    (tmp_path / "sets" / "my_set").mkdir(parents=True)
    (tmp_path / "completion").write_text(completion.fish())
    for line, offered in OFFERED.items():
        done = subprocess.run(
            ["fish", "-c", f"source completion; complete -C 'kerascnn {line}'"],
            env=os.environ | {"TFDS_DATA_DIR": str(tmp_path / "sets")},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        )
        assert done.stdout.split() == offered, line
        assert not done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(shell, capsys):
    assert commands.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for command in commands.COMMANDS:
        assert command.name.split()[-1] in text
    assert "cifar_vgg_aug" in text


# A recipe of one's own.


@pytest.mark.parametrize(
    "old", ["fashion_mlp", "cifar_vgg_aug", "cifar_edges", "imagenet_vgg16"]
)
def test_a_new_recipe_is_the_old_one_under_another_name(
    old, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert commands.main(["new", "mine", "--from", old]) == 0
    assert "kerascnn run ./mine.py" in capsys.readouterr().out
    mine, course = recipe.load("./mine.py"), recipe.load(old)
    assert (mine.name, mine.after, set(mine.changes)) == ("mine", old, set())
    assert mine.course == recipe.Course(source="mine")
    assert mine.parameters == 0
    assert "    kerascnn run ./mine.py" in mine.idea.splitlines()
    from kerascnn import describe

    first, second = describe.describe(mine), describe.describe(course)
    assert first | {"name": old} == second
    assert "kerascnn.recipes." not in (tmp_path / "mine.py").read_text()


def test_a_new_recipe_trains_and_goes_on_and_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert commands.main(["new", "mine", "--from", "fashion_mlp"]) == 0
    for words in (["show", "mine.py"], ["diff", "fashion_mlp", "./mine.py"]):
        assert commands.main(words) == 0
    shown = capsys.readouterr().out
    assert "kerascnn run mine.py" in shown
    assert '+    name="mine"' in shown
    assert commands.main(["run", "./mine.py", *SHORT, "--out", "run"]) == 0
    run = Run(tmp_path / "run")
    assert run.config["recipe_file"] == str(tmp_path / "mine.py")
    (run.folder / "result.json").unlink()
    assert commands.main(["resume", "run"]) == 0
    assert commands.main(["cookbook", "add", "run"]) == 2
    assert "none of the course" in capsys.readouterr().err
    (run.folder / "result.json").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "other" / "mine.py")
    assert commands.main(["resume", "run"]) == 2
    error = capsys.readouterr().err
    assert "is gone: bring the file back, or go on with `kerascnn run FILE" in error
    assert commands.main(["run", "other/mine.py", "--resume", "run"]) == 0
    assert run.config["recipe_file"] == str(tmp_path / "other" / "mine.py")
    # A copy of a copy.
    words = ["new", "more", "--from", "other/mine.py", "--out", "other"]
    assert commands.main(words) == 0
    assert recipe.load("other/more.py").after == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["there", "--from", "fashion_mlp"], "there.py is there already"),
        (["fashion_mlp", "--from", "cifar_mlp"], "is a recipe of the course"),
        (["a-b", "--from", "fashion_mlp"], "can't be a recipe's name"),
        (["class", "--from", "fashion_mlp"], "can't be a recipe's name"),
        (["mine", "--from", "fashion_mpl"], "did you mean fashion_mlp"),
        (["mine", "--from", "gone.py"], "there is no file gone.py"),
        (["mine", "--from", "there.py"], "it assigns RECIPE = Recipe(...) once"),
        (["mine", "--from", "broken.py"], "was never closed"),
        (["mine", "--from", "fashion_mlp", "--out", "x.py"], "expected mine.py"),
        (["mine", "--from", "fashion_mlp", "--out", "no/mine.py"], "No such file"),
        (["mine"], "--from"),
        (["--from", "fashion_mlp"], "NAME is missing"),
    ],
)
def test_a_recipe_that_is_not_written(
    words, said, tmp_path, monkeypatch, capsys, unchanged
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("x = (\n")
    with unchanged(tmp_path):
        assert commands.main(["new", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
