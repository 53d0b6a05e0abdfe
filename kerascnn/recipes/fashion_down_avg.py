"""Fashion-MNIST, lecture 2, downsampling 2: average pooling.

fashion_down_max keeps the strongest of four neighbours and passes the gradient to it
alone. The average lets all four speak, so weak but widespread features survive and
single peaks are flattened.

    python -m kerascnn.recipes.fashion_down_avg

Deviations from the lecture: batch size and number of epochs are fashion_down_max's.
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
    x = layers.AveragePooling2D(2)(x)
    x = layers.Flatten()(x)  # 12 x 12 x 32 = 4608
    x = layers.Dense(128, activation="relu", **default(fan_in=4608))(x)
    logits = layers.Dense(10, **default(fan_in=128))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_down_avg",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=592_074,
    course=Course(
        source="lecture 2, downsampling 2", says="compared in a plot, now lost"
    ),
    after="fashion_down_max",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
