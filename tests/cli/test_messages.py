"""What a message names, an option, a command or an extra, is there to be used."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from PIL import Image

import kerascnn
from kerascnn import UsageError, data, suggestions
from kerascnn import text as texts
from kerascnn.cli import commands
from kerascnn.lessons import page
from kerascnn.training.options import BACKENDS, Command

PACKAGE = Path(kerascnn.__file__).parent
# `run` and `resume` fill the same options; a group has none.
COMMANDS = {
    **dict.fromkeys(commands.GROUPS),
    **{
        command.name: found if dataclasses.is_dataclass(found) else Command
        for command in commands.COMMANDS
        for found in [command.found]
    },
    "lesson": page.Options,
}
# The commands whose users meet the messages of a file, the longest path first.
MET = {
    "cli/parity.py": ["parity", "backends"],
    "cli/bench.py": [name for name in COMMANDS if name.startswith("bench ")],
    "cli/ladder.py": ["ladder plan", "ladder run", "ladder ablation"],
    "studies/ladder.py": ["ladder plan", "ladder run", "run"],
    "studies/ablation.py": ["ladder ablation", "run"],
    "cli/predict.py": ["predict", "evaluate"],
    "prediction/": ["predict", "evaluate"],
    "export/": ["export"],
    "demo/": ["demo"],
    "cli/export.py": ["export"],
    "cli/runs.py": ["runs clean"],
    "cli/lessons.py": ["lessons"],
    "cli/data.py": ["data get", "data import", "data check", "data statistics"],
    "parity/": ["parity"],
    "bench/input.py": ["bench input"],
    "bench/": ["bench step", "bench epoch", "bench checkpoints"],
    "lessons/": ["lesson"],
    "report/": ["parity", "cookbook", "cookbook add", "learns"],
    "studies/learns.py": ["learns"],
    "studies/backends.py": ["backends"],
    "studies/doctor.py": ["run"],
    "studies/lr_find.py": ["lr-find"],
    "studies/sweep.py": ["sweep"],
    "studies/": ["parity"],
    "training/": ["run"],
    "data/importing.py": ["data import"],
    "data/checking.py": ["data check"],
    "data/archives.py": ["data import"],
    "data/downloading.py": ["run", "data get"],
    "data/batches.py": ["run"],
    "data/streamed.py": ["run"],
    "data/": ["run", "learns", "parity", "data statistics"],
    "cli/recipes.py": ["new", "list", "show"],
    "translations/": ["show", "lessons", "lesson"],
    "cli/report.py": ["report", "compare"],
    "cli/gpu_report.py": ["bench gpu-report"],
    "cli/plan.py": ["plan"],
    "cli/compare.py": ["compare"],
    "page/figures.py": ["report"],
    "page/": ["report", "compare"],
    "cli/commands.py": [name for name, options in COMMANDS.items() if options],
    "": ["run"],
}
# Where any of the commands may be the one that is met: a message names an option that
# its own command takes.
ANY = ("cli/", "bench/", "report/", "studies/ladder.py", "studies/ablation.py")
# Options of other programs.
NOT_OURS = {
    *("--xla", "--error-unmatch", "--porcelain", "--show-prefix", "--verify"),
    *("--end-of-options", "--detach", "--force"),
    *("--help", "--version", "--no-"),
    *("--query-", "--format"),  # of nvidia-smi
}


def options(command):
    """The options of a command, as its dataclass has them, and those of all."""
    found = {"--quiet"}
    for field in dataclasses.fields(COMMANDS[command]):
        name = field.name.rstrip("_").replace("_", "-")
        found |= {f"--{name}", *[f"--no-{name}"] * isinstance(field.default, bool)}
    return found


def text(node):
    """A string's own text, with `{}` for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
        return "".join(map(str, parts))
    return node.value if isinstance(node.value, str) else ""


