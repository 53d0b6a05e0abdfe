"""CIFAR-10, lecture 4, trick 7: a larger network, for the larger data.

Augmented as in cifar_vgg_more_aug, the data hardly repeat: what limits the network is
no longer that it learns by heart, but that it is too small to learn it all. Twice the
filters everywhere: about four times the parameters.

    python -m kerascnn.recipes.cifar_vgg_wide

Deviations from the lecture: the widths were in a picture, now lost; ours are lecture
3's. That "more data" means the augmentation of cifar_vgg_more_aug is our reading. The
dropout rate is cifar_vgg_dropout's, chosen there for half the filters. The number of
epochs is ours; a larger network on harder data gets more of them.
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
    for filters in (64, 128, 256, 512):
        for _ in range(3):
            x = conv(filters)(x)
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(0.4)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    x = dense(512, "relu")(x)
    logits = dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_vgg_wide",
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
    parameters=8_879_754,
    course=Course(source="lecture 4, trick 7", test=0.93, train=0.96, about=True),
    after="cifar_vgg_more_aug",
    changes={"network", "epochs"},
)

if __name__ == "__main__":
    main(RECIPE)
