"""The code is formatted, linted and typed as pyproject.toml says."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(words):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words, "kerascnn", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_and_functions_are_short():
    """No module above 600 lines, no function above 80, its docstring included.

    But for `train`, whose arguments are all the options of a run, a line each.
    """
    for file in sorted((ROOT / "kerascnn").rglob("*.py")):
        text = file.read_text("utf-8")
        assert len(text.splitlines()) <= 600, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if (file.name, node.name) == ("api.py", "train"):
                    continue
                assert lines <= 80, f"{file}:{node.lineno} {node.name}: {lines} lines"


# Keras annotates few of its functions: pyright infers their results from all backends
# at once, or as None, and these rules report ours for it.
KERAS_TRIPS = {
    "reportArgumentType",
    "reportAssignmentType",
    "reportAttributeAccessIssue",
    "reportCallIssue",
    "reportGeneralTypeIssues",
    "reportOperatorIssue",
    "reportOptionalCall",
    "reportOptionalMemberAccess",
    "reportOptionalOperand",
    "reportReturnType",
}


@pytest.mark.slow
@pytest.mark.needs("tensorflow")  # the package imports both, and pyright follows
@pytest.mark.needs("torch")
def test_pyright_finds_no_other_kind_of_error():
    """Names undefined or perhaps unbound, overrides that do not fit, and so on."""
    words = ["--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [sys.executable, "-m", "pyright", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] > 100, done.stderr
    found = [
        f"{each['file']}:{each['range']['start']['line'] + 1} {each['message']}"
        for each in report["generalDiagnostics"]
        if each["severity"] == "error" and each.get("rule") not in KERAS_TRIPS
    ]
    assert not found, "\n".join(found)