def messages():
    """Every string of the package that is no docstring, with its file."""
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if name == "suggestions.py":  # the rest of its strings are words
            yield from ((name, way) for way in suggestions._ELSEWHERE.values())
        if name.startswith("recipes/") or name == "suggestions.py":
            continue
        tree = ast.parse(file.read_text("utf-8"))
        inside = {
            id(part)
            for node in ast.walk(tree)
            for part in (
                node.values
                if isinstance(node, ast.JoinedStr)
                else [node.value]
                if isinstance(node, ast.Expr)
                else []
            )
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant | ast.JoinedStr)
                and id(node) not in inside
            ):
                yield name, text(node)


MESSAGES = [(file, line) for file, line in messages() if line]


def test_each_command_that_a_message_names_is_there_with_its_options():
    named = 0
    for file, line in MESSAGES:
        for words in re.findall(r"(?:`|: )kerascnn ([a-z][^`\n]*)", line):
            command = re.match(
                r"[a-z]+( (get|list|import|check|statistics|add|plan|run))?", words
            )
            assert command, (file, line)
            assert command[0] in COMMANDS, (file, line)
            named += 1
            for option in re.findall(r"--[a-z][a-z-]*", words):
                assert option in options(command[0]), (file, line)
    assert named > 20


def test_each_option_that_a_message_names_is_one_of_the_command_that_says_it():
    named = 0
    for file, line in MESSAGES:
        bare = re.sub(r"`[^`]*`|(: |\n *)kerascnn [^\n]*", "", line)
        met = next(MET[path] for path in MET if file.startswith(path))
        for option in re.findall(r"--[a-z][a-z-]*", bare):
            if any(option.startswith(other) for other in NOT_OURS):
                continue
            named += 1
            has = [option in options(command) for command in met]
            enough = any(has) if file.startswith(ANY) else all(has)
            assert enough, (file, option, line)
    assert named > 30


NAMES = commands.names()
RUN = sorted(options("run"))


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        *(("train", NAMES, "run"), ("launch", NAMES, "run")),
        *(("fit", NAMES, "run"), ("continue", NAMES, "resume"), ("ls", NAMES, "list")),
        *(("info", NAMES, "show"), ("changes", NAMES, "diff"), ("rnu", NAMES, "run")),
        *(("benchmark", NAMES, "bench"), ("download", NAMES, "data")),
        *(("test", NAMES, "evaluate"), ("convert", NAMES, "export")),
        *(("create", NAMES, "new"), ("copy", NAMES, "new")),
        *(("--lr", RUN, "--learning-rate"), ("--output-dir", RUN, "--out")),
        *(("--val-split", RUN, "--validation"), ("--num-epochs", RUN, "--epochs")),
        *(("--dtype", RUN, "--precision"), ("--bs", RUN, "--batch-size")),
        *(
            ("--q", RUN, "--quiet"),
            ("--valid", RUN, "--validation"),
            ("--samples", RUN, "--limit"),
        ),
        *(("pytorch", BACKENDS, "torch"), ("tf", BACKENDS, "tensorflow")),
        # Near to nothing: no guess.
        *((word, NAMES, None) for word in ("zzz", "bake")),
        *((word, NAMES, None) for word in ("help", "version")),
        *((word, RUN, None) for word in ("--gpu", "--optimizer", "--x")),
        *((word, RUN, None) for word in ("--optimiser", "--initialiser")),
    ],
)
def test_a_word_is_offered_where_it_is_near_in_letters_or_meaning(word, known, near):
    found = suggestions.nearest(word, known)
    assert (found[0] if found else None) == near
    with pytest.raises(UsageError) as mistake:
        texts.choose(word, known, "word")
    assert ("did you mean" in str(mistake.value)) == (near is not None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict"], "RUN is missing"),
        (["run", "fashion_mlp", "--threads", "2"], "--devices says how many"),
        (["run", "fashion_mlp", "--optimizer", "sgd"], "the recipe's file says that"),
        (["run", "fashion_mlp", "--optimiser", "sgd"], "kerascnn new mine --from"),
        (["learns", "fashion_mlp", "--optimiser", "x"], "the recipe's file says that"),
        (["evaluate", "fashion_mlp"], "there is no run in fashion_mlp"),
        (["test"], "did you mean evaluate"),
        (["help"], "`kerascnn --help` shows all commands"),
        (["data", "help"], "`kerascnn COMMAND --help` a command's options"),
        (["version"], "`kerascnn --version` shows it"),
        (["run", "help"], "there is no recipe 'help'"),
        (["run", "fashion_mlp", "--zzz"], "see `kerascnn run fashion_mlp --help`"),
        (["run", "mine.py"], "there is no file mine.py"),
        (["parity", "./mine.py"], "a recipe of the course was expected"),
        (["learns", "mine.py"], "a recipe of the course was expected"),
        (["run", "vgg16"], "did you mean cifar_vgg16"),
    ],
)
def test_the_way_out_is_told(words, said, capsys):
    assert commands.main(words) == 2
    assert said in capsys.readouterr().err


