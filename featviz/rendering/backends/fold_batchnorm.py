"""Rewrite of a network before its trace: BatchNorms folded into the convolutions before them, weights as the run wants them.

Weights of convolutions and linear layers get the precision and the memory layout of the run (autocast would convert frozen
weights anew at every step). What is not converted shares its memory with the network.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featviz.rendering.network.cut_network import CutNetwork

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def fold_batchnorm(network: CutNetwork, x: Tensor, dtype: torch.dtype) -> tuple[CutNetwork, int]:
    """A copy of the network that computes the same for less, and how many norms are folded; it is verified with its trace.

    Args:
        x: images that the network takes; their values do not matter.
        dtype: of the weights of convolutions and linear layers.
    """
    pairs = foldable(network.net, lambda: network(x), set(network.layers))
    made = network.copy()
    modules = dict(made.net.named_modules())
    for first, second in pairs.items():
        _fold(modules[first], modules[second])
    for module in modules.values():
        if type(module) in (*CONVOLUTIONS, nn.Linear):
            for name, tensor in dict(module.named_parameters(recurse=False)).items():
                setattr(module, name, _converted(tensor, dtype))
    return made, len(pairs)


def _fold(conv: nn.Module, norm: nn.Module) -> None:
    assert isinstance(conv, CONVOLUTIONS)
    assert isinstance(norm, NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    dtype = conv.weight.dtype
    with torch.no_grad():
        weight, bias = fuse_conv_bn_weights(  # in float64: the quotient loses digits otherwise
            conv.weight.double(), None if conv.bias is None else conv.bias.double(), norm.running_mean.double(),
            norm.running_var.double(), norm.eps, norm.weight, norm.bias,
        )  # fmt: skip
        conv.weight, conv.bias = (nn.Parameter(t.to(dtype), requires_grad=False) for t in (weight, bias))
    norm.forward = _identity  # the module stays: others may look at its attributes


def _identity(input: Tensor) -> Tensor:
    return input


def foldable(net: nn.Module, run: Callable[[], object], keep: set[str]) -> dict[str, str]:
    """Convolutions whose output one BatchNorm reads and nothing else: name -> name of the norm.

    Nothing else may read their weights either (an autoencoder with tied weights). A network that decides by values may take
    another norm on other images; it cannot be traced.
    """
    calls: Counter[str] = Counter()
    outputs: dict[int, str] = {}
    alive: list[Tensor] = []  # an id is a name only while the tensor lives
    pairs: dict[str, str] = {}
    weights = {id(t) for t in (*net.parameters(), *net.buffers())}
    uses: Counter[int] = Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            numbers = (id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
            uses.update(number for number in numbers if number in outputs or number in weights)
            return func(*args, **(kwargs or {}))

    def alone(name: str) -> bool:
        """Called once, its weights read once."""
        own = net.get_submodule(name)
        return calls[name] == 1 and all(uses[id(t)] <= 1 for t in (*own.parameters(), *own.buffers()))

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
    return {conv: norm for conv, norm in pairs.items() if conv in once and alone(conv) and alone(norm)}


def _hooked(module: nn.Module) -> bool:
    """Somebody looks at this module, or its weights are computed."""
    return bool(module._forward_pre_hooks or module._backward_hooks or hasattr(module, "parametrizations"))


def _converted(tensor: Tensor, dtype: torch.dtype) -> nn.Parameter:
    layout = LAYOUTS.get(tensor.dim(), torch.contiguous_format)
    return nn.Parameter(tensor.to(dtype).contiguous(memory_format=layout), requires_grad=False)
