"""Fashion-MNIST, lecture 2: small kernels, and max pooling to halve the map.

fashion_conv_linear needs 7x7 kernels to see far and to shrink the map: most of its
parameters are in them. Here the kernels are 3x3, and after every second convolution
only the largest of each 2x2 neighbours is kept. What a later kernel sees grows twice as
fast, at no parameters.

    python -m kerascnn.recipes.fashion_pool

Deviations from the lecture: it prints the network alone. Learning rate and batch size
are those of lecture 1's networks; the number of epochs is ours, as many as there.
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
    for block in (((1, 32), (32, 64)), ((64, 128), (128, 256))):
        for channels, filters in block:
            fan_in = 3 * 3 * channels
            x = layers.Conv2D(filters, 3, activation="relu", **default(fan_in))(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(512, 3, activation="relu", **default(fan_in=3 * 3 * 256))(x)
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    logits = layers.Dense(10, **default(fan_in=2048))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_pool",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=1_588_490,
    course=Course(source="lecture 2, max pooling", says="the code only"),
    after="fashion_conv_linear",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