def test_a_word_with_another_way_out_is_no_command_or_option():
    known = {
        *NAMES,
        *(option for c, o in COMMANDS.items() if o for option in options(c)),
    }
    words = [word for words in suggestions._ELSEWHERE for word in words.split()]
    assert len(words) == len({*words})
    # For `run`; these two plan other machines' devices, or choose one.
    assert known & {*words} <= {"--device", "--devices"}
    meant = [word for words in suggestions._MEANT.values() for word in words.split()]
    assert not {*meant} & {*words}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photos", r"photos is a folder here: .* write \./photos"),
        ("my photos", r"my photos is a folder here: .* write \./my photos"),
        ("photos/train", r"write \./photos/train"),
        ("./gone", "there is no folder .*gone"),
        ("gone/train/x", "there is no gone/train/x here"),
        ("gone.csv", "there is no file .*gone.csv"),
        *(
            (f"{dot}table.csv", "table.csv has no column of paths")
            for dot in ("", "./")
        ),
        *((f"{dot}set.npz", "set.npz can't be read as arrays") for dot in ("", "./")),
        *((f"{dot}cats.zip", "cats.zip is a file: .*unpack it") for dot in ("", "./")),
        ("cifar-10", "did you mean cifar10"),
        ("Fashion-MNIST", "did you mean fashion_mnist"),
        ("zzzzz", r"no data set 'zzzzz' in tensorflow-datasets.*\./photos"),
    ],
)
def test_what_is_no_data_set_is_told_as_what_it_is(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/train/cat", "my photos"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("table.csv", "set.npz", "cats.zip"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UsageError, match=said):
        data.load(name)


def test_a_set_of_tensorflow_datasets_is_found_beside_a_folder_of_its_name(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "mnist").mkdir()
    assert data.load("cifar10").sample
    with pytest.raises(UsageError, match="mnist has no bundled sample"):
        data.load("mnist")


@pytest.mark.parametrize(
    "command",
    ["learns", "parity", "backends", *(name for name in COMMANDS if "bench " in name)],
)
def test_what_run_takes_is_taken_or_refused_by_name(command, capsys):
    refused = options("run") - options(command)
    assert len(refused) > 5
    for option in sorted(refused):
        assert commands.main([*command.split(), option, "1"]) == 2
        said = capsys.readouterr().err
        assert f"`kerascnn {command}` does not take {option}, an option of" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "sample", "--data-dir", "sets"], "leave out --data-dir or --data"),
        (["--dataset", "./pets", "--data", "full"], "--data full is for the sets of"),
        (["--dataset", "./pets", "--data-dir", "x"], "is for the sets of tensorflow"),
        (["--workers", "1", "--engine", "epoch"], "--engine epoch keeps them"),
        (["--workers", "0", "--engine", "fit"], "--engine fit keeps them"),
    ],
)
def test_an_option_that_would_say_nothing_is_refused(
    words, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "pets" / place).mkdir(parents=True)
        Image.new("L", (28, 28)).save(tmp_path / "pets" / place / "a.png")
    assert commands.main(["run", "fashion_mlp", *words]) == 2
    assert not (tmp_path / "runs").exists()
    assert said in capsys.readouterr().err
