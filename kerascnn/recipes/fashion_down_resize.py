"""Fashion-MNIST, lecture 2, downsampling 3: bilinear interpolation.

fashion_down_avg pools; an image editor would resize. At half the size each new pixel's
centre falls on the corner where four old ones meet, so bilinear interpolation weighs
them alike: it is the 2x2 average under another name. The two recipes are the same
function, and should train alike up to rounding.

    python -m kerascnn.recipes.fashion_down_resize

Deviations from the lecture: it prints no optimiser for this network; this and batch
size and number of epochs are fashion_down_avg's.
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
    x = layers.Resizing(12, 12, interpolation="bilinear")(x)
    x = layers.Flatten()(x)  # 12 x 12 x 32 = 4608
    x = layers.Dense(128, activation="relu", **default(fan_in=4608))(x)
    logits = layers.Dense(10, **default(fan_in=128))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_down_resize",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=592_074,
    course=Course(
        source="lecture 2, downsampling 3", says="compared in a plot, now lost"
    ),
    after="fashion_down_avg",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
