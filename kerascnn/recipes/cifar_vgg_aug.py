"""CIFAR-10, lecture 4, trick 5: show each image shifted and mirrored.

The squares that cifar_vgg_l2 still erases hide parts of an image; what is left stands
where it always stood. Here the squares go, and each time an image is shown it is moved
by up to two pixels, over a black border, and mirrored half of the time: as good as a
new photograph of the same thing. (Training accuracy is taken with transforms and
dropout at work, so it may lie below test accuracy.)

    python -m kerascnn.recipes.cifar_vgg_aug

Deviations from the lecture: the slides lost the widths, the dropout rate and the number
of epochs, so these are ours (32 filters in the first block are the slides';
cifar_vgg_dropout says how the rate was chosen). PyTorch's `weight_decay` shrinks biases
and BatchNorm's gamma and beta too; here, as the slide's formula says, the kernels
alone.
"""

from kerascnn import initializers, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.cli.run import main

import keras
from keras import layers


def conv(filters: int) -> layers.Layer:
    return layers.Conv2D(
        filters,
        3,
        padding="same",
        activation="relu",
        kernel_initializer=initializers.he_normal(),
        kernel_regularizer=optim.weight_decay(5e-4),
    )


def dense(units: int, activation: str | None = None) -> layers.Layer:
    return layers.Dense(
        units,
        activation=activation,
        kernel_initializer=initializers.he_normal(),
        kernel_regularizer=optim.weight_decay(5e-4),
    )


def network() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = image
    for filters in (32, 64, 128, 256):
        for _ in range(3):
            x = conv(filters)(x)
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(0.4)(x)
    x = layers.Flatten()(x)  # 2 x 2 x 256 = 1024
    x = dense(512, "relu")(x)
    logits = dense(10)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="cifar_vgg_aug",
    dataset="cifar10",
    network=network,
    transform=lambda: [
        transforms.RandomCrop(padding=2),
        layers.RandomFlip("horizontal"),
        transforms.standard("cifar10"),
    ],
    optimizer=lambda: optim.adam(1e-3),
    batch_size=256,
    epochs=60,
    parameters=2_488_906,
    course=Course(source="lecture 4, trick 5", test=0.906, train=0.92, about=True),
    after="cifar_vgg_l2",
    changes={"transform"},
)

if __name__ == "__main__":
    main(RECIPE)
