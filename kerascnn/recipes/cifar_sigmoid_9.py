"""CIFAR-10, lecture 3: more layers still, and the gradient vanishes.

One more convolution helped, so cifar_sigmoid_3's blocks now get three each. But a
sigmoid's slope is at most 1/4, and every one on the way back multiplies the gradient by
it: after ten of them next to nothing reaches the first kernels.

    python -m kerascnn.recipes.cifar_sigmoid_9

Deviations from the lecture: the number of epochs is ours, the slides give none.
"""

from kerascnn import optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = image
    for filters in (64, 128, 256):
        for _ in range(3):
            x = layers.Conv2D(filters, 3, padding="same", activation="sigmoid")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 4 x 4 x 256 = 4096
    x = layers.Dense(512, activation="sigmoid")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_sigmoid_9",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=20,
    parameters=4_022_794,
    course=Course(
        source="lecture 3, training on CIFAR-10: nine convolutions",
        says="the network does not learn",
    ),
    after="cifar_sigmoid_3",
    changes={"network", "epochs"},
)

if __name__ == "__main__":
    main(RECIPE)
