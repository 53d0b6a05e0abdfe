"""Fashion-MNIST, lecture 2: LeNet-5, convolutions and pooling in the standard order.

fashion_mlp spends 200,000 parameters on one hidden layer that sees all pixels at once.
LeNet-5 (LeCun et al., 1998) shares small kernels across the image, halves it twice, and
needs less than a third of the parameters.

    python -m kerascnn.recipes.fashion_lenet

Deviations from the lecture: it prints the architecture alone, with ReLU and max pooling
where the original of 1998 had other units. The learning rate, the batch size and the
number of epochs are ours; initial weights are PyTorch's default, as everywhere in
lectures 1 and 2.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    default = initializers.default
    x = layers.Conv2D(
        6, 5, padding="same", activation="relu", **default(fan_in=5 * 5 * 1)
    )(image)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(16, 5, activation="relu", **default(fan_in=5 * 5 * 6))(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 5 x 5 x 16 = 400
    x = layers.Dense(120, activation="relu", **default(fan_in=400))(x)
    x = layers.Dense(84, activation="relu", **default(fan_in=120))(x)
    logits = layers.Dense(10, **default(fan_in=84))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_lenet",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    drop_last=True,
    epochs=20,
    parameters=61_706,
    course=Course(source="lecture 2, LeNet", says="the architecture only"),
)

if __name__ == "__main__":
    main(RECIPE)
