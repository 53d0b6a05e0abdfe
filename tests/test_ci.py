"""`.ci/run`: two lanes, of which neither may fail or run nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="CI runs on Linux")

# Stands for a Python 3.VERSION: says its version, or makes an environment whose pytest
# prints LINE.
PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then
    case "$2" in
        *ensurepip*) exit {broken} ;;
        *) echo {minor} ;;
    esac
else
    mkdir -p "$3/bin"
    echo 'echo "pip $*" >> calls' > "$3/bin/pip"
    echo 'echo "{line}"; exit {code}' > "$3/bin/pytest"
    chmod +x "$3/bin/pip" "$3/bin/pytest"
fi
"""


@pytest.fixture
def ci(tmp_path):
    """Run the script in a checkout whose first lane and second Python are stand-ins."""

    def run(first="echo '3 passed in 1s'", second="2 passed in 1s", code=0, broken=0):
        root, path = tmp_path / "checkout", tmp_path / "bin"
        (root / ".ci").mkdir(parents=True)
        path.mkdir()
        shutil.copy(SCRIPT, root / ".ci")
        text = f"<!-- test command -->\n```sh\n{first}\n```\n<!-- end -->\n"
        (root / "README.md").write_text(text)
        for name, minor in {"python3": 11, "python3.13": 13}.items():
            python = path / name
            python.write_text(
                PYTHON.format(minor=minor, line=second, code=code, broken=broken)
            )
            python.chmod(0o755)
        for minor in (12, 14):  # none but the stand-in is found
            (path / f"python3.{minor}").write_text("#!/bin/sh\nexit 1\n")
            (path / f"python3.{minor}").chmod(0o755)
        done = subprocess.run(
            ["bash", str(root / ".ci" / "run")],
            env={
                **os.environ,
                "PATH": f"{path}:{os.environ['PATH']}",
                "PYENV_ROOT": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = root / "calls"
        return done, calls.read_text() if calls.exists() else ""

    return run


def test_both_lanes_run_and_pytest_has_the_last_word(ci):
    done, calls = ci()
    assert done.returncode == 0, done.stderr
    assert "3 passed in 1s" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 passed in 1s"
    assert calls == "pip install -e .[test-jax]\n"


@pytest.mark.parametrize("code", [0, 1])
def test_types_speak_where_they_are_wrong_alone(ci, code):
    types = f'echo types; echo "$*" >> calls; exit {code}'
    made = "mkdir -p .venv/bin; cat > .venv/bin/pytest; chmod +x .venv/bin/pytest"
    first = f"echo '{types}' | ({made}); echo '3 passed in 1s'"
    done, calls = ci(first)
    assert done.returncode == code
    assert calls.startswith("-n 0 -m slow tests/test_style.py ")
    assert "\ntypes" not in done.stdout
    assert ("types" in done.stderr) == bool(code)


def test_without_a_newer_python_one_line_says_so(ci):
    done, calls = ci(broken=1)
    assert done.returncode == 0, done.stderr
    assert "No Python newer than 3.11 was found" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[-1] == "3 passed in 1s"
    assert not calls


@pytest.mark.parametrize(
    "lanes",
    [
        {"first": "echo '3 passed in 1s'; exit 1"},
        {"first": "echo '3 skipped in 1s'"},
        {"first": "echo 'no tests ran in 1s'"},
        {"first": "true"},
        {"second": "1 failed, 2 passed in 1s", "code": 1},
        {"second": "40 skipped in 1s"},
        {"second": "no tests ran in 1s", "code": 5},
    ],
    ids=str,
)
def test_a_lane_that_fails_or_runs_nothing_fails_ci(ci, lanes):
    done, _ = ci(**lanes)
    assert done.returncode != 0
