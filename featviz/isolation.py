"""Copies of networks, which may share parts with the original, and guards of torch's global modes."""

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from featviz.errors import ModelError

Network = TypeVar("Network", bound=nn.Module)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
Given = ParamSpec("Given")
Result = TypeVar("Result")
_TURN = threading.RLock()
_SETTINGS = threading.Lock()
_fastpath: list[bool] = []  # as it was when each network was frozen


def copy_of(model: Network, shared: Mapping[int, object] | None = None) -> Network:
    """A deep copy whose hooks are those of the model: the functions themselves, in lists of their own.

    A hook may hold on to what cannot be copied (lucent's keep the last activations, with their graph). Activations that a
    module keeps as attributes are copied without their graph.

    Args:
        shared: id of an object in the model -> what stands in its place in the copy.

    Raises:
        ModelError: the model holds something that cannot be copied.
    """
    memo: dict[int, object] = dict(shared or {})
    for module in model.modules():
        for name in HOOKS:
            hooks = getattr(module, name)
            memo[id(hooks)] = copy.copy(hooks)
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        made = copy.deepcopy(model, memo)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"the network cannot be copied ({reason}): remove what it keeps beside its weights."
        ) from error
    given = {id(value) for value in (shared or {}).values()}
    own = {id(module) for module in model.modules()} - given
    for name, module in made.named_modules():
        if id(module) in own:
            raise ModelError(f"the network cannot be copied: {name or 'it'} is its own deep copy.")
    return made


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
