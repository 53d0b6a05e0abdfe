"""CIFAR-10, lecture 3: the same two convolutions on a harder data set.

What is enough for fashion_sigmoid's grey garments is not for photographs: here the
network does not fit even its own training set.

    python -m kerascnn.recipes.cifar_sigmoid

Deviations from the lecture: the number of epochs is ours, the slides give none. The
slide's code takes one input channel, a slip; CIFAR-10 has three. The draw of the
initial weights decides what becomes of this network, and the course's was a good one.
Some of ours reach its accuracy, and some of the slide's network's in PyTorch.
"""

from kerascnn import optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = image
    for filters in (64, 128):
        x = layers.Conv2D(filters, 3, padding="same", activation="sigmoid")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 8 x 8 x 128 = 8192
    x = layers.Dense(512, activation="sigmoid")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_sigmoid",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=4_275_594,
    course=Course(source="lecture 3, training on CIFAR-10", test=0.645, train=0.693),
    after="fashion_sigmoid",
    changes={"dataset", "network", "epochs"},
)

if __name__ == "__main__":
    main(RECIPE)
