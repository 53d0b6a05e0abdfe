"""CIFAR-10, lecture 2: features designed by hand, the classical edge detectors.

Before networks learned their kernels, people chose them. An edge is where the
brightness changes, so Sobel, Scharr, Prewitt and Roberts estimate its derivative in two
directions and take the length of the two; the Laplacian is a second derivative and
keeps its sign. Five fixed maps of the grey image, halved by max pooling; only the head
learns. cifar_edges_cnn learns the kernels too.

    python -m kerascnn.recipes.cifar_edges

Deviations from the lecture: it shows the detectors and a plot of the comparison, now
lost; how the detectors enter a network, the grey unit scaling, the head, learning rate,
batch size and number of epochs are ours. The five maps are on the scale on which OpenCV
computes them, Scharr four times as large as Sobel.
"""

from kerascnn import edges, initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((32, 32, 1))
    default = initializers.default
    x = layers.Concatenate()(
        [
            edges.sobel(image),
            edges.scharr(image),
            edges.prewitt(image),
            edges.roberts(image),
            edges.laplacian(image),
        ]
    )
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 16 x 16 x 5 = 1280
    x = layers.Dense(128, activation="relu", **default(fan_in=1280))(x)
    logits = layers.Dense(10, **default(fan_in=128))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_edges",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.unit(), edges.grey()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    drop_last=True,
    epochs=20,
    parameters=165_258,
    course=Course(
        source="lecture 2, engineered features", says="compared in a plot, now lost"
    ),
)

if __name__ == "__main__":
    main(RECIPE)
