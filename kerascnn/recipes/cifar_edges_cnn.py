"""CIFAR-10, lecture 2: as many features, learned.

The kernels of cifar_edges were chosen before anybody saw the data. Here five 3x3
kernels start at random, and training turns them into whatever helps the classes apart.
The same grey images, the same head, the same number of maps. Two things differ besides:
ReLU stands where the detectors take a length, and the border is zeros where they mirror
the image.

    python -m kerascnn.recipes.cifar_edges_cnn

Deviations from the lecture: as in cifar_edges. "As many" counts maps: the five of
cifar_edges take nine fixed kernels, two for each of the four that measure a length.
"""

from kerascnn import edges, initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 1))
    default = initializers.default
    x = layers.Conv2D(
        5, 3, padding="same", activation="relu", **default(fan_in=3 * 3 * 1)
    )(image)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 16 x 16 x 5 = 1280
    x = layers.Dense(128, activation="relu", **default(fan_in=1280))(x)
    logits = layers.Dense(10, **default(fan_in=128))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_edges_cnn",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit(), edges.grey()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    drop_last=True,
    epochs=20,
    parameters=165_308,
    course=Course(
        source="lecture 2, engineered features", says="compared in a plot, now lost"
    ),
    after="cifar_edges",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
