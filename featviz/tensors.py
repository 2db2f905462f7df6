"""The tensors of a network: model -> parameters and buffers by name."""

from torch import Tensor, nn


def named_tensors(model: nn.Module, every_name: bool = False) -> dict[str, Tensor]:
    """Parameters, then buffers, also those that a state dict leaves out; the network's own, not copies.

    Args:
        every_name: a tensor that modules share under each of its names, not under the first alone.
    """
    once = not every_name
    return dict([*model.named_parameters(remove_duplicate=once), *model.named_buffers(remove_duplicate=once)])
