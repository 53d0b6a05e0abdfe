"""The notebooks choose JAX before anything else, and run."""

import os
import re
import sys
from pathlib import Path

import pytest

import kerascnn

FOLDER = Path(kerascnn.__file__).parents[1] / ".docs" / "notebooks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_chooses_the_backend(name):
    text = (FOLDER / f"{name}.py").read_text("utf-8")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    code = [cell for cell in cells if not cell.startswith(" [markdown]")]
    lines = [line.partition("#")[0].strip() for line in code[0].splitlines()]
    chosen = ["import os", 'os.environ["KERAS_BACKEND"] = "jax"']
    assert [line for line in lines if line] == chosen
    assert f"notebooks/{name}.ipynb" in cells[0]  # what the badge opens


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, tmp_path, monkeypatch):
    jupytext = pytest.importorskip("jupytext")
    nbclient = pytest.importorskip("nbclient")
    for package in ("ipykernel", "onnxruntime"):
        pytest.importorskip(package)
    # The command `kerascnn` of this Python, as where its environment is activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    monkeypatch.delenv("KERASCNN_REPORT", raising=False)
    notebook = jupytext.read(FOLDER / f"{name}.py")
    for cell in notebook.cells:
        if "!kerascnn" in cell.source:
            cell.source += "\nassert _exit_code == 0"
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=500, resources=place).execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "test accuracy" in printed
    assert "Traceback" not in printed
