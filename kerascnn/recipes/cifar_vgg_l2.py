"""CIFAR-10, lecture 4, trick 4: keep the weights small.

Nothing stops cifar_vgg_dropout from leaning on a few features with large weights. With
the squares of all kernels' weights added to the loss a large weight has to earn its
keep, and the network spreads its trust: smaller weights, a simpler function.

    python -m kerascnn.recipes.cifar_vgg_l2

Deviations from the lecture: its code is PyTorch's `weight_decay=5e-4`, which shrinks
biases and BatchNorm's gamma and beta too; here, as the slide's formula says, the
kernels alone. The dropout rate and the number of epochs are ours, as in
cifar_vgg_dropout.
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
    name="cifar_vgg_l2",
    dataset="cifar10",
    network=network,
    transform=lambda: [
        transforms.standard("cifar10"),
        transforms.RandomErasing(p=0.75, scale=(0.01, 0.3), ratio=(1.0, 1.0)),
    ],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=60,
    parameters=2_488_906,
    course=Course(source="lecture 4, trick 4", test=0.875, about=True),
    after="cifar_vgg_dropout",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
