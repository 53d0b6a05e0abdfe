"""CIFAR-10, lecture 4, trick 8: skip connections.

Lecture 3's solution 5 on cifar_vgg_wide: one strided convolution leads from each
block's input to its output, around three convolutions, the pooling and the dropout, and
is added there. The gradient reaches every block by a short way, so training accuracy
should rise once more.

    python -m kerascnn.recipes.cifar_vgg_skip

Deviations from the lecture: its code is lost; the short cut is lecture 3's, a
convolution with stride 2 and ReLU, without BatchNorm, with the same L2 penalty as all
kernels, and added after the dropout. Otherwise as in cifar_vgg_wide.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def conv(filters: int, strides: int = 1, padding: str = "same") -> layers.Layer:
    return layers.Conv2D(
        filters,
        3,
        strides=strides,
        padding=padding,
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
    for filters in (64, 128, 256, 512):
        shortcut = layers.ZeroPadding2D(1)(x)
        shortcut = conv(filters, strides=2, padding="valid")(shortcut)
        for _ in range(3):
            x = conv(filters)(x)
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(0.4)(x)
        x = layers.Add()([x, shortcut])
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    x = dense(512, "relu")(x)
    logits = dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_vgg_skip",
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
    epochs=80,
    parameters=10_430_730,
    course=Course(source="lecture 4, trick 8", test=0.93, train=0.97, about=True),
    after="cifar_vgg_wide",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
