"""CIFAR-10, lecture 3, solution 6: a smaller learning rate.

Adam divides each gradient by its own size, so even where cifar_relu_12's gradients are
tiny its steps are not: every weight moves by about the learning rate, mostly along
noise, and the weights that happened to be good are gone before a direction shows. With
steps ten times smaller they last.

    python -m kerascnn.recipes.cifar_low_lr_12

Deviations from the lecture: the number of epochs is ours, the slides give none; it is
cifar_relu_12's although the steps are smaller.
"""

from kerascnn import optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = image
    for filters in (64, 128, 256, 512):
        for _ in range(3):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    x = layers.Dense(512, activation="relu")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_low_lr_12",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-4),
    batch_size=256,
    epochs=30,
    parameters=8_873_994,
    course=Course(source="lecture 3, solution 6", says="a plot, now lost"),
    after="cifar_relu_12",
    changes={"optimizer"},
)

if __name__ == "__main__":
    main(RECIPE)
