"""A network made ready for hundreds of steps: a private copy that computes the same for less.

network, one forward pass -> copy, in eval mode, whose weights take no gradient: BatchNorms folded into the convolutions
before them, weights of convolutions and linear layers in the precision and the memory layout of the run (autocast would
convert frozen weights anew at every step). What is not converted shares its memory with the network.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featviz.copies import copy_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def prepared(net: nn.Module, run: Callable[[], None], keep: Iterable[str], dtype: torch.dtype) -> nn.Module:
    """The copy.

    Args:
        net: in eval mode; left as it is.
        run: one forward pass through `net`, as far as it will be needed.
        keep: names of modules whose output must stay what it is.
        dtype: of the weights of convolutions and linear layers.
    """
    pairs = foldable(net, run, set(keep))
    shared = {id(t): nn.Parameter(t.detach(), requires_grad=False) for t in net.parameters()}
    shared |= {id(t): t for t in net.buffers()}
    made = copy_of(net, shared)
    modules = dict(made.named_modules())
    with torch.no_grad():
        for first, second in pairs.items():
            conv, norm = modules[first], modules[second]
            assert isinstance(conv, CONVOLUTIONS)
            assert isinstance(norm, NORMS)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(  # in float64: the quotient loses digits otherwise
                conv.weight.double(), None if conv.bias is None else conv.bias.double(), norm.running_mean.double(),
                norm.running_var.double(), norm.eps, norm.weight, norm.bias,
            )  # fmt: skip
            _replace(made, second, nn.Identity())
        for module in made.modules():
            if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and type(module) in (*CONVOLUTIONS, nn.Linear):
                module.weight = _converted(module.weight, dtype)
                if module.bias is not None:
                    module.bias = _converted(module.bias, dtype)
    return made.eval()


def foldable(net: nn.Module, run: Callable[[], None], keep: set[str]) -> dict[str, str]:
    """Convolutions whose output one BatchNorm reads and nothing else: name -> name of the norm."""
    calls: Counter[str] = Counter()
    outputs: dict[int, str] = {}
    alive: list[Tensor] = []  # an id is a name only while the tensor lives
    pairs: dict[str, str] = {}
    uses: Counter[int] = Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            uses.update(id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and id(t) in outputs)
            return func(*args, **(kwargs or {}))

    def made(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            calls[name] += 1
            outputs[id(output)] = name
            alive.append(output)

        return hook

    def read(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple) -> None:
            calls[name] += 1
            if args and id(args[0]) in outputs:
                pairs[outputs[id(args[0])]] = name

        return hook

    handles = []
    for name, module in net.named_modules():
        if _hooked(module):
            continue
        if type(module) in CONVOLUTIONS and name not in keep and not module._forward_hooks:
            handles.append(module.register_forward_hook(made(name)))
        elif isinstance(module, NORMS) and type(module) in NORMS and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(read(name)))
    try:
        with torch.no_grad(), Watch():
            run()
    finally:
        for handle in handles:
            handle.remove()
    once = {name for number, name in outputs.items() if uses[number] == 1}
    return {conv: norm for conv, norm in pairs.items() if conv in once and calls[conv] == calls[norm] == 1}


def _hooked(module: nn.Module) -> bool:
    """Somebody looks at this module, or its weights are computed."""
    return bool(module._forward_pre_hooks or module._backward_hooks or hasattr(module, "parametrizations"))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    old = model.get_submodule(name)
    for hook in old._forward_hooks.values():
        module.register_forward_hook(hook)
    setattr(model.get_submodule(parent), child, module)


def _converted(tensor: Tensor, dtype: torch.dtype) -> nn.Parameter:
    layout = LAYOUTS.get(tensor.dim(), torch.contiguous_format)
    return nn.Parameter(tensor.to(dtype).contiguous(memory_format=layout), requires_grad=False)
