"""The classic mistakes of a port from PyTorch to Keras, to be made on purpose."""

from __future__ import annotations

# What each is, and what a recipe must have to make it.
MISTAKES: dict[str, tuple[str, str]] = {
    "bn_eps": ("BatchNorm's epsilon is Keras's 1e-3, not PyTorch's 1e-5", "BatchNorm"),
    "bn_momentum": (
        "BatchNorm's momentum is Keras's 0.99, not the 0.9 that PyTorch calls 0.1",
        "BatchNorm",
    ),
    "bn_variance": (
        "Keras's running variance is biased, PyTorch's unbiased, n / (n - 1) larger",
        "BatchNorm",
    ),
    "adam_eps": (
        "Adam's epsilon is Keras's 1e-7, added before the bias correction; PyTorch's "
        "1e-8 is added after it",
        "Adam",
    ),
    "l2_half": (
        "L2(weight_decay) has twice PyTorch's gradient: its penalty has no 1/2",
        "weight decay",
    ),
    "flatten_order": (
        "the dense kernel after Flatten is not reordered: Keras flattens (height, "
        "width, channels), PyTorch (channels, height, width)",
        "a convolution before its Flatten",
    ),
    "stride_same": (
        'padding="same" at stride 2 pads the right and the bottom alone, PyTorch\'s '
        "padding=1 all sides",
        "a padded convolution of stride 2",
    ),
    "he_truncated": (
        "Keras's he_normal cuts the normal distribution off, PyTorch's "
        "kaiming_normal_ does not",
        "He's normal initial weights",
    ),
    "decay_per_step": (
        "the learning rate falls at every step, not after every epoch",
        "a learning rate that falls",
    ),
    "crop_per_batch": (
        "all images of a batch have one draw, not each its own",
        "RandomCrop",
    ),
    "drop_last": (
        "the last, smaller batch of an epoch is kept where PyTorch's loader drops it, "
        "or the other way round",
        "batches",
    ),
    "label_shift": ("the labels are off by one", "labels"),
}
