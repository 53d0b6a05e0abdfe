"""CIFAR-10, lecture 3, solution 1: images of zero mean and unit deviation.

cifar_relu_12 does not learn. Its pixels lie between 0 and 1: all positive, all pushing
the first layer's units the same way, and small. Subtract each colour's mean over the
training set and divide by its deviation, and the network's input no longer depends on
the units that pixels are stored in: it is centred, and as large as Glorot's and He's
rules take it to be. (A dark picture stays darker than the others.)

    python -m kerascnn.recipes.cifar_standard_12

Deviations from the lecture: the number of epochs is ours, the slides give none. What
the lecture's plot showed is lost.
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
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    x = layers.Dense(512, activation="relu")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_standard_12",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.standard("cifar10")],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=8_873_994,
    course=Course(source="lecture 3, solution 1", says="a plot, now lost"),
    after="cifar_relu_12",
    changes={"transform"},
)

if __name__ == "__main__":
    main(RECIPE)
