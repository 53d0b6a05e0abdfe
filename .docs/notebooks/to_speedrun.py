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
# # From a perceptron to a speed-run
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ADDRESS/blob/gh-pages/notebooks/to_speedrun.ipynb)
#
# The ladder of the course on CIFAR-10: what each rung changes, three of them trained
# for a moment, and the network of the last one evaluated. `ADDRESS` stands for the
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
# ## The ladder
#
# With a star: as the course prints it; without: as the runs in the cookbook measured.

# %%
# !kerascnn list

# %% [markdown]
# ## What one rung changes
#
# Neighbours differ in exactly the part that they declare.

# %%
# !kerascnn diff cifar_vgg_erase cifar_vgg_bn

# %%
# !kerascnn diff cifar_vgg_l2 cifar_vgg_aug

# %% [markdown]
# ## Three rungs, for a moment
#
# On some of the bundled images and for few epochs: enough to see that they train, too
# little for the order of the ladder to show.

# %%
options = {"data": "sample", "limit": 500, "epochs": 2}
runs = {
    name: kerascnn.train(name, **options, record="light", report=False)
    for name in ("cifar_mlp", "cifar_edges_cnn", "cifar_vgg")
}

# %%
for name, run in runs.items():
    print(f"{name:14} test accuracy {run.result['test_accuracy']:.1%}")

# %%
import matplotlib.pyplot as plt

for name, run in runs.items():
    recorded = run.recorded
    plt.plot(recorded["step"], recorded["loss"], label=name)
plt.xlabel("step")
plt.ylabel("cross-entropy")
plt.legend()
plt.show()

# %% [markdown]
# ## The end of the ladder
#
# A trained network comes with the package: the speed-run's, its weights in half
# precision. Here it meets the test images of the bundled sample; `--data full` takes
# the whole test set.

# %%
# !kerascnn evaluate cifar10 --dataset cifar10 --data sample

# %% [markdown]
# With views: the mean of the logits for each image moved by a pixel and mirrored.

# %%
# !kerascnn evaluate cifar10 --dataset cifar10 --data sample --views
