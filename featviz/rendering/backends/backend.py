"""What a backend is: how activations and their gradient with respect to the images are computed.

A backend is made of a network cut at the layers that are looked at, and called with what the network is fed. All give the same
numbers within rounding: `EagerBackend` is plain torch, the others are faster. An ascent also asks how to repeat a step.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from featviz.rendering.network.cut_network import CutNetwork

log = logging.getLogger("featviz.backends")

StepRunner = Callable[[Callable[[], None]], None]


@dataclass(frozen=True)
class BackendReport:
    """How a network is run.

    backend: "eager", "traced graph" or "CUDA graph".
    rewrites: how often each rewrite applied to the traced network, by name.
    reason: why the network runs eagerly, None where it does not.
    """

    backend: str
    rewrites: dict[str, int] = field(default_factory=dict)
    reason: str | None = None

    def __str__(self) -> str:
        applied = ", ".join(f"{name} x {count}" for name, count in self.rewrites.items() if count)
        return f"{self.backend}{f' ({applied})' if applied else ''}{f': {self.reason}' if self.reason else ''}"


class Backend(ABC):
    """Runs one cut network.

    Args:
        network: on `device`, in evaluation mode, its weights frozen.
        autocast: whether convolutions and products run in bfloat16.
    """

    def __init__(self, network: CutNetwork, device: torch.device, autocast: bool) -> None:
        self.network, self.device, self.autocast = network, device, autocast
        self.report = BackendReport("eager")

    @abstractmethod
    def __call__(self, x: Tensor, once: bool = False) -> tuple[Tensor, ...]:
        """The outputs of the network's layers, differentiable with respect to x.

        Args:
            x: (unit, c, h, w), normalised, in the type of the network's weights.
            once: few more images of this shape will follow: nothing is made ready for them.
        """

    def step_runner(self) -> StepRunner:
        """What runs one step again and again; the step reads and writes the same tensors every time."""
        return lambda step: step()

    def forget(self) -> None:  # noqa: B027 (most have nothing to give back)
        """Give back the memory of what was made for batches of a size."""
