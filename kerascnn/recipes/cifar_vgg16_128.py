"""CIFAR-10, lecture 2: VGG16's convolutions with a small head.

The standard CNN at full size (Simonyan and Zisserman, 2014): thirteen 3x3 convolutions
in five blocks, each block halving the map and most doubling the filters. On 32x32
pixels one place is left after the fifth, so the three large dense layers of the
original become 128, 128 and 10 units.

    python -m kerascnn.recipes.cifar_vgg16_128

Deviations from the lecture: it prints the architecture alone. Scaling, initial weights
(He's, as lecture 3 advises for ReLU), learning rate, batch size and number of epochs
are ours.
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
    for filters, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            x = conv(filters)(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 1 x 1 x 512
    for _ in range(2):
        x = dense(128, "relu")(x)
    logits = dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_vgg16_128",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-4),
    batch_size=256,
    drop_last=True,
    epochs=30,
    parameters=14_798_154,
    course=Course(source="lecture 2, VGG16", says="the architecture only"),
)

if __name__ == "__main__":
    main(RECIPE)
