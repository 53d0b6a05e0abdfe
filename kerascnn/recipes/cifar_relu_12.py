"""CIFAR-10, lecture 3: add more layers, hope for 100%.

cifar_relu_9 all but fits its training set, so a fourth block, three convolutions with
512 filters, should close the gap. It opens one: Glorot's weights keep the signal's size
in a linear network, ReLU halves it at each layer, and twelve layers down the classes
can hardly be told apart. The six solutions that follow each change one thing.

    python -m kerascnn.recipes.cifar_relu_12

Deviations from the lecture: the number of epochs is ours, the slides give none.
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
    name="cifar_relu_12",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=8_873_994,
    course=Course(
        source="lecture 3, training on CIFAR-10: twelve convolutions",
        says="the network does not learn",
    ),
    after="cifar_relu_9",
    changes={"network", "epochs"},
)

if __name__ == "__main__":
    main(RECIPE)
