"""Libraries that are imported when they are needed: by a process that needs them."""

import os
import subprocess
import sys

import keras
import pytest

BEGIN = """
import os, sys
os.environ["MPLBACKEND"] = "agg"
from kerascnn import postponed
postponed.postpone()
"""


def printed(program: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        env={**os.environ, "KERAS_BACKEND": "jax", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's own engine")
def test_a_training_imports_neither_before_it_draws_its_curve(tmp_path):
    words = ["run", "fashion_mlp", "--data", "sample", "--epochs", "1"]
    words += ["--out", str(tmp_path / "run")]
    program = f"""
from kerascnn.cli import commands
from kerascnn.training import epoch
fit = epoch.fit
def fit_and_tell(*arguments, **options):
    fit(*arguments, **options)
    print("told", "matplotlib" in sys.modules, "scipy" in sys.modules)
epoch.fit = fit_and_tell
commands.main({words!r})
"""
    assert "told False False" in printed(program)
    assert (tmp_path / "run" / "curve.png").exists()


USES = {
    "gallery": """
import numpy as np
from keras.src.visualization import plot_image_gallery as module
print(type(module.plt).__name__)
keras.visualization.plot_image_gallery(
    np.zeros((4, 8, 8, 3)), value_range=(0, 255), rows=2, cols=2, path="gallery.png")
print(os.path.getsize("gallery.png") > 0)
""",
    "bounding boxes": """
from keras.src.visualization import plot_bounding_box_gallery as module
print(type(module.patches).__name__)
print(module.patches.Patch(color="red").get_facecolor() == (1, 0, 0, 1))
""",
    "sparse solver": """
import numpy as np
from jax.experimental.sparse import BCSR, linalg
print(type(linalg.scipy).__name__)
matrix = BCSR.fromdense(2 * np.eye(3, dtype="float32"))
x = linalg.spsolve(matrix.data, matrix.indices, matrix.indptr, np.ones(3, "float32"))
print(np.allclose(x, 0.5))
""",
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_what_is_postponed_works_when_it_is_used(tmp_path, use):
    program = f"os.chdir({str(tmp_path)!r})\nimport keras\n{use}"
    assert printed(program)[-2:] == ["_Postponed", "True"]


def test_once_keras_is_there_python_imports_as_ever():
    program = """
import keras, jax
print({"matplotlib", "matplotlib.pyplot", "scipy", "scipy.sparse"} & set(sys.modules))
print(type(keras.__loader__) is type(keras.__spec__.loader) is type(jax.__loader__))
from matplotlib.ticker import MultipleLocator
import matplotlib.pyplot as plt
plt.subplots()[1].xaxis.set_major_locator(MultipleLocator(1))
import scipy.sparse
print(plt.__file__ == sys.modules["matplotlib.pyplot"].__file__, scipy.__version__ > "")
"""
    assert printed(program) == ["set()", "True", "True True"]


def test_what_else_needs_them_while_keras_is_imported_has_them(tmp_path):
    """Keras imports pandas, if there is one."""
    (tmp_path / "pandas.py").write_text(
        """
from matplotlib.ticker import MultipleLocator  # before matplotlib itself
import matplotlib.colors
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.xaxis.set_major_locator(MultipleLocator(1))
axes.imshow([[0, 1]], norm=matplotlib.colors.Normalize())
import sys, scipy.special
print(scipy.special.expit(0.0), MultipleLocator.__module__)
print(matplotlib.colors is sys.modules["matplotlib.colors"], matplotlib.colors.__file__)
Series = DataFrame = type("Table", (), {})
"""
    )
    first, second = printed("import keras", PYTHONPATH=str(tmp_path))
    assert first == "0.5 matplotlib.ticker"
    assert second.startswith("True ")
    assert second.endswith("colors.py")


def test_what_is_imported_or_missing_is_left_as_it_is():
    program = """
import importlib.util, matplotlib
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: name != "scipy" and find_spec(name)
import keras
print(sys.modules["matplotlib"] is matplotlib, "scipy" in sys.modules)
"""
    assert printed(program) == ["True True"]


def test_other_backends_and_a_keras_that_is_there_are_left_alone():
    program = """
os.environ["KERAS_BACKEND"] = "torch"
before = list(sys.meta_path)
postponed.postpone()
print(sys.meta_path == before)
os.environ["KERAS_BACKEND"] = "jax"
sys.modules["keras"] = sys
postponed.postpone()
print(sys.meta_path == before)
"""
    assert printed(program) == ["True", "True"]
