"""Fashion-MNIST, lecture 2: a border of zeros keeps the map's size.

Every convolution of fashion_stride trims the map's border, so the network's depth is
limited by the image, and pixels near the border are seen less often than others. With
one ring of zeros around its input a 3x3 convolution keeps the size; only the strides
shrink the map, and 7x7 places are left at the end instead of 2x2.

    python -m kerascnn.recipes.fashion_padding

Deviations from the lecture: it prints the network alone. Learning rate, batch size and
the number of epochs are fashion_stride's.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    default = initializers.default
    x = image
    for channels, filters, stride in (
        (1, 32, 1),
        (32, 64, 2),
        (64, 128, 1),
        (128, 256, 2),
        (256, 512, 1),
    ):
        fan_in = 3 * 3 * channels
        # Not padding="same": with stride 2 that pads the right and the bottom alone.
        x = layers.ZeroPadding2D(1)(x)
        x = layers.Conv2D(
            filters, 3, strides=stride, activation="relu", **default(fan_in)
        )(x)
    x = layers.Flatten()(x)  # 7 x 7 x 512 = 25088
    logits = layers.Dense(10, **default(fan_in=25088))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_padding",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=1_818_890,
    course=Course(source="lecture 2, padding", says="the code only"),
    after="fashion_stride",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
