"""CIFAR-10, lecture 1, CNN case 2: four convolutions on colour photographs.

However deep, cifar_mlp_3 sees a list of numbers. Here the first kernels are 7x7 pixels
in three colours and look for their pattern everywhere: what is learned at one place
serves at every other. With 8x8 places left before the hidden layer, half of the
parameters are still between flatten and fc128: lecture 2 shrinks the maps.

    python -m kerascnn.recipes.cifar_conv

Deviations from the lecture: the number of epochs is ours, and larger than cifar_mlp_3's
because the learning rate is a hundred times smaller. Initial weights are PyTorch's
default, as the lecture sets none.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    default = initializers.default
    x = image
    for channels, filters in ((3, 32), (32, 64), (64, 128), (128, 256)):
        fan_in = 7 * 7 * channels
        x = layers.Conv2D(filters, 7, activation="relu", **default(fan_in))(x)
    x = layers.Flatten()(x)  # 8 x 8 x 256 = 16384
    x = layers.Dense(128, activation="relu", **default(fan_in=16384))(x)
    logits = layers.Dense(10, **default(fan_in=128))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_conv",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=4_211_146,
    course=Course(
        source="lecture 1, convolutions for CIFAR-10, case 2",
        says="set beside the MLP's test accuracy of ~53%",
    ),
    after="cifar_mlp_3",
    changes={"network", "optimizer", "epochs"},
)

if __name__ == "__main__":
    main(RECIPE)
