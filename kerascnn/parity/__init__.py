"""Compare a recipe with its PyTorch twin, quantity by quantity."""
