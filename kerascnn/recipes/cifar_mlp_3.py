"""CIFAR-10, lecture 1, MLP case 4: three hidden layers.

cifar_mlp_2 still performs poorly, so the lecture goes one layer deeper, and there it
leaves the perceptron: depth alone does not make up for an input without neighbours.
cifar_conv takes the image as it is.

    python -m kerascnn.recipes.cifar_mlp_3

Deviations from the lecture: the number of epochs is ours, the slides give none. The
"~53%" that the lecture sets beside its convolutional network is "from the MLP"; which
of the three is not said.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = layers.Flatten()(image)
    for _ in range(3):
        x = layers.Dense(
            256, activation="relu", kernel_initializer=initializers.he_uniform()
        )(x)
    logits = layers.Dense(10, kernel_initializer=initializers.he_uniform())(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_mlp_3",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=1024,
    drop_last=True,
    epochs=20,
    parameters=920_842,
    course=Course(
        source="lecture 1, MLP for CIFAR-10, case 4",
        says="test accuracy from the MLP: ~53%; which MLP is not said",
    ),
    after="cifar_mlp_2",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
