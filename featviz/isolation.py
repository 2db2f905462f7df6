"""Private copies of networks, and guards of the settings that a network and torch share with other code.

featviz never works on the caller's network itself: `weight_sharing_copy` makes a copy in evaluation mode that shares its
weights, so that the caller may run, train or differentiate his network in another thread meanwhile. Nothing is restored.
"""

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from featviz.errors import ModelError, summary

Network = TypeVar("Network", bound=nn.Module)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
ATTEMPTS = 3  # of a copy: another thread that runs the network meanwhile may change what is being copied
Given = ParamSpec("Given")
Result = TypeVar("Result")


def weight_sharing_copy(model: Network) -> Network:
    """A private copy in evaluation mode: its weights are the caller's memory, its buffers and its Python state are its own.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    >>> own = weight_sharing_copy(net)
    >>> own[0].weight.data_ptr() == net[0].weight.data_ptr(), own[1].running_var.data_ptr() == net[1].running_var.data_ptr()
    (True, False)
    >>> own.training, own[0].weight.requires_grad, net.training
    (False, False, True)

    No weight of the copy takes a gradient. Weights made in inference mode are cloned, since autograd refuses them.

    Raises:
        ModelError: the network holds something that cannot be copied.
    """

    def shared(weight: Tensor) -> nn.Parameter:
        # `data` and not `detach()`: an optimizer's step on the original is no error for a backward pass through the copy.
        return nn.Parameter(weight.clone() if weight.is_inference() else weight.data, requires_grad=False)

    return copy_of(model, {id(weight): shared(weight) for weight in model.parameters()}).eval()


def copy_of(model: Network, shared: Mapping[int, object] | None = None) -> Network:
    """A deep copy. Hooks stay the functions they are, in lists of the copy's own.

    A hook may hold what cannot be copied (lucent's hooks keep the last activations, with their graph). Activations that a
    module keeps as attributes are copied without their graph. Methods and closures over modules of the network, kept as
    hooks or as attributes, refer to the copy's modules.

    Args:
        shared: id of an object in the model -> what stands in its place in the copy.

    Raises:
        ModelError: the network holds something that cannot be copied.
    """
    made, memo = _deep_copy(model, shared or {})
    given = {id(value) for value in (shared or {}).values()}
    own = {id(module): module for module in model.modules() if id(module) not in given}
    for name, module in made.named_modules():
        if id(module) in own:
            raise ModelError(f"the network cannot be copied: {name or 'it'} is its own deep copy.")
    copies = {number: memo[number] for number in own if number in memo}
    for module in made.modules():
        for name in HOOKS:
            hooks = getattr(module, name)
            hooks.update({key: _rebound(hook, copies) for key, hook in hooks.items()})
        for name, value in vars(module).items():
            if isinstance(value, FunctionType):
                vars(module)[name] = _rebound(value, copies)
    return made


def _deep_copy(model: Network, shared: Mapping[int, object]) -> tuple[Network, dict[int, Any]]:
    """The copy, and what each object became in it, by id."""
    failures = 0
    while True:
        memo: dict[int, Any] = dict(shared)
        try:
            for module in model.modules():
                for name in HOOKS:
                    hooks = getattr(module, name)
                    memo[id(hooks)] = copy.copy(hooks)
                for value in (*vars(module).values(), *module._buffers.values()):
                    if not isinstance(value, Tensor) or id(value) in shared:
                        continue
                    if not value.is_leaf or value.is_inference():
                        memo[id(value)] = value.detach().clone()
            return copy.deepcopy(model, memo), memo
        except Exception as error:
            failures += 1
            if failures == ATTEMPTS:
                raise ModelError(
                    f"the network cannot be copied ({summary(error)}): remove what it keeps beside its weights."
                ) from error


def _rebound(function: Any, copies: Mapping[int, object]) -> Any:
    """The function, of whose modules (by id) the copies stand in their place: `self` of a method, cells of a closure, arguments
    of a partial."""
    if isinstance(function, MethodType):
        return MethodType(function.__func__, copies.get(id(function.__self__), function.__self__))
    if isinstance(function, functools.partial):
        args = [copies.get(id(value), value) for value in function.args]
        keywords = {name: copies.get(id(value), value) for name, value in function.keywords.items()}
        return functools.partial(_rebound(function.func, copies), *args, **keywords)
    if not isinstance(function, FunctionType) or not function.__closure__:
        return function
    cells = tuple(_rebound_cell(cell, copies) for cell in function.__closure__)
    if all(new is old for new, old in zip(cells, function.__closure__, strict=True)):
        return function
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def _rebound_cell(cell: CellType, copies: Mapping[int, object]) -> CellType:
    try:
        found = copies.get(id(cell.cell_contents))
    except ValueError:  # an empty cell
        return cell
    return cell if found is None else CellType(found)


@contextlib.contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """The networks in evaluation mode while this is open; every module's training flag comes back, whatever happens.

    For networks that are featviz's own, such as a merged network under repair; the caller's is copied instead.
    """
    training = [module for model in models for module in model.modules() if module.training]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def ordinary_modes(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function with gradients on and autocast off, whatever modes of torch its caller is in."""

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


class ProcessSetting:
    """A setting of the whole process that overlapping users of several threads want alike.

    The first to come writes it, the last to leave restores it.

    Args:
        change: writes the setting, returns what restores it.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change, self._lock, self._users = change, threading.Lock(), 0
        self._restore: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._restore = self._change()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._restore()


def _switch_fastpath_off() -> Callable[[], object]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    return functools.partial(torch.backends.mha.set_fastpath_enabled, before)


without_attention_fastpath = ProcessSetting(_switch_fastpath_off)
"""Context: attention by its single operators instead of one kernel that hides them; for tracing."""
