"""CIFAR-10, lecture 4, trick 2: batch normalisation.

In lecture 3 BatchNorm made a network train at all. Here it also disturbs: mean and
deviation are those of the mini-batch, so the same image comes out differently each time
it is shown, in different company. That is noise inside the network, where
cifar_vgg_erase puts it in the image only.

    python -m kerascnn.recipes.cifar_vgg_bn

Deviations from the lecture: the number of epochs is ours, as many as cifar_vgg's. The
running variance is Keras's, biased, as in cifar_bn_12.
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
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 256 = 1024
    x = dense(512, "relu")(x)
    logits = dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_vgg_bn",
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
    course=Course(source="lecture 4, trick 2", test=0.84, about=True),
    after="cifar_vgg_erase",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
