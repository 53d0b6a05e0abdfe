"""CIFAR-10, lecture 3: VGG16 for small images.

The convolutions of imagenet_vgg16 work on images of any size: on 32x32 pixels the five
poolings leave one place with 512 features. What depended on the size, the dense layers,
shrinks from 4096, 4096 and 1000 units to 256, 256 and 10, and with them nine tenths of
the parameters go.

    python -m kerascnn.recipes.cifar_vgg16

Deviations from the lecture: it prints the architecture alone. Scaling, initial weights,
learning rate, batch size and number of epochs are ours.
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
        x = dense(256, "relu")(x)
    logits = dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_vgg16",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.standard("cifar10")],
    optimizer=lambda: optim.adam(1e-4),
    batch_size=256,
    epochs=30,
    parameters=14_914_378,
    course=Course(source="lecture 3, VGG16 for CIFAR-10", says="the architecture only"),
    after="imagenet_vgg16",
    changes={"dataset", "transform", "network", "batch_size"},
)

if __name__ == "__main__":
    main(RECIPE)
