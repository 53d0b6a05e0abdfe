"""CIFAR-10, lecture 3: the same two convolutions on a harder data set.

What is enough for fashion_sigmoid's grey garments is not for photographs: here the
network does not fit even its own training set.

    python -m kerascnn.recipes.cifar_sigmoid

Deviations from the lecture: the number of epochs is ours, the slides give none. The
slide's code takes one input channel, a slip; CIFAR-10 has three. The draw of the
initial weights decides what becomes of this network, and the course's was a good one.
Of ten draws, ours ends between 59.6 and 64.1 % with eight, at 55.3 % with one that
leaves chance in the 24th epoch, and never leaves it with one; the slide's own network
in PyTorch, trained alike, between 59.4 and 64.7 % with its ten (the table is in
recipes/README.md). Three of PyTorch's draws and two of ours reach the 64 % of the
course: once they have left chance they learn faster. Training accuracy is still rising
at the end, and lies between 58 and 92 % (the course has 69.3). From the draw of
PyTorch's seed 0 ours does as PyTorch does: in the 14 epochs that were compared, its
loss is PyTorch's within 0.01 and its test accuracy within 0.6 points. PyTorch's default
weights in the dense layers, which the slide's loop leaves alone, change nothing but
when it leaves chance (12 epochs, one seed).
"""

from kerascnn import optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = image
    for filters in (64, 128):
        x = layers.Conv2D(filters, 3, padding="same", activation="sigmoid")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 8 x 8 x 128 = 8192
    x = layers.Dense(512, activation="sigmoid")(x)
    logits = layers.Dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_sigmoid",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=30,
    parameters=4_275_594,
    course=Course(source="lecture 3, training on CIFAR-10", test=0.645, train=0.693),
    after="fashion_sigmoid",
    changes={"dataset", "network", "epochs"},
)

if __name__ == "__main__":
    main(RECIPE)
