"""Two engines that train alike: `epoch`, compiled whole (JAX), and Keras's `fit`."""
