"""CIFAR-10, lecture 3: ReLU lets the gradient through.

cifar_sigmoid_9 does not learn, because every sigmoid shrinks the gradient at least
fourfold. ReLU's slope is 1 wherever the unit is active: the gradient is blocked or
passed, never shrunk.

    python -m kerascnn.recipes.cifar_relu_9

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
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 4 x 4 x 256 = 4096
    x = layers.Dense(512, activation="relu")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_relu_9",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=20,
    parameters=4_022_794,
    course=Course(source="lecture 3, training on CIFAR-10: ReLU", train=0.99),
    after="cifar_sigmoid_9",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
