"""What a render neither takes from its caller nor leaves behind: modes of torch, flags and buffers of a network, other threads.

function -> the same in ordinary modes; network -> the network frozen, until it is exactly as it was.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

Given = ParamSpec("Given")
Result = TypeVar("Result")
_TURN = threading.RLock()
_SETTINGS = threading.Lock()
_fastpath: list[bool] = []  # as it was when each network was frozen


def ordinary_modes(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function, in which gradients are computed and nothing is rounded, whatever modes of torch its caller is in."""

    @functools.wraps(function)
    def within(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with contextlib.ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for device in ("cpu", "cuda", "mps"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return within


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Threads that render networks as they are, or copy them, take turns: two networks may share parts."""
    with _TURN:
        yield


@contextlib.contextmanager
def _without_fastpath() -> Iterator[None]:
    """Attention without the kernel that passes by the hooks of the modules within; a setting of the process."""
    with _SETTINGS:
        _fastpath.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _SETTINGS:
            before = _fastpath.pop()
            if not _fastpath:
                torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode without weight gradients; every training flag, requires_grad and buffer comes back, whatever
    happens.
    """
    modules, weights = list(model.modules()), list(model.parameters())
    training = [module.training for module in modules]
    wanted = [weight.requires_grad for weight in weights]
    buffers = [dict(module._buffers) for module in modules]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with _without_fastpath():
        try:
            model.eval()
            for weight in weights:
                weight.requires_grad_(False)
            yield
        finally:
            for module, flag, own in zip(modules, training, buffers, strict=True):
                module.training = flag
                module._buffers.clear()
                module._buffers.update(own)
            for weight, flag in zip(weights, wanted, strict=True):
                weight.requires_grad_(flag)
            for buffer, value in values:
                _give_back(buffer, value)


def _give_back(buffer: Tensor, value: Tensor) -> None:
    with torch.no_grad(), contextlib.suppress(RuntimeError):  # of sparse tensors, or of memory that is written twice
        if not torch.equal(buffer, value):
            buffer.copy_(value)
        if buffer.requires_grad and not buffer.is_leaf:
            buffer.detach_()
