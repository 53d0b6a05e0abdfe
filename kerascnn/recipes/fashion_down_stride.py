"""Fashion-MNIST, lecture 2, downsampling 4: the convolution's own stride.

fashion_down_max computes all 24x24 places and keeps the best of four. With stride 2 the
convolution visits 12x12 places only: a quarter of the work, and a feature between two
visited places may be missed.

    python -m kerascnn.recipes.fashion_down_stride

Deviations from the lecture: this network is ours, to complete its comparison; it shows
the stride in a larger one, fashion_stride. All settings are fashion_down_max's.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    default = initializers.default
    x = layers.Conv2D(32, 5, strides=2, activation="relu", **default(fan_in=5 * 5 * 1))(
        image
    )
    x = layers.Flatten()(x)  # 12 x 12 x 32 = 4608
    x = layers.Dense(128, activation="relu", **default(fan_in=4608))(x)
    logits = layers.Dense(10, **default(fan_in=128))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_down_stride",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=592_074,
    course=Course(
        source="lecture 2, downsampling 4", says="nothing: the comparison is ours"
    ),
    after="fashion_down_max",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
