"""CIFAR-10, lecture 1, MLP case 2: the same perceptron on colour photographs.

fashion_mlp has it easy: a garment fills each picture, upright and centred. In CIFAR-10
the object is anywhere, of any size and colour, before any background. Nothing changes
but the data; each image is now 3,072 numbers, and what the hidden units learn about one
place they do not know about any other.

    python -m kerascnn.recipes.cifar_mlp

Deviations from the lecture: the number of epochs is ours, the slides give none.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = layers.Flatten()(image)
    x = layers.Dense(
        256, activation="relu", kernel_initializer=initializers.he_uniform()
    )(x)
    logits = layers.Dense(10, kernel_initializer=initializers.he_uniform())(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_mlp",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=1024,
    drop_last=True,
    epochs=20,
    parameters=789_258,
    course=Course(source="lecture 1, MLP for CIFAR-10, case 2"),
    after="fashion_mlp",
    changes={"dataset", "network"},
)

if __name__ == "__main__":
    main(RECIPE)
