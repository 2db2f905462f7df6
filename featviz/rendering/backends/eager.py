"""The eager backend: the network's own Python and torch's autograd, nothing else."""

import torch
from torch import Tensor

from featviz.rendering.backends.backend import Backend, BackendReport
from featviz.rendering.network.cut_network import CutNetwork


class EagerBackend(Backend):
    """See `Backend`.

    Args:
        reason: why no faster backend was taken, for the report.
    """

    def __init__(self, network: CutNetwork, device: torch.device, autocast: bool, reason: str | None = None) -> None:
        super().__init__(network, device, autocast)
        self.report = BackendReport("eager", reason=reason)

    def __call__(self, x: Tensor, once: bool = False) -> tuple[Tensor, ...]:
        del once
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.network(x)
