"""CIFAR-10, speed-run: wider, and for longer.

cifar_speedrun is as small and as short as its accuracy lets it be. With more filters in
each layer and about twice the epochs the same training gets further; Muon's rate and
the last layer's are smaller, as wider layers want it.

    python -m kerascnn.recipes.cifar_speedrun_95

Widths and epochs are those of airbench95 (Keller Jordan, arXiv:2404.00498,
github.com/KellerJordan/cifar10-airbench, MIT licence), which trains with Nesterov's SGD
alone.

Deviations from airbench95: Muon and its settings are cifar_speedrun's, and so is all
else; label smoothing is airbench95's.
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


def normalized(x: keras.KerasTensor) -> keras.KerasTensor:
    x = layers.BatchNormalization(scale=False, momentum=0.55, epsilon=1e-12)(x)
    return layers.Activation("silu")(x)


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    whitening = layers.Conv2D(
        24, 2, padding="same", use_bias=False, activation="silu", trainable=False
    )
    x = whitening(image)
    for filters in (128, 384, 384):
        x = conv(x, filters)
        x = layers.MaxPooling2D(2)(x)
        x = normalized(x)
        x = conv(x, filters)
        x = normalized(x)
    x = layers.MaxPooling2D(4)(x)
    x = layers.Flatten()(x)
    bound = math.sqrt(3) / 384
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
        decay = optax.add_decayed_weights(0.0016 / rate)
        return optax.chain(decay, optax.sgd(falling(rate), 0.825, nesterov=True))

    parts = {
        "filters": optim.muon(falling(0.18), momentum=0.655),
        "shifts": sgd(88.0),
        "head": sgd(0.0056),
    }
    kinds = {4: "filters", 2: "head"}
    return optim.Optax(
        optax.partition(parts, lambda ws: [kinds.get(w.ndim, "shifts") for w in ws])
    )


RECIPE = Recipe(
    name="cifar_speedrun_95",
    dataset="cifar10",
    network=network,
    adapt=adapt,
    transform=lambda: [
        transforms.RandomAlternatingFlip(),
        transforms.RandomCrop(padding=2, mode="reflect"),
        transforms.standard("cifar10"),
    ],
    optimizer=optimizer,
    label_smoothing=0.2,
    views=views.flips_and_shifts,
    batch_size=1536,
    drop_last=True,
    epochs=15,
    parameters=4_604_416,
    course=Course(
        source="speed-run, cifar10-airbench's airbench95",
        says="95.01% with six views, the mean of 200 runs",
    ),
    after="cifar_speedrun",
    changes={"network", "optimizer", "epochs", "label_smoothing"},
)

if __name__ == "__main__":
    main(RECIPE)
