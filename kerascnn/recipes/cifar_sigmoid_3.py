"""CIFAR-10, lecture 3: add more layers, a third convolution.

cifar_sigmoid cannot fit its training set: too little capacity in the right place. A
third convolution with 256 filters combines the features of the second, and the pooling
after it quarters what the hidden layer has to read, so there are fewer parameters than
before.

    python -m kerascnn.recipes.cifar_sigmoid_3

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
        x = layers.Conv2D(filters, 3, padding="same", activation="sigmoid")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 4 x 4 x 256 = 4096
    x = layers.Dense(512, activation="sigmoid")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_sigmoid_3",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=2_473_610,
    course=Course(
        source="lecture 3, training on CIFAR-10: more layers", test=0.687, train=0.938
    ),
    after="cifar_sigmoid",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
