"""Fashion-MNIST, lecture 1: four convolutions and one linear layer.

fashion_mlp flattens the image at once: it forgets which pixels are neighbours, and pays
for a weight from every pixel to every unit. A convolution keeps the image an image and
shares one small kernel across it. Four 7x7 convolutions, each shrinking the map by six
pixels, leave 4x4 places with 256 features each; one linear layer decides.

    python -m kerascnn.recipes.fashion_conv_linear

Deviations from the lecture: the slide shows this network in code beside the layer table
of another, fashion_conv, hence two recipes. The learning rate is the one of
fashion_conv; the number of epochs is ours, and larger than fashion_mlp's because the
learning rate is a hundred times smaller. Initial weights are PyTorch's default, as the
lecture sets none.
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
    for channels, filters in ((1, 32), (32, 64), (64, 128), (128, 256)):
        fan_in = 7 * 7 * channels
        x = layers.Conv2D(filters, 7, activation="relu", **default(fan_in))(x)
    x = layers.Flatten()(x)  # 4 x 4 x 256 = 4096
    logits = layers.Dense(10, **default(fan_in=4096))(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="fashion_conv_linear",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-5),
    batch_size=1024,
    drop_last=True,
    epochs=30,
    parameters=2_150_410,
    course=Course(
        source="lecture 1, convolutions for Fashion-MNIST", says="the code only"
    ),
    after="fashion_mlp",
    changes={"network", "optimizer", "epochs"},
)

if __name__ == "__main__":
    main(RECIPE)
