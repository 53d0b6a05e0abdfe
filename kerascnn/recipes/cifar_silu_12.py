"""CIFAR-10, lecture 3, solution 4: a smoother activation.

A ReLU unit whose input is negative passes no gradient: it has to be revived by others,
or stays dead. SiLU (swish, 2017), x * sigmoid(x), is nearly ReLU for large inputs, but
smooth, and lets a little through below zero. The network is cifar_standard_12 with the
activation changed: this solution comes on top of the first.

    python -m kerascnn.recipes.cifar_silu_12

Deviations from the lecture: its summary slide names normalised data and Glorot's
weights; that the data are cifar_standard_12's is our reading. The number of epochs is
ours.
"""

from kerascnn import optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = image
    for filters in (64, 128, 256, 512):
        for _ in range(3):
            x = layers.Conv2D(filters, 3, padding="same", activation="silu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    x = layers.Dense(512, activation="silu")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_silu_12",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.standard("cifar10")],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=8_873_994,
    course=Course(source="lecture 3, solution 4", says="a plot, now lost"),
    after="cifar_standard_12",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
