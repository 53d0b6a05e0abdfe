"""CIFAR-10, lecture 3, solution 5: skip connections.

In cifar_relu_12 the gradient has one way back, through every convolution. Here each
block gets a short cut: one strided convolution from the block's input to its output,
where the two are added. A path of four convolutions now leads through the network,
short enough to learn at once, and the long path learns what the short one misses.

    python -m kerascnn.recipes.cifar_skip_12

Deviations from the lecture: the slide codes the first block; the others are alike.
Scaling, initial weights and the number of epochs are cifar_relu_12's, the slide names
none.
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
        shortcut = layers.ZeroPadding2D(1)(x)
        shortcut = layers.Conv2D(filters, 3, strides=2, activation="relu")(shortcut)
        for _ in range(3):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Add()([x, shortcut])
    x = layers.Flatten()(x)  # 2 x 2 x 512 = 2048
    x = layers.Dense(512, activation="relu")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_skip_12",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=10_424_970,
    course=Course(source="lecture 3, solution 5", says="a plot, now lost"),
    after="cifar_relu_12",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
