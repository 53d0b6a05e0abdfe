"""Fashion-MNIST, lecture 2: the convolution's own stride instead of pooling.

fashion_pool computes a full map and throws three of four values away. A convolution
that moves two pixels a step computes the quarter that is kept and learns how to halve
the map, with the same number of parameters.

    python -m kerascnn.recipes.fashion_stride

Deviations from the lecture: it prints the network alone. Learning rate, batch size and
the number of epochs are fashion_pool's.
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
        x = layers.Conv2D(
            filters, 3, strides=stride, activation="relu", **default(fan_in)
        )(x)
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    logits = layers.Dense(10, **default(fan_in=2048))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_stride",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=1_588_490,
    course=Course(source="lecture 2, convolution with stride", says="the code only"),
    after="fashion_pool",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
