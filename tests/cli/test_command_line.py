"""One line and exit code 2 for each mistake; help and lists for everything else."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kerascnn import UsageError, recipe
from kerascnn.cli import commands, parsing


@dataclasses.dataclass
class Options:
    """Do a thing."""

    epochs: int = 3
    """How often."""
    data_dir: Path | None = None
    """Where."""


def test_options_are_typed():
    options = parsing.parse(Options, ["--epochs", "5", "--data-dir=x"], "thing")
    assert options == Options(5, Path("x"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epoch", "5"], "there is no option '--epoch': did you mean --epochs?"),
        (["--dd", "x"], "there is no option '--dd': did you mean --data-dir?"),
        (["--data_dri", "5"], "did you mean --data-dir?"),
        (["--epochs", "five"], "--epochs"),
        (["--epochs"], "--epochs"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(words, expected):
    with pytest.raises(UsageError) as mistake:
        parsing.parse(Options, words, "thing")
    message = str(mistake.value)
    assert expected in message
    assert "thing --help" in message or "did you mean" in message
    assert "\n" not in message
    assert "│" not in message


def test_help_is_not_a_mistake(capsys):
    with pytest.raises(SystemExit) as stop:
        parsing.parse(Options, ["--help"], "thing")
    assert stop.value.code == 0
    assert "How often." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "expected a command"),
        (["shwo"], "did you mean show?"),
        (["show"], "RECIPE"),
        (["show", "fashion_mpl"], "did you mean fashion_mlp"),
        (["show", "fashion_mlp", "more"], "more"),
        (["run"], "expected a recipe"),
        (["run", "--epochs", "3"], "expected a recipe"),
        (["run", "cifar_vgg_agu"], "did you mean cifar_vgg_aug"),
        (["run", "fashion_mlp", "--epoch", "3"], "did you mean --epochs"),
        (["run", "fashion_mlp", "--epochs", "0"], "--epochs 0: expected 1 or more"),
        (["run", "fashion_mlp", "--seed", "-1"], "--seed -1"),
        (["run", "fashion_mlp", "--learning-rate", "nan"], "--learning-rate nan"),
        (["run", "fashion_mlp", "--validation", "1"], "--validation 1"),
        (["run", "fashion_mlp", "--data", "smaple"], "smaple"),
        (["run", "fashion_mlp", "--backend", "theano"], "theano"),
        (["data"], "expected a command"),
        (["data", "lst"], "did you mean list?"),
        (["data", "get"], "SET"),
        # Of a variable that is not set; a path would be the present folder.
        (["run", "fashion_mlp", "--out", ""], "an empty word after --out"),
        (["run", "fashion_mlp", "--dataset="], "'--dataset=' says nothing"),
        (["resume", ""], "an empty word after resume"),
        (["cookbook", "add"], "expected runs: `kerascnn cookbook add RUN...`"),
    ],
)
def test_each_mistake_is_one_line_and_exit_code_2(words, expected, capsys):
    assert commands.main(words) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.startswith("kerascnn: ")
    assert captured.err.count("\n") == 1


def test_list_names_the_recipes_with_the_course_figures(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert commands.main(["list"]) == 0
    (line,) = (
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("cifar_vgg_aug ")
    )
    assert line.split()[:4] == ["cifar_vgg_aug", "2,488,906", "~90.6%", "~92%"]


def test_a_list_for_a_pipe_ends_its_sentences_once(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert commands.main(["list"]) == 0
    found = capsys.readouterr().out.splitlines()
    lines = [each.rstrip() for each in found if each.startswith(("cifar_", "fashion_"))]
    assert len(lines) > 40
    assert all(re.search(r"[^.?!][.?]$", each) for each in lines)


def test_show_prints_layers_command_and_course(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert commands.main(["show", "fashion_lenet"]) == 0
    text = capsys.readouterr().out
    assert "python -m kerascnn.recipes.fashion_lenet" in text
    assert "14 × 14 × 6" in text
    assert "61,706" in text
    assert "48,120" in text  # 400 x 120 + 120
    assert "lecture 2" in text


def run_python(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_unknown_backend_in_the_environment_is_one_line():
    done = run_python("-m", "kerascnn", KERAS_BACKEND="theano")
    assert done.returncode == 2
    assert done.stderr == (
        "kerascnn: KERAS_BACKEND 'theano': expected jax, tensorflow or torch.\n"
    )


def test_a_misspelt_recipe_after_m_is_pythons_own_line():
    done = run_python("-m", "kerascnn.recipes.fashion_mpl", KERAS_BACKEND="jax")
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "No module named kerascnn.recipes.fashion_mpl" in done.stderr


@pytest.mark.slow
def test_a_package_of_the_users_that_imports_a_recipe_starts_as_ever(tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("from kerascnn.recipes import fashion_lenet")
    (package / "train.py").write_text(
        "import os, sys; print(sys.argv[1:], os.environ.get('GLIBC_TUNABLES'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-m", "mine.train", "5"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "['5'] None\n"), done.stderr


def test_importing_the_package_is_fast_and_imports_no_framework():
    script = (
        "import sys, time; start = time.perf_counter(); import kerascnn;"
        "print(time.perf_counter() - start);"
        "print({'keras', 'jax', 'tensorflow', 'torch', 'numpy'} & set(sys.modules))"
    )
    done = run_python("-c", script, KERAS_BACKEND="jax")
    seconds, modules = done.stdout.splitlines()
    assert float(seconds) < 0.2
    assert modules == "set()"


def test_list_does_not_import_keras():
    script = (
        "import sys; from kerascnn.cli.commands import main; main(['list']);"
        "print({'keras', 'jax', 'tensorflow', 'torch'} & set(sys.modules))"
    )
    assert run_python("-c", script).stdout.splitlines()[-1] == "set()"


def test_a_copied_recipe_needs_a_name_of_its_own(monkeypatch):
    from kerascnn.recipes import fashion_mlp

    monkeypatch.setattr(recipe, "names", lambda: ["fashion_mlp", "mine"])
    monkeypatch.setitem(sys.modules, "kerascnn.recipes.mine", fashion_mlp)
    with pytest.raises(UsageError, match=r"says name='fashion_mlp'.*name='mine'"):
        recipe.load("mine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "fashion_mlp", "--epochs", "abc"],
            "kerascnn: --epochs: expected a whole number, not 'abc'",
        ),
        (
            ["run", "fashion_mlp", "--seed", "1.5"],
            "kerascnn: --seed: expected a whole number, not '1.5'",
        ),
        (
            ["run", "fashion_mlp", "--validation", "x"],
            "kerascnn: --validation: expected a number, not 'x'",
        ),
        (["run", "fashion_mlp", "--learning-rate", "x"], "a number, not 'x'"),
        (["show"], "RECIPE is missing (see"),
        (["resume", "nowhere"], "there is no run in nowhere"),
    ],
)
def test_mistakes_are_told_in_plain_words(words, message, capsys):
    assert commands.main(words) == 2
    assert message in capsys.readouterr().err


def test_a_file_name_is_shown_as_it_is_and_in_one_line(capsys):
    def program():
        raise UsageError("no \x1b[2J or \udcff\nin é.png")

    assert parsing.run(program) == 2
    assert capsys.readouterr().err == "kerascnn: no \\x1b[2J or \\udcff\\nin é.png\n"


def test_an_error_of_a_file_is_one_line_and_others_are_not_hidden(capsys):
    assert commands.main(["data", "check", "x" * 300]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kerascnn: ")
    assert error.endswith("x: File name too long.\n")

    def broken():
        raise OSError("a mistake of ours")

    with pytest.raises(OSError, match="a mistake of ours"):
        parsing.run(broken)


@pytest.mark.parametrize(
    "words",
    [
        ["data", "check", "~nosuchuser/x"],
        ["data", "import", "cifar10", "~nosuchuser/x"],
        ["data", "import", "cifar10", "x", "--data-dir", "~nosuchuser/x"],
        ["data", "get", "cifar10", "--data-dir", "~nosuchuser/x"],
        ["data", "list", "--data-dir=~nosuchuser/x"],
        ["data", "statistics", "~nosuchuser/x"],
        ["run", "fashion_mlp", "--out", "~nosuchuser/x"],
        ["run", "fashion_mlp", "--data-dir", "~nosuchuser/x"],
        ["run", "fashion_mlp", "--cache-dir", "~nosuchuser/x"],
        ["run", "fashion_mlp", "--dataset", "~nosuchuser/x"],
    ],
    ids=" ".join,
)
def test_an_unknown_home_folder_is_one_line(words, capsys):
    assert commands.main(words) == 2
    assert capsys.readouterr().err == (
        "kerascnn: ~nosuchuser/x: the home folder ~nosuchuser is not known here: write "
        "the path out.\n"
    )


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("TFDS_DATA_DIR", ["data", "list"]),
        ("KERASCNN_CACHE_DIR", ["data", "statistics", "cifar10", "--data", "sample"]),
    ],
)
def test_an_unknown_home_folder_in_the_environment(
    variable, words, monkeypatch, capsys
):
    monkeypatch.setenv(variable, "~nosuchuser/x")
    assert commands.main(words) == 2
    assert capsys.readouterr().err.startswith("kerascnn: ~nosuchuser/x: the home")


@pytest.mark.few("-list", "---help", "-diff --help")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["--help"],
        ["diff", "--help"],
        pytest.param(["diff", "cifar_mlp", "cifar_conv"], marks=pytest.mark.slow),
        ["run", "fashion_mlp", "--data=sample", "--limit=50", "--batch-size=50"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.slow)])
def test_output_to_a_full_disk_is_one_line(words, unbuffered, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kerascnn", *words],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            timeout=120,
        )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "kerascnn: the output: No space left on device."
    )
    if words[0] != "run":  # which says a word on the data before
        assert done.stderr.removeprefix("Loading Keras and JAX ...\n").count("\n") == 1


def test_a_closed_output_is_no_error():
    program = f"{sys.executable} -m kerascnn --version >&-"
    done = subprocess.run(program, shell=True, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_leaves_is_no_error():
    program = f"{sys.executable} -m kerascnn --help | true"
    done = subprocess.run(program, shell=True, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b""


@pytest.mark.parametrize(
    "words",
    [["run", "fashion_mlp"], ["data", "get"], ["bench", "epoch"]],
    ids=" ".join,
)
def test_help_gives_no_default_that_is_none(words, capsys):
    with pytest.raises(SystemExit):
        commands.main([*words, "--help"])
    assert "default: None" not in capsys.readouterr().out


def test_help_of_the_cookbook_names_both_forms(capsys):
    with pytest.raises(SystemExit) as end:
        commands.main(["cookbook", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--check" in text
    assert "cookbook add RUN..." in text


@pytest.mark.slow
@pytest.mark.needs("torch")
def test_a_recipe_run_as_a_file_starts_again_on_jax(tmp_path):
    """It imports Keras before this package, and Keras chooses what its file says."""
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    script = (
        "import keras; from kerascnn.cli import run; from kerascnn.training import"
        " options; from kerascnn.process import signals; signals.own_process();"
        "print(keras.backend.backend());"
        "run.use_environment(options.Overrides())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["torch", "jax"], done.stderr
