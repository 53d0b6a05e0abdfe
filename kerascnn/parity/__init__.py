"""The lectures' own PyTorch networks, and where this package and they part."""
