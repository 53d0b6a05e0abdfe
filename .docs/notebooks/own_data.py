# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own data
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ADDRESS/blob/gh-pages/notebooks/own_data.ipynb)
#
# From a folder of images to a trained network, its predictions and an ONNX file. Put
# your own folder in place of the one that is made here. `ADDRESS` stands for the
# repository, as in README.

# %%
import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    words = ["install", "-q", "kerascnn[onnx] @ git+https://github.com/ADDRESS"]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)

import kerascnn

# %% [markdown]
# ## A folder of images
#
# One folder a class, inside `train` and `test`. Here: three classes of the bundled
# sample of Fashion-MNIST, as PNG files.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

from kerascnn import data

sample = data.load("fashion_mnist", data="sample")
folder = Path("mine")
for role, split in (("train", sample.train), ("test", sample.test)):
    for name in ("Bag", "Coat", "Sneaker"):
        place = folder / role / name
        place.mkdir(parents=True, exist_ok=True)
        chosen = np.flatnonzero(split.labels == sample.classes.index(name))
        for number in chosen[:60]:
            Image.fromarray(split.images[number, ..., 0]).save(place / f"{number}.png")
print(sum(1 for _ in folder.rglob("*.png")), "images")

# %% [markdown]
# ## Check it
#
# `data check` names the images that can't be trained on, and why.

# %%
# !kerascnn data check ./mine

# %% [markdown]
# ## Train

# %%
run = kerascnn.train("fashion_lenet", dataset="./mine", epochs=5, batch_size=16)

# %%
print(f"test accuracy after the last epoch: {run.result['test_accuracy']:.1%}")
run.show()

# %% [markdown]
# The page of the run, `report.html`, shows which classes are taken for each other.

# %%
print(run.report())

# %% [markdown]
# ## Predict
#
# From a shell `kerascnn predict RUN FOLDER`, which decodes the files and brings them to
# the network's size:

# %%
# !kerascnn predict {run.folder} mine/test/Sneaker | head -20

# %% [markdown]
# From Python, arrays of raw images:

# %%
files = sorted(folder.glob("test/*/*.png"))[::20]
images = np.stack([np.asarray(Image.open(file)) for file in files])[..., None]
classes = run.config["data"]["classes"]
for file, row in zip(files, run.predict(images), strict=True):
    print(
        f"{file.parent.name:7} is taken for {classes[row.argmax()]} ({row.max():.0%})"
    )

# %% [markdown]
# ## Export
#
# The file is run on real images before it is kept; the JSON file beside it names
# classes and input.

# %%
# !kerascnn export {run.folder} --to onnx --out mine.onnx

# %%
import onnxruntime

session = onnxruntime.InferenceSession("mine.onnx")
(logits,) = session.run(None, {session.get_inputs()[0].name: images})
print([classes[n] for n in logits.argmax(-1)])
