"""CIFAR-10, speed-run: deeper, with shortcuts and squares cut out.

A third convolution in each block, and a shortcut around the last two; wider once more.
What has so many weights learns images by heart in 37 epochs, so each image is moved
further, and a square of 12 x 12 of it is hidden each time.

    python -m kerascnn.recipes.cifar_speedrun_96

The network, its epochs and its transforms are those of airbench96 (Keller Jordan,
arXiv:2404.00498, github.com/KellerJordan/cifar10-airbench, MIT licence), which trains
with Nesterov's SGD alone.

Deviations from airbench96: Muon, its momenta and its schedule are cifar_speedrun's.
"""

import math

from kerascnn import initializers, optim, transforms, views
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
import numpy as np
import optax
from keras import layers


def conv(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    start = initializers.default(fan_in=9 * x.shape[-1])
    return layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer=start["kernel_initializer"],
    )(x)


def norm(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.BatchNormalization(scale=False, momentum=0.9, epsilon=1e-12)(x)


def silu(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Activation("silu")(x)


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    whitening = layers.Conv2D(
        24, 2, padding="same", use_bias=False, activation="silu", trainable=False
    )
    x = whitening(image)
    for filters in (128, 384, 512):
        x = conv(x, filters)
        x = layers.MaxPooling2D(2)(x)
        x = shortcut = silu(norm(x))
        x = silu(norm(conv(x, filters)))
        x = norm(conv(x, filters))
        x = silu(layers.Add()([x, shortcut]))
    x = layers.MaxPooling2D(4)(x)
    x = layers.Flatten()(x)
    bound = math.sqrt(3) / 512
    start = keras.initializers.RandomUniform(-bound, bound)
    logits = layers.Dense(10, use_bias=False, kernel_initializer=start)(x)
    return keras.Model(image, logits)


def adapt(model: keras.Model, images: np.ndarray) -> None:
    whitening, *others = [x for x in model.layers if isinstance(x, layers.Conv2D)]
    whitening.kernel.assign(initializers.whitening(images, size=2))
    for layer in others:
        layer.kernel.assign(initializers.dirac(layer.kernel))


def optimizer(steps: int) -> keras.Optimizer:
    def falling(rate: float) -> optax.Schedule:
        return optax.linear_schedule(rate, 0, steps)

    def sgd(rate: float) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(0.001 / rate)
        return optax.chain(decay, optax.sgd(falling(rate), 0.825, nesterov=True))

    parts = {
        "filters": optim.muon(falling(0.16), momentum=0.655),
        "shifts": sgd(59.0),
        "head": sgd(0.0021),
    }
    kinds = {4: "filters", 2: "head"}
    return optim.Optax(
        optax.partition(parts, lambda ws: [kinds.get(w.ndim, "shifts") for w in ws])
    )


RECIPE = Recipe(
    name="cifar_speedrun_96",
    dataset="cifar10",
    network=network,
    adapt=adapt,
    transform=lambda: [
        transforms.RandomAlternatingFlip(),
        transforms.RandomCrop(padding=4, mode="reflect"),
        transforms.standard("cifar10"),
        transforms.RandomErasing(p=1, scale=(0.140625, 0.140625), ratio=(1, 1)),
    ],
    optimizer=optimizer,
    label_smoothing=0.2,
    views=views.flips_and_shifts,
    batch_size=1024,
    drop_last=True,
    epochs=37,
    parameters=9_915_392,
    course=Course(
        source="speed-run, cifar10-airbench's airbench96",
        says="96.03% with six views, the mean of 400 runs",
    ),
    after="cifar_speedrun_95",
    changes={"network", "transform", "optimizer", "batch_size", "epochs"},
)

if __name__ == "__main__":
    main(RECIPE)
