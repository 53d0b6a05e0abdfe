"""Fashion-MNIST, lecture 2, downsampling 1: one convolution, then max pooling.

Four ways to halve a map, in the smallest network that shows them: one 5x5 convolution,
the downsampling, one hidden layer. Max pooling asks of each 2x2 neighbours whether the
feature is there at all, and forgets where.

    python -m kerascnn.recipes.fashion_down_max

Deviations from the lecture: it gives no batch size; ours is that of lecture 1's
networks. The number of epochs is ours.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    default = initializers.default
    x = layers.Conv2D(32, 5, activation="relu", **default(fan_in=5 * 5 * 1))(image)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 12 x 12 x 32 = 4608
    x = layers.Dense(128, activation="relu", **default(fan_in=4608))(x)
    logits = layers.Dense(10, **default(fan_in=128))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_down_max",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=592_074,
    course=Course(
        source="lecture 2, downsampling 1", says="compared in a plot, now lost"
    ),
)

if __name__ == "__main__":
    main(RECIPE)
