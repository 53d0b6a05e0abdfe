"""CIFAR-10, lecture 4: the base network, which overfits.

Lecture 3 made a deep network fit its training set. That was the easy half: this one
ends near perfect on the images it has seen and well below on those it has not. Every
trick of lecture 4 starts here: blocks of three convolutions, He's initial weights,
images of zero mean and unit deviation.

    python -m kerascnn.recipes.cifar_vgg

Deviations from the lecture: the widths were in a picture, now lost; ours, half of
lecture 3's, agree with the 32 filters that later slides show in the first block. That a
block has three convolutions is ours too, and so is the number of epochs. PyTorch's
network of these widths computes the same, step by step (`kerascnn parity cifar_vgg`).
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
    for filters in (32, 64, 128, 256):
        for _ in range(3):
            x = conv(filters)(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 256 = 1024
    x = dense(512, "relu")(x)
    logits = dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_vgg",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.standard("cifar10")],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=60,
    parameters=2_486_026,
    course=Course(source="lecture 4, the base network", test=0.78, about=True),
)

if __name__ == "__main__":
    main(RECIPE)
