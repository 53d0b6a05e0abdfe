"""Convolutions whose gradients are fast on a CPU, for any functional Keras model.

XLA on a CPU computes the weight gradient of a convolution, and the gradient of a max
pooling, several times slower than the forward pass. `accelerate(model)` returns a model
that computes the same from the same weights with faster gradients, and with a BatchNorm
that reads its input fewer times. On a GPU or a TPU the returned model runs XLA's own
operations; on another Keras backend than JAX, `accelerate` returns the model itself.
"""

from kerascnn.acceleration import counted
from kerascnn.acceleration.activations import fast_silu
from kerascnn.acceleration.convolution import fast_convolution
from kerascnn.acceleration.dispatch import algorithm, stock_operations
from kerascnn.acceleration.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dropout,
    MaxPooling2D,
    is_fast_in_a_loop,
)
from kerascnn.acceleration.materialize import stored
from kerascnn.acceleration.mesh import BATCH
from kerascnn.acceleration.model import accelerate, is_graph
from kerascnn.acceleration.normalization import fast_batch_normalization
from kerascnn.acceleration.pooling import fast_max_pool

__all__ = [
    "BATCH",
    "Activation",
    "BatchNormalization",
    "Conv2D",
    "Dropout",
    "MaxPooling2D",
    "accelerate",
    "algorithm",
    "counted",
    "fast_batch_normalization",
    "fast_convolution",
    "fast_max_pool",
    "fast_silu",
    "is_fast_in_a_loop",
    "is_graph",
    "stock_operations",
    "stored",
]
