"""Label propagation: run a network once and learn which coordinates of which parameters move together.

network, example input (batch of one) -> `Trace`: ties, pins and tags between *slots*, and the slots seen at every module.

A slot is one coordinate of one axis of one parameter or buffer, and its number is its label. Every tensor of the forward
pass carries *factors*: integer tensors of labels, one for each independent way in which its elements can be permuted. A
convolution weight has a factor along its outputs and one along its inputs, an activation has one along its channels. A
factor is compact: it has the tensor's number of axes, and size 1 along every axis on which it does not vary. What has no
factor may not move; label 0 (FIXED) says the same of single elements within a factor.

The operators themselves are in `operators.py`. The rule that makes this sound: an operator that is not known to commute
with a permutation of its input pins the labels it sees.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from featviz.errors import ModelError

FIXED = 0
EQUAL = "="  # starts the name of slots that are no parameter's

Factors = tuple[Tensor, ...]


@dataclass(frozen=True)
class SlotAxis:
    """Consecutive slots: one axis of one parameter, for a grouped convolution within one block of its outputs."""

    parameter: str
    axis: int
    block: int | None
    blocks: int
    first: int
    length: int


@dataclass(frozen=True)
class Site:
    """What one module put out (or took in): the tensor's shape and factors."""

    module: str
    shape: tuple[int, ...]
    factors: Factors
    channel_axis: int


@dataclass
class Trace:
    """All that one forward pass taught."""

    axes: list[SlotAxis] = field(default_factory=list)
    ties: list[Tensor] = field(default_factory=list)  # (2, n): pairs of labels that move together
    pins: list[tuple[Tensor, str]] = field(default_factory=list)  # labels that may not move, and why
    tags: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # labels, and the set each must stay in
    outputs: dict[str, Site] = field(default_factory=dict)
    inputs: dict[str, Site] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)  # operator -> the module where it first occurred
    labels: int = 1
    sets: int = 0


