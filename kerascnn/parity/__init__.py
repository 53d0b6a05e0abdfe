"""The lectures' own PyTorch networks, and where this package and they part.

    from kerascnn import recipe
    from kerascnn import twins
    from kerascnn.parity import weights

    model = recipe.load("fashion_lenet").network()
    module = weights.to_torch(model, twins.load("fashion_lenet").network())

PyTorch is an extra; `twins.check_torch` says how to get it.
"""
