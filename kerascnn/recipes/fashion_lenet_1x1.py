"""Fashion-MNIST, lecture 2, 1x1 convolution: no such thing as a fully connected layer.

The dense layers of fashion_lenet_fc tie it to 28x28 pixels. But a unit that is
connected to all 7x7x64 features is a 7x7 kernel that fits at one place only, and a
dense layer above it is a 1x1 convolution (LeCun, 2015). Written so, the network has the
same parameters and is the same function, and on a larger image the kernels slide:
`on_larger_images` returns a map of logits, one vector for each 28x28 window, 4 pixels
apart.

    python -m kerascnn.recipes.fashion_lenet_1x1

`python -m kerascnn.lessons.one_by_one` moves a dense network's weights over and draws
the map of a canvas of several garments. On such a canvas black is raw 0, which the
scaling turns into -1, while the convolutions' own padding is 0.

Deviations from the lecture: as in fashion_lenet_fc.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    default = initializers.default
    x = image
    for channels, filters in ((1, 32), (32, 64)):
        fan_in = 3 * 3 * channels
        x = layers.Conv2D(
            filters, 3, padding="same", activation="relu", **default(fan_in)
        )(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(128, 7, activation="relu", **default(fan_in=3136))(
        x
    )  # 1 x 1 x 128
    x = layers.Conv2D(10, 1, **default(fan_in=128))(x)
    logits = layers.Flatten()(x)
    return keras.Model(image, logits)


def on_larger_images(trained: keras.Model) -> keras.Model:
    """Apply a trained network to images of any size: every layer but the flattening.

    A vector of the map is not quite what `trained` returns for its window cut out:
    where that pads with zeros, the convolutions here see the pixels around the window.

    Args:
        trained: A model that `network` built; the two share their weights.

    Returns:
        A model from scaled images, `(batch, height, width, 1)`, at least 28x28, to
        logits, `(batch, height // 4 - 6, width // 4 - 6, 10)`.

    Example:
        >>> on_larger_images(network())(np.zeros((1, 56, 84, 1))).shape
        (1, 8, 15, 10)
    """
    image = keras.Input((None, None, 1))
    x = image
    for layer in trained.layers[1:-1]:
        x = layer(x)
    return keras.Model(image, x)


RECIPE = Recipe(
    name="fashion_lenet_1x1",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    drop_last=True,
    epochs=20,
    parameters=421_642,
    course=Course(source="lecture 2, 1x1 convolution", says="the layer table only"),
    after="fashion_lenet_fc",
    changes={"network"},
)

if __name__ == "__main__":
    main(RECIPE)
