"""CIFAR-10, lecture 1, MLP case 3: add more layers.

cifar_mlp is weak on photographs. The first remedy that comes to mind is a deeper
network: a second hidden layer, combining what the first has found. It costs little, as
nearly all parameters sit between the pixels and the first layer, and it does not give
back what flattening threw away.

    python -m kerascnn.recipes.cifar_mlp_2

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
    for _ in range(2):
        x = layers.Dense(
            256, activation="relu", kernel_initializer=initializers.he_uniform()
        )(x)
    logits = layers.Dense(10, kernel_initializer=initializers.he_uniform())(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_mlp_2",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=1024,
    drop_last=True,
    epochs=20,
    parameters=855_050,
    course=Course(
        source="lecture 1, MLP for CIFAR-10, case 3", says="it performs poorly"
    ),
    after="cifar_mlp",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
