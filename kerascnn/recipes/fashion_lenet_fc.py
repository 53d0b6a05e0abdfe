"""Fashion-MNIST, lecture 2, 1x1 convolution: first with fully connected layers.

Two padded 3x3 convolutions, each followed by max pooling, then the usual head: flatten,
a hidden layer, the logits. The hidden layer fixes the input to 28x28 pixels, and it
holds nearly all of the parameters. fashion_lenet_1x1 says the same in convolutions.

    python -m kerascnn.recipes.fashion_lenet_fc

Deviations from the lecture: it prints the architecture alone. The learning rate, the
batch size and the number of epochs are ours; initial weights are PyTorch's default. The
pictures beside the code halve the map by strided convolutions; the code, which pools,
is followed.
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
    for channels, filters in ((1, 32), (32, 64)):
        fan_in = 3 * 3 * channels
        x = layers.Conv2D(
            filters, 3, padding="same", activation="relu", **default(fan_in)
        )(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 7 x 7 x 64 = 3136
    x = layers.Dense(128, activation="relu", **default(fan_in=3136))(x)
    logits = layers.Dense(10, **default(fan_in=128))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_lenet_fc",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    drop_last=True,
    epochs=20,
    parameters=421_642,
    course=Course(source="lecture 2, 1x1 convolution", says="the layer table only"),
)

if __name__ == "__main__":
    main(RECIPE)
