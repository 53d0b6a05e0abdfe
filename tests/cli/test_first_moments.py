"""What the first second of a command is for: refusals, and a word while it loads."""

import os
import subprocess
import sys

REFUSED = """
import sys
from kerascnn.cli.commands import main
for words in {commands}:
    code = main(words)
    loaded = {{"keras", "jax", "tensorflow", "torch"}} & set(sys.modules)
    print(code, sorted(loaded), *words)
"""
MISTAKES = [
    "run nosuch",
    "run ./nosuch.py",
    "run ./not-a-name.py",
    "run fashion_lenet --epohcs 1",
    "run fashion_lenet --epochs -1",
    "run fashion_lenet --validation 2",
    "run fashion_lenet --dataset ./nosuch",
    "run fashion_lenet --dataset nosuch.npz",
    "run fashion_lenet --dataset fashion_mnisd",
    "run fashion_lenet --dataset fashion_mnist --skip-bad",
    "run fashion_lenet --weights nosuch",
    "run fashion_lenet --weights runs/nosuch/model.keras",
    "run fashion_lenet --out full",
    "run fashion_lenet --out full/file/run",
    "run fashion_lenet --resume nosuch",
    "resume nosuch",
    "resume full",
    "predict nosuch image.png",
    "predict fashion nosuch.png",
    "predict fashion image.png --top 0",
    "evaluate nosuch",
    "export nosuch --to onnx",
    "export fashion --to onnz",
    "demo nosuch",
    "report nosuch",
    "compare nosuch nosuch",
    "lr-find nosuch",
    "lr-find fashion_lenet --dataset ./nosuch",
    "sweep fashion_lenet --learning-rate 1e-3:1e-4",
    "sweep fashion_lenet --learning-rate 1e-4:1e-3 --dataset ./nosuch",
    "learns nosuch",
    "parity nosuch",
]


def test_what_can_be_refused_is_before_keras_and_its_backend_are_imported(tmp_path):
    (tmp_path / "full").mkdir()
    for name in ("full/file", "not-a-name.py", "image.png"):
        (tmp_path / name).touch()
    script = REFUSED.format(commands=[words.split() for words in MISTAKES])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [f"2 [] {words}" for words in MISTAKES]
    assert done.stderr.count("\n") == len(MISTAKES), done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_says_that_it_loads(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kerascnn.recipes.fashion_mlp", "--epochs", "0"],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[0] == "Loading Keras and JAX ..."
    assert done.stderr.count("Loading") == 1  # also where the process starts anew
