"""Time training side by side: this package, stock Keras, and plain PyTorch."""
