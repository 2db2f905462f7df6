"""Copies of networks, also of networks that others have put hooks on: model -> copy, which may share parts with it."""

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from featviz.errors import ModelError

Network = TypeVar("Network", bound=nn.Module)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


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
