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
# # The first hour
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ADDRESS/blob/gh-pages/notebooks/first_hour.ipynb)
#
# A recipe, a short training of it on the images that come with the package, its curve
# and its page, what its first layer sees, and a prediction. `ADDRESS` stands for the
# repository, as in README.

# %%
import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    words = ["install", "-q", "git+https://github.com/ADDRESS"]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)

import kerascnn

# %% [markdown]
# ## Load and show
#
# A recipe is one case of the course. A notebook shows its card: what it does and why,
# its settings, its layers.

# %%
recipe = kerascnn.load("fashion_lenet")
recipe

# %% [markdown]
# ## Train
#
# `data="sample"` takes the bundled images, so that nothing is downloaded. The accuracy
# of so short a training says little; the recipe's own epochs on the full set give the
# figure on the card.

# %%
run = kerascnn.train(recipe, epochs=3, data="sample")

# %%
print(f"test accuracy after the last epoch: {run.result['test_accuracy']:.1%}")
run.show()

# %% [markdown]
# ## The page of the run
#
# One HTML file, which needs neither server nor network: open it in a browser.

# %%
print(run.report())

# %% [markdown]
# ## What the network sees
#
# The model is plain Keras, from raw images to logits: layers that scale the pixels,
# then the network. Here are the maps of its first convolution for one image.

# %%
import keras
import matplotlib.pyplot as plt

from kerascnn import data

images = data.load("fashion_mnist", data="sample").test.images[:8]
_, *transform, network = run.model().layers
scaled = images[:1]
for layer in transform:
    scaled = layer(scaled)
convolution = next(x for x in network.layers if isinstance(x, keras.layers.Conv2D))
first = keras.Model(network.input, convolution.output)
maps = keras.ops.convert_to_numpy(first(scaled))[0]

figure, axes = plt.subplots(1, 1 + maps.shape[-1], figsize=(12, 2))
axes[0].imshow(images[0, ..., 0], cmap="gray")
axes[0].set_title("image")
for number, axis in enumerate(axes[1:]):
    axis.imshow(maps[..., number], cmap="viridis")
    axis.set_title(f"map {number + 1}")
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Predict

# %%
classes = run.config["data"]["classes"]
figure, axes = plt.subplots(1, len(images), figsize=(14, 2.4))
for image, row, axis in zip(images, run.predict(images), axes, strict=True):
    axis.imshow(image[..., 0], cmap="gray")
    axis.set_title(f"{classes[row.argmax()]}\n{row.max():.0%}")
    axis.axis("off")
plt.show()

# %% [markdown]
# From a shell: `kerascnn predict RUN photo.jpg`.
