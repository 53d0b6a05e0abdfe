"""Fashion-MNIST, lecture 1, CNN case 1: four convolutions and a hidden layer.

fashion_conv_linear decides by one weighted sum of 4,096 features. A hidden layer of 128
units between them can combine the features first.

    python -m kerascnn.recipes.fashion_conv

Deviations from the lecture: the number of epochs is ours, the slides give none. Initial
weights are PyTorch's default, as the lecture sets none.
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
    for channels, filters in ((1, 32), (32, 64), (64, 128), (128, 256)):
        fan_in = 7 * 7 * channels
        x = layers.Conv2D(filters, 7, activation="relu", **default(fan_in))(x)
    x = layers.Flatten()(x)  # 4 x 4 x 256 = 4096
    x = layers.Dense(128, activation="relu", **default(fan_in=4096))(x)
    logits = layers.Dense(10, **default(fan_in=128))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_conv",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=2_635_146,
    course=Course(
        source="lecture 1, convolutions for Fashion-MNIST, case 1",
        says="the layer table only",
    ),
    after="fashion_conv_linear",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
