"""Run a network once under label propagation: network, example input, rules -> `Trace` with every module's units."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from featviz.errors import ModelError
from featviz.isolation import without_attention_fastpath
from featviz.symmetry.propagation import Propagation, Site, Trace, tensors_of, varies


def trace_labels(model: nn.Module, inputs: tuple, rules: Callable[..., bool]) -> Trace:
    """Run `model` (on the CPU, in eval mode) under propagation; every named module's input and output is recorded.

    The model may change: give a private copy.
    """
    mode = Propagation(model, rules)
    stack: list[str] = []

    def entering(name: str):
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            stack.append(name)
            mode.module = name
            for tensor in tensors_of((args, kwargs))[:1]:
                mode.trace.inputs.setdefault(name, _site(mode, name, module, tensor))

        return hook

    def leaving(name: str):
        def hook(module: nn.Module, args: tuple, output: object) -> None:
            stack.pop()
            mode.module = stack[-1] if stack else ""
            for tensor in tensors_of(output)[:1]:
                mode.trace.outputs.setdefault(name, _site(mode, name, module, tensor))

        return hook

    for name, module in model.named_modules():
        if name:
            module.register_forward_pre_hook(entering(name), with_kwargs=True)
            module.register_forward_hook(leaving(name))
    kernel = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), without_attention_fastpath(), kernel, mode:
        output = model(*inputs)
    outputs = tensors_of(output)
    if not outputs:
        raise ModelError(f"the network returned {type(output).__name__}, without a tensor: featviz cannot trace it.")
    for tensor in outputs:
        mode.pin(mode.factors(tensor), "the network's output")
    return mode.trace


def _site(mode: Propagation, name: str, module: nn.Module, tensor: Tensor) -> Site:
    factors = mode.factors(tensor)
    single = [next(iter(varies(f))) for f in factors if len(varies(f)) == 1]
    if isinstance(module, nn.Linear | nn.LayerNorm) or (
        not single and tensor.dim() == 3 and not _one_dimensional(module)
    ):
        axis = tensor.dim() - 1
    else:
        axis = single[-1] if single else min(1, tensor.dim() - 1)
    return Site(name, tuple(tensor.shape), factors, axis)


def _one_dimensional(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.ConvTranspose1d)
