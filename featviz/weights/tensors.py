"""Finding tensors: a network's parameters and buffers by name, and all tensors in nested containers."""

from torch import Tensor, nn


def named_tensors(model: nn.Module, every_name: bool = False) -> dict[str, Tensor]:
    """Parameters, then buffers, including those that a state dict leaves out; the tensors themselves, not copies.

    Args:
        model: any network.
        every_name: list a tensor that modules share under each of its names; otherwise under its first name alone.
    """
    once = not every_name
    return dict([*model.named_parameters(remove_duplicate=once), *model.named_buffers(remove_duplicate=once)])


def tensors_of(value: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []
