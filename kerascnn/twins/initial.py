"""The initial weights that the slides set, each a loop over a network's modules."""

from __future__ import annotations

from torch import nn
from torch.nn import init


def kaiming_uniform(network: nn.Module) -> nn.Module:
    """Set weights as lecture 1's perceptrons do; biases 0. Returns the network."""
    for m in network.modules():
        if isinstance(m, nn.Linear):
            init.kaiming_uniform_(m.weight, nonlinearity="relu")
            init.zeros_(m.bias)
    return network


def xavier_uniform(network: nn.Module) -> nn.Module:
    """Set weights as lecture 3's networks do; biases 0. Returns the network."""
    for m in network.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            init.xavier_uniform_(m.weight)
            init.zeros_(m.bias)
    return network


def kaiming_normal(network: nn.Module) -> nn.Module:
    """Set weights as lecture 3's solution 3 does; biases 0. Returns the network."""
    for m in network.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            init.kaiming_normal_(m.weight, nonlinearity="relu")
            init.zeros_(m.bias)
    return network
