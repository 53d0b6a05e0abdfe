"""Two engines with the same numbers: `epoch` (JAX, compiled) and Keras's `fit`."""
