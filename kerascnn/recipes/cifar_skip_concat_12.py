"""CIFAR-10, lecture 3, solution 5, a variant: concatenate instead of adding.

cifar_skip_12 adds the short cut to the block's output, and what comes next cannot tell
them apart. Side by side, as DenseNet (2016) has them, both are kept as they are, and
the next kernels, twice as deep, choose.

    python -m kerascnn.recipes.cifar_skip_concat_12

Deviations from the lecture: it names concatenation among the variants and links to
DenseNet; that every block of cifar_skip_12 concatenates is our choice.
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
        shortcut = layers.ZeroPadding2D(1)(x)
        shortcut = layers.Conv2D(filters, 3, strides=2, activation="relu")(shortcut)
        for _ in range(3):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Concatenate()([x, shortcut])
    x = layers.Flatten()(x)  # 2 x 2 x 1024 = 4096
    x = layers.Dense(512, activation="relu")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_skip_concat_12",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=14_570_122,
    course=Course(
        source="lecture 3, solution 5, variants", says="named, with no figure"
    ),
    after="cifar_skip_12",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
