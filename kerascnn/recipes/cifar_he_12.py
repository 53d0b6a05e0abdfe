"""CIFAR-10, lecture 3, solution 3: initial weights made for ReLU.

Glorot (2010) chose the weights' variance so that a layer of linear units keeps the
signal's size. ReLU sets half of the units to zero, so in cifar_relu_12 the signal
halves with every layer. He (2015) doubles the variance, 2/n for n inputs, and it
arrives as large as it set out.

    python -m kerascnn.recipes.cifar_he_12

Deviations from the lecture: the number of epochs is ours, the slides give none. Keras's
own he_normal is a truncated normal distribution, PyTorch's kaiming_normal_ a plain one;
the plain one is used.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def conv(filters: int) -> layers.Layer:
    return layers.Conv2D(
        filters,
        3,
        padding="same",
        activation="relu",
        kernel_initializer=initializers.he_normal(),
    )


def dense(units: int, activation: str | None = None) -> layers.Layer:
    return layers.Dense(
        units, activation=activation, kernel_initializer=initializers.he_normal()
    )


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = image
    for filters in (64, 128, 256, 512):
        for _ in range(3):
            x = conv(filters)(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    x = dense(512, "relu")(x)
    logits = dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_he_12",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=8_873_994,
    course=Course(source="lecture 3, solution 3", says="a plot, now lost"),
    after="cifar_relu_12",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
