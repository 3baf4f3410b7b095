"""Networks written for one run, evaluated for every run on its own row of parameters."""

from functools import partial

from torch import Tensor, nn
from torch.func import functional_call, vmap


def evaluated(network: nn.Module, theta: Tensor, inputs: Tensor) -> Tensor:
    """What the network makes of each run's inputs with each run's parameters, [run, ...].

    Args:
        network: gives names, shapes and the computation; its own numbers are not read.
        theta: [run, parameter], all parameters of a run in the network's order.
        inputs: [run, ...], as the network takes them for one run.
    """
    parameters = dict(network.named_parameters())
    sizes = [parameter.numel() for parameter in parameters.values()]
    named = {
        name: part.view(-1, *parameter.shape)
        for (name, parameter), part in zip(parameters.items(), theta.split(sizes, 1), strict=True)
    }
    out: Tensor = vmap(partial(functional_call, network))(named, (inputs,))
    return out
