"""CIFAR-10, lecture 4, trick 6: lower the learning rate as training goes on.

cifar_vgg_aug is as good on images it has never seen as on its own: it no longer learns
by heart. The idea now is to raise training accuracy and expect test accuracy to follow.
Steps of a constant size never settle: near a minimum they jump across it. Multiplied by
0.96 after every epoch, they begin large, to get somewhere, and end small, to stay.

    python -m kerascnn.recipes.cifar_vgg_decay

Deviations from the lecture: as in cifar_vgg_aug. The number of epochs, ours, now also
decides how small the last steps are.
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
        kernel_regularizer=optim.weight_decay(5e-4),
    )


def dense(units: int, activation: str | None = None) -> layers.Layer:
    return layers.Dense(
        units,
        activation=activation,
        kernel_initializer=initializers.he_normal(),
        kernel_regularizer=optim.weight_decay(5e-4),
    )


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = image
    for filters in (32, 64, 128, 256):
        for _ in range(3):
            x = conv(filters)(x)
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(0.4)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 256 = 1024
    x = dense(512, "relu")(x)
    logits = dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_vgg_decay",
    dataset="cifar10",
    network=network,
    transform=lambda: [
        transforms.RandomCrop(padding=2),
        layers.RandomFlip("horizontal"),
        transforms.standard("cifar10"),
    ],
    optimizer=lambda: optim.adam(1e-3),
    callbacks=lambda: [optim.ExponentialDecay(gamma=0.96)],
    batch_size=256,
    epochs=60,
    parameters=2_488_906,
    course=Course(source="lecture 4, trick 6", test=0.906, train=0.98, about=True),
    after="cifar_vgg_aug",
    changes={"callbacks"},
)

if __name__ == "__main__":
    main(RECIPE)
