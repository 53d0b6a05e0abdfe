"""ImageNet, lecture 3: VGG16, the network that the others are cut from.

Simonyan and Zisserman (2014) showed how far one plain idea goes: 3x3 convolutions only,
in blocks, each block ending in max pooling, the filters doubling while the map halves.
Two 3x3 kernels see as much as one 5x5, with fewer parameters and one more ReLU. Most of
the 138 million parameters are in the first dense layer all the same.

    python -m kerascnn.recipes.imagenet_vgg16

Deviations from the lecture: it prints the architecture alone. ImageNet cannot be
fetched without an account, so the default set is Imagenette, ten classes of it; the
other 990 outputs learn to stay low. The scaling (ImageNet's usual mean and deviation),
initial weights, learning rate, batch size and number of epochs are ours, and so is how
an image gets its size: the largest centred square, resized with a filter against
aliasing, which is also what the network is evaluated on. The random crop and flip are
lecture 4's, moving an image of 224 pixels as far as 2 pixels move one of 32.

`--data sample` tries the recipe on CIFAR-10's small images; `--dataset ./pets` trains
on your own. ImageNet itself, as tensorflow-datasets prepares it or as folders of
classes, is read as a stream: `--engine stream --dataset imagenet2012`, and
`--label-smoothing 0.1` smooths its labels.
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
    )


def dense(units: int, activation: str | None = None) -> layers.Layer:
    return layers.Dense(
        units, activation=activation, kernel_initializer=initializers.he_normal()
    )


def network() -> keras.Model:
    image = keras.Input((224, 224, 3))
    x = image
    for filters, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            x = conv(filters)(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)  # 7 x 7 x 512 = 25088
    for _ in range(2):
        x = dense(4096, "relu")(x)
    logits = dense(1000)(x)
    return keras.Model(image, logits)


RECIPE = Recipe(
    name="imagenet_vgg16",
    dataset="imagenette",
    network=network,
    transform=lambda: [
        layers.Resizing(224, 224, crop_to_aspect_ratio=True, antialias=True),
        transforms.RandomCrop(padding=14),
        layers.RandomFlip("horizontal"),
        transforms.standard((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
    optimizer=lambda: optim.adam(1e-4),
    batch_size=32,
    epochs=30,
    parameters=138_357_544,
    course=Course(source="lecture 3, VGG16 for ImageNet", says="the architecture only"),
)

if __name__ == "__main__":
    main(RECIPE)
