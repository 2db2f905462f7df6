"""Calibration data: any iterable of batches, `x` or `(x, label)`."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

Data = Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]


def inputs_of(data: Data, device: torch.device) -> Iterator[Tensor]:
    """The inputs of every batch, on a device; labels are left out."""
    for batch in data:
        yield (batch if isinstance(batch, Tensor) else batch[0]).to(device, non_blocking=True)


def device_of(model: nn.Module) -> torch.device:
    """Where the network's first parameter or buffer lives; the CPU where it has none."""
    tensor = next(model.parameters(), None)
    tensor = next(model.buffers(), None) if tensor is None else tensor
    return torch.device("cpu") if tensor is None else tensor.device
