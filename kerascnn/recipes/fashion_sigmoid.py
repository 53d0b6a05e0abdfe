"""Fashion-MNIST, lecture 3: two convolutions with sigmoids, where the training begins.

The question of lecture 3 is how to raise the accuracy on the training set: a network
that cannot even fit what it is shown need not be asked about anything else. The start
is the network of twenty years ago: sigmoids, Glorot's initial weights, pixels scaled to
0..1.

    python -m kerascnn.recipes.fashion_sigmoid

Initial weights are Keras's default, which is the lecture's: glorot_uniform, biases
zero.

Deviations from the lecture: the number of epochs is ours, the slides give none.
"""

from kerascnn import optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    x = image
    for filters in (64, 128):
        x = layers.Conv2D(filters, 3, padding="same", activation="sigmoid")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 7 x 7 x 128 = 6272
    x = layers.Dense(512, activation="sigmoid")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_sigmoid",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=20,
    parameters=3_291_402,
    course=Course(source="lecture 3, training on Fashion-MNIST"),
)

if __name__ == "__main__":
    main(RECIPE)
