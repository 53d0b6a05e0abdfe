"""Fashion-MNIST, lecture 1: a multilayer perceptron, the network to beat.

Each image is flattened to 784 numbers, so the network never learns which pixels are
neighbours. On small grey pictures of single garments that hardly hurts; on colour
photographs it will (cifar_mlp).

    python -m kerascnn.recipes.fashion_mlp

Deviations from the lecture: the number of epochs is ours, the slides give none. The
slide's code says learning rate 1e-3, a caption 1e-4; the code is followed.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    x = layers.Flatten()(image)
    x = layers.Dense(
        256, activation="relu", kernel_initializer=initializers.he_uniform()
    )(x)
    logits = layers.Dense(10, kernel_initializer=initializers.he_uniform())(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_mlp",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=1024,
    drop_last=True,
    epochs=20,
    parameters=203_530,
    course=Course(source="lecture 1, MLP for Fashion-MNIST", test=0.89, about=True),
)

if __name__ == "__main__":
    main(RECIPE)
