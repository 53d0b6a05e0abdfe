"""CIFAR-10, lecture 4, a question: what will more augmentation do?

cifar_vgg_decay shifts and mirrors its images. Turn them by up to five degrees as well,
and erase squares as in trick 1. The lecture asks for a prediction before the run:
training accuracy, test accuracy, up or down? (Think of what the network's capacity has
to stretch over.)

    python -m kerascnn.recipes.cifar_vgg_more_aug

Deviations from the lecture: as in cifar_vgg_decay.
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
    name="cifar_vgg_more_aug",
    dataset="cifar10",
    network=network,
    transform=lambda: [
        transforms.RandomCrop(padding=2),
        layers.RandomFlip("horizontal"),
        transforms.RandomRotation(5),
        transforms.standard("cifar10"),
        transforms.RandomErasing(p=0.75, scale=(0.01, 0.3), ratio=(1.0, 1.0)),
    ],
    optimizer=lambda: optim.adam(1e-3),
    callbacks=lambda: [optim.ExponentialDecay(gamma=0.96)],
    batch_size=256,
    epochs=60,
    parameters=2_488_906,
    course=Course(source="lecture 4, discussion", says="predict"),
    after="cifar_vgg_decay",
    changes={"transform"},
)

if __name__ == "__main__":
    main(RECIPE)