class Propagation(TorchDispatchMode):
    """Carries factors along a forward pass; the rules of `operators.py` call the methods below."""

    def __init__(self, model: nn.Module, rules: Callable[["Propagation", object, tuple, dict, object], bool]) -> None:
        super().__init__()
        self.trace = Trace()
        self.rules = rules
        self.module = ""
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(tensor): name for name, tensor in named}
        self._factors = WeakTensorKeyDictionary()
        self._constants = WeakTensorKeyDictionary()
        self._axes: dict[tuple[str, int, int | None], SlotAxis] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = tensors_of((args, kwargs))
        constant = all(self.is_constant(a) for a in inputs)
        out = func(*args, **kwargs)
        for tensor in tensors_of(out):
            if constant:
                self._constants[tensor] = True
            else:
                self._constants.pop(tensor, None)
        if constant:
            return out
        if any(self.factors(a) for a in inputs) and not self.rules(self, func, args, kwargs, out):
            self.trace.unknown.setdefault(str(func), self.module)
            for tensor in inputs:
                self.pin(self.factors(tensor), f"unknown operator {func} in {self.module or 'the network'}")
            for tensor in tensors_of(out):
                self.put(tensor, ())
        return out

    # What a tensor carries.

    def factors(self, tensor: Tensor) -> Factors:
        """The factors of a tensor; a parameter gets one slot per coordinate of each axis at its first use."""
        found = self._factors.get(tensor)
        if found is None:
            name = self._names.get(id(tensor))
            found = () if name is None else self._parameter_factors(name, tensor)
            self._factors[tensor] = found
        return found

    def put(self, tensor: Tensor, factors: Iterable[Tensor]) -> None:
        """Give an operator's output its factors; one that labels all elements alike is pinned and dropped."""
        kept = []
        for factor in factors:
            small = compact(factor)
            if small.numel() > 1:
                kept.append(small)
            else:
                self.pin((small,), f"a single unit taken out in {self.module or 'the network'}")
        self._factors[tensor] = tuple(kept)

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether the tensor's values depend neither on the input nor on a parameter."""
        return tensor in self._constants

    def is_parameter(self, tensor: Tensor) -> bool:
        return id(tensor) in self._names

    def block_factor(self, tensor: Tensor, blocks: int) -> Factors:
        """A grouped convolution's weight (out, in / blocks, ...): outputs, and inputs separately within each block."""
        name = self._names[id(tensor)]
        axis0 = self._slots(name, 0, None, 1, tensor.shape[0])
        rows = torch.arange(axis0.length) + axis0.first
        length = tensor.shape[1]
        first = [self._slots(name, 1, block, blocks, length).first for block in range(blocks)]
        inner = torch.tensor(first)[:, None] + torch.arange(length)
        inner = inner.repeat_interleave(tensor.shape[0] // blocks, 0)
        tail = (1,) * (tensor.dim() - 2)
        return rows.view(-1, 1, *tail), inner.view(*inner.shape, *tail)

    def equal_elements(self, length: int) -> Tensor:
        """Labels (length,) of elements that are one constant, like a padding's zeros: exchangeable, and owning nothing."""
        name = f"{EQUAL}{len(self.trace.axes)}"
        return torch.arange(length) + self._slots(name, 0, None, 1, length).first

    def _parameter_factors(self, name: str, tensor: Tensor) -> Factors:
        factors = []
        for axis, length in enumerate(tensor.shape):
            if length > 1:
                slots = self._slots(name, axis, None, 1, length)
                labels = torch.arange(length) + slots.first
                factors.append(labels.view(*(length if a == axis else 1 for a in range(tensor.dim()))))
        return tuple(factors)

    def _slots(self, name: str, axis: int, block: int | None, blocks: int, length: int) -> SlotAxis:
        key = (name, axis, block)
        if key not in self._axes:
            self._axes[key] = SlotAxis(name, axis, block, blocks, self.trace.labels, length)
            self.trace.axes.append(self._axes[key])
            self.trace.labels += length
            plain = self._axes.get((name, axis, None))
            if block is not None and plain is not None:
                span = torch.arange(length)
                self.tie(span + self._axes[key].first, span + plain.first)
        return self._axes[key]

    # What an operator says about labels.

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Labels (broadcast against each other) that move together."""
        one, other = torch.broadcast_tensors(one, other)
        pairs = torch.stack([one.reshape(-1), other.reshape(-1)])
        if pairs.shape[1] > 4096:
            pairs = torch.unique(pairs, dim=1)
        self.trace.ties.append(pairs[:, pairs[0] != pairs[1]])

    def pin(self, factors: Iterable[Tensor], why: str) -> None:
        """Labels that may not move."""
        for factor in factors:
            self.trace.pins.append((torch.unique(factor), why))

    def tag(self, factor: Tensor, axes: Sequence[int]) -> None:
        """Labels may be exchanged only within one index of `axes` (one set for the whole factor where `axes` is empty)."""
        shape = [factor.shape[a] if a in axes else 1 for a in range(factor.dim())]
        index = torch.arange(int(np.prod(shape))).view(shape) + self.trace.sets
        self.trace.sets += index.numel()
        labels, sets = torch.broadcast_tensors(factor, index)
        self.trace.tags.append((labels.reshape(-1), sets.reshape(-1)))

    def constant_along(self, factor: Tensor, axes: Iterable[int]) -> Tensor:
        """The factor, made constant along `axes` by tying what differs there."""
        for axis in axes:
            if factor.shape[axis] > 1:
                first = factor.narrow(axis, 0, 1)
                self.tie(factor, first)
                factor = first
        return factor


def tensors_of(value: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []


def compact(factor: Tensor) -> Tensor:
    """Narrow every axis along which the labels are constant to size 1."""
    for axis, size in enumerate(factor.shape):
        if size > 1 and (factor.stride(axis) == 0 or bool((factor == factor.narrow(axis, 0, 1)).all())):
            factor = factor.narrow(axis, 0, 1)
    return factor


def varies(factor: Tensor) -> set[int]:
    """The axes along which a compact factor varies."""
    return {axis for axis, size in enumerate(factor.shape) if size > 1}


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
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        kernel = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        with torch.no_grad(), kernel, mode:
            output = model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    outputs = tensors_of(output)
    if not outputs:
        raise ModelError(f"the network returned {type(output).__name__}, without a tensor: featviz cannot trace it.")
    for tensor in outputs:
        mode.pin(mode.factors(tensor), "the network's output")
    return mode.trace


def _site(mode: Propagation, name: str, module: nn.Module, tensor: Tensor) -> Site:
    factors = mode.factors(tensor)
    single = [next(iter(varies(f))) for f in factors if len(varies(f)) == 1]
    if single:
        axis = single[0]
    elif tensor.dim() == 3 and not isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.ConvTranspose1d):
        axis = 2
    else:
        axis = min(1, tensor.dim() - 1)
    return Site(name, tuple(tensor.shape), factors, axis)
