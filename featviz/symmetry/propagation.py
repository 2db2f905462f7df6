"""Propagation: run a network once, and let the rules of its operators carry unit ids from tensor to tensor.

network, example input (one image is enough) -> `Trace`: which ids are one unit, which may not be permuted, which form
blocks, and the ids of every module's input and output. `unit_tracer.py` explains ids, `rules/` holds the rules.

Why this is sound: an operator without a rule pins every unit that it sees.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from featviz.errors import ModelError
from featviz.isolation import without_attention_fastpath
from featviz.symmetry.filter_scales import FilterScales
from featviz.symmetry.inplace import written_in_place
from featviz.symmetry.lower_precision import called_in_float64
from featviz.symmetry.rules import rule_of
from featviz.symmetry.rules.recurrent import Recurrent, recurrent
from featviz.symmetry.rules.registry import Call
from featviz.symmetry.trace import OUTPUT, ModuleTensor, Trace
from featviz.symmetry.unit_tracer import UnitTracer, axes_of
from featviz.weights.tensors import named_tensors, tensors_of

aten = torch.ops.aten
FUSED_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default
SINGLE_OPERATORS = aten._scaled_dot_product_attention_math.default.decompose


class Propagation(TorchDispatchMode):
    """While active, every operator that torch runs passes through its rule.

    Args:
        float64: operators are `called_in_float64`.
    """

    def __init__(self, tracer: UnitTracer, scales: FilterScales, float64: bool) -> None:
        super().__init__()
        self.tracer, self.scales, self.float64 = tracer, scales, float64
        self.paused = False  # while a module runs that has a rule as a whole

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tracer, call = self.tracer, Call(func, args, kwargs or {})
        if func is FUSED_ATTENTION:
            return self._attention(call)
        with self:
            made = func.decompose(*args, **call.kwargs)  # within `_attention`, composite operators come here whole
        if made is not NotImplemented:
            return made
        constant = all(tracer.is_constant(tensor) for tensor in call.inputs)
        call.out = self._called(call)
        if torch.Tag.nondeterministic_seeded in func.tags:
            tracer.trace.random.setdefault(str(func), tracer.module)
        for tensor in call.outputs:
            tracer.mark_constant(tensor, constant)
        if not constant and not self.paused:
            self._apply(call)
            self.scales.follow(call)
        return call.out

    def _called(self, call: Call) -> Any:
        if self.float64:
            return called_in_float64(call.operator, call.args, call.kwargs)
        return call.operator(*call.args, **call.kwargs)

    def _attention(self, call: Call) -> tuple[Tensor, Tensor]:
        """Attention in one kernel: its single operators tell the units; they run on shapes alone.

        Where their rules read numbers, those of a mask, they compute the output as well.
        """
        tracer, inputs = self.tracer, (call["query"], call["key"], call["value"])
        options = (call["attn_mask"], call["dropout_p"], call["is_causal"])
        if options[0] is not None or options[2] or any(tracer.is_constant(tensor) for tensor in inputs):
            with self:
                out, _ = SINGLE_OPERATORS(*inputs, *options, scale=call["scale"])
            return out, out.new_empty(0)
        shapes = [torch.empty_like(tensor, device="meta") for tensor in inputs]
        for shape, tensor in zip(shapes, inputs, strict=True):
            tracer.set_ids(shape, tracer.ids_of(tensor))
        with self:
            result, _ = SINGLE_OPERATORS(*shapes, *options, scale=call["scale"])
        call.out = self._called(call)
        tracer.set_ids(call.outputs[0], tracer.ids_of(result))
        return call.out

    def _apply(self, call: Call) -> None:
        tracer = self.tracer
        if any(tracer.is_parameter(tensor) or tracer.ids_of(tensor) for tensor in call.inputs):
            rule = rule_of(call.operator)
            if rule is None:
                tracer.trace.unknown.setdefault(str(call.operator), tracer.module)
                for tensor in call.inputs:
                    tracer.pin(tracer.ids_of(tensor), f"unknown operator {call.operator} in {tracer.where}")
                for tensor in call.outputs:
                    tracer.set_ids(tensor, ())
            else:
                rule(tracer, call)
        for written in call.written:
            others = [tensor for tensor in call.inputs if tensor is not written]
            written_in_place(tracer, written, uniform=all(tracer.is_constant(tensor) for tensor in others))


def propagate(
    model: nn.Module, inputs: tuple, free_outputs: bool = False, float64: bool = False
) -> tuple[Trace, list[Tensor]]:
    """Run `model` (on the CPU, in eval mode) once: the unit ids of every named module's input and output, and what it returned.

    Args:
        model: a private copy, which may change.
        inputs: the arguments of its forward.
        free_outputs: leave the channels of the network's outputs free.
        float64: what operators convert to a lower precision is float64, as the weights are.

    Raises:
        ModelError: the network returns no tensor.
    """
    tracer = UnitTracer(model)
    propagation = Propagation(tracer, FilterScales(named_tensors(model)), float64)
    _record_modules(model, propagation)
    kernels = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    with torch.no_grad(), without_attention_fastpath(), kernels, propagation:
        output = model(*inputs)
    outputs = tensors_of(output)
    if not outputs:
        raise ModelError(f"the network returned {type(output).__name__}, without a tensor: featviz cannot trace it.")
    for tensor in outputs:
        result, ids = _module_tensor(tracer, model, tensor), tracer.ids_of(tensor)
        free = [one for one in ids if axes_of(one) == {result.channel_axis}] if free_outputs else []
        free = free if len(free) == 1 else []
        tracer.pin([one for one in ids if not any(one is other for other in free)], OUTPUT)
        tracer.trace.results.append(replace(result, ids=tuple(free)))
    tracer.trace.normalized = frozenset(propagation.scales.normalized)
    return tracer.trace, outputs


def _record_modules(model: nn.Module, propagation: Propagation) -> None:
    """Hooks that keep the ids of every module's first input and first output, at its first call."""
    tracer = propagation.tracer
    running: list[str] = []

    def entering(name: str):
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            running.append(name)
            tracer.module = name
            for tensor in tensors_of((args, kwargs))[:1]:
                tracer.trace.inputs.setdefault(name, _module_tensor(tracer, module, tensor))
            propagation.paused = isinstance(module, Recurrent)

        return hook

    def leaving(name: str):
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            if isinstance(module, Recurrent):
                propagation.paused = False
                recurrent(tracer, module, (*args, *kwargs.values()), output)
            running.pop()
            tracer.module = running[-1] if running else ""
            for tensor in tensors_of(output)[:1]:
                tracer.trace.outputs.setdefault(name, _module_tensor(tracer, module, tensor))

        return hook

    for name, module in model.named_modules():
        if name and "parametrizations" not in name.split("."):
            module.register_forward_pre_hook(entering(name), with_kwargs=True)
            module.register_forward_hook(leaving(name), with_kwargs=True)


def _module_tensor(tracer: UnitTracer, module: nn.Module, tensor: Tensor) -> ModuleTensor:
    """The tensor with the axis of its channels: the one that its units vary on; else the last of (batch, tokens,
    channels), and the second of maps.
    """
    ids = tracer.ids_of(tensor)
    single = [next(iter(axes_of(one))) for one in ids if len(axes_of(one)) == 1]
    one_dimensional = isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.ConvTranspose1d)
    tokens = not single and tensor.dim() == 3 and not one_dimensional
    if isinstance(module, nn.Linear | nn.LayerNorm) or tokens:
        axis = tensor.dim() - 1
    else:
        axis = single[-1] if single else min(1, tensor.dim() - 1)
    return ModuleTensor(tuple(tensor.shape), ids, axis)
