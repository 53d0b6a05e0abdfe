"""Libraries that are imported when they are needed: by a process that needs them."""

import subprocess
import sys

import keras
import pytest


def printed(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's own engine")
def test_a_training_imports_neither_before_it_draws_its_curves(tmp_path):
    words = ["run", "fashion_mlp", "--data", "sample", "--epochs", "1"]
    words += ["--out", str(tmp_path / "run")]
    program = f"""
import sys
from kerascnn import __main__, postponed
postponed.postpone()
from kerascnn.training import epoch
fit = epoch.fit
def fit_and_tell(*arguments, **options):
    fit(*arguments, **options)
    print("told", "matplotlib.figure" in sys.modules, "scipy._lib" in sys.modules)
epoch.fit = fit_and_tell
__main__.main({words!r})
"""
    found = printed(program)
    told = found.index("told")
    assert found[told + 1 : told + 3] == ["False", "False"]
    assert (tmp_path / "run" / "curve.png").exists()


PROGRAMS = {
    "keras.visualization": """
import numpy as np
keras.visualization.plot_image_gallery(
    np.zeros((4, 8, 8, 3)), value_range=(0, 255), rows=2, cols=2, path="gallery.png")
import os
print(os.path.getsize("gallery.png") > 0)
""",
    "bounding boxes": """
from keras.src.visualization import plot_bounding_box_gallery as gallery
print(gallery.patches.Patch(color="red").get_facecolor() == (1, 0, 0, 1))
""",
    "sparse solver": """
import jax, numpy as np
from jax.experimental.sparse import BCSR, linalg
matrix = BCSR.fromdense(2 * np.eye(3, dtype="float32"))
x = linalg.spsolve(matrix.data, matrix.indices, matrix.indptr, np.ones(3, "float32"))
print(np.allclose(x, 0.5))
""",
    "submodule": "from matplotlib.figure import Figure; print(Figure().axes == [])",
    "settings": """
import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
print(matplotlib.get_backend() == plt.get_backend() == "svg")
""",
    "another part": "import scipy.special; print(scipy.special.expit(0.0) == 0.5)",
    "of the same": "import scipy.sparse; print(scipy.sparse.eye(3).sum() == 3.0)",
    "find_spec": """
from importlib.util import find_spec
print(all(map(find_spec, ("scipy", "matplotlib", "scipy.sparse", "scipy.special"))))
""",
}


@pytest.mark.parametrize("use", PROGRAMS.values(), ids=list(PROGRAMS))
def test_what_is_postponed_works_when_it_is_used(tmp_path, use):
    program = (
        f"import os; os.chdir({str(tmp_path)!r}); os.environ['MPLBACKEND'] = 'agg'\n"
        "from kerascnn import postponed; postponed.postpone()\n"
        f"import keras\n{use}"
    )
    assert printed(program)[-1] == "True"


def test_what_is_imported_or_missing_is_left_as_it_is():
    program = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: name != "scipy" and find_spec(name)
import sys, matplotlib
from kerascnn import postponed
postponed.postpone()
print("scipy" in sys.modules, sys.modules["matplotlib"] is matplotlib)
print(hasattr(matplotlib, "__file__"), "matplotlib.pyplot" in sys.modules)
"""
    assert printed(program) == ["False", "True", "True", "False"]
