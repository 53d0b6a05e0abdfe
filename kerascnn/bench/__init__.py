"""Time training in turns: this package, stock Keras, and plain PyTorch."""
