"""CIFAR-10, lecture 3, solution 2: batch normalisation.

Solution 1 normalises the input; after a few layers of cifar_relu_12 nothing is left of
that. BatchNorm (Ioffe and Szegedy, 2015) normalises inside: after each convolution it
brings every feature to zero mean and unit deviation over the mini-batch, then lets the
network choose another scale and shift, gamma and beta. The signal cannot fade, whatever
the initial weights.

    python -m kerascnn.recipes.cifar_bn_12

The lecture puts BatchNorm after the ReLU, where the convolution's bias still matters,
as ReLU stands between; the paper puts it before, where the bias would be subtracted
again. "No bias needed when using BN", says its slide: true of the paper's order, and
its own code keeps them.

Deviations from the lecture: the number of epochs is ours, the slides give none. The
running variance, which inference uses, is biased in Keras and unbiased in PyTorch: they
differ by n / (n - 1), where n, batch times places of the map, is 1,024 or more.
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
        for _ in range(3):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
            # PyTorch's momentum of 0.1 is the weight of the new batch: 0.9 for Keras.
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    x = layers.Dense(512, activation="relu")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_bn_12",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=8_879_754,
    course=Course(
        source="lecture 3, solution 2",
        says="faster training, less dependence on the initial weights",
    ),
    after="cifar_relu_12",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
