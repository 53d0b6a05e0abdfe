"""CIFAR-10, lecture 4, trick 1: learn the hard way, from images with a hole.

cifar_vgg can afford to learn its training images by heart, down to the detail that
gives each away. RandomErasing (Zhong et al., 2017) paints a square over most images,
each time elsewhere, so no single detail can be relied on, and the network has to know a
class by several. The square comes after the scaling, so its zeros are the mean colour.

    python -m kerascnn.recipes.cifar_vgg_erase

Deviations from the lecture: the number of epochs is ours, as many as cifar_vgg's.
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
    name="cifar_vgg_erase",
    dataset="cifar10",
    network=network,
    transform=lambda: [
        transforms.standard("cifar10"),
        transforms.RandomErasing(p=0.75, scale=(0.01, 0.3), ratio=(1.0, 1.0)),
    ],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=60,
    parameters=2_486_026,
    course=Course(source="lecture 4, trick 1", test=0.80, about=True),
    after="cifar_vgg",
    changes={"transform"},
)

if __name__ == "__main__":
    main(RECIPE)
