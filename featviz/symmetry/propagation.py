"""Label propagation: run a network once and learn which coordinates of which parameters move together.

network, example input (batch of one) -> `Trace`: ties, pins and tags between *slots*, and the slots seen at every module
(`tracing.py` runs the network).

A slot is one coordinate of one axis of one parameter or buffer, and its number is its label. Every tensor of the forward
pass carries *factors*: integer tensors of labels, one for each independent way in which its elements can be permuted. A
convolution weight has a factor along its outputs and one along its inputs, an activation has one along its channels. A
factor is compact: it has the tensor's number of axes, and size 1 along every axis on which it does not vary. What has no
factor may not move; label 0 (FIXED) says the same of single elements within a factor.

What is summed over as a whole may be permuted within, and nothing else may come in: such *sets* (the coordinates of a head,
the channels of a GroupNorm group) are tagged. A set has a label of its own, which moves where whole sets are exchanged.

The operators themselves are in `operators.py`. The rule that makes this sound: an operator that is not known to commute
with a permutation of its input pins the labels it sees.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from featviz.tensors import named_tensors

FIXED = 0
EQUAL = "="  # starts the name of slots that are no parameter's
_ONE = torch.ones((), dtype=torch.long)

Factors = tuple[Tensor, ...]


@dataclass(frozen=True)
class SlotAxis:
    """Consecutive slots: one axis of one parameter; in a grouped convolution's weight the inputs of all its blocks."""

    parameter: str
    axis: int
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
    tags: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # sets (s, n) of labels, and their own labels (s,)
    outputs: dict[str, Site] = field(default_factory=dict)
    inputs: dict[str, Site] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)  # operator -> the module where it first occurred
    buffers: frozenset[str] = frozenset()
    labels: int = 1


class Propagation(TorchDispatchMode):
    """Carries factors along a forward pass; the rules of `operators.py` call the methods below."""

    def __init__(self, model: nn.Module, rules: Callable[["Propagation", object, tuple, dict, object], bool]) -> None:
        super().__init__()
        self.trace = Trace(buffers=frozenset(name for name, _ in model.named_buffers()))
        self.rules = rules
        self.module = ""
        self._names = {id(tensor): name for name, tensor in named_tensors(model).items()}
        self._factors = WeakTensorKeyDictionary()
        self._constants = WeakTensorKeyDictionary()
        self._axes: dict[tuple[str, int, int], SlotAxis] = {}
        self._sets: dict[tuple[tuple[int, ...], bytes], Tensor] = {}

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
        if any(self.is_parameter(a) or self.factors(a) for a in inputs) and not self.rules(
            self, func, args, kwargs, out
        ):
            self.trace.unknown.setdefault(str(func), self.module)
            for tensor in inputs:
                self.pin(self.factors(tensor), f"unknown operator {func} in {self.module or 'the network'}")
            for tensor in tensors_of(out):
                self.put(tensor, ())
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                self._written(value, uniform=all(self.is_constant(a) for a in inputs if a is not value))
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

    def _written(self, part: Tensor, uniform: bool) -> None:
        """`part` was written in place: other tensors on its memory get its labels where they overlap.

        What was written or what it was written into may be `uniform`, the same all along an axis that `part` spans whole: that
        needs no labels, and does not disturb those that are there.
        """
        memory = part.untyped_storage().data_ptr()
        known = [t for t in {*self._factors.keys(), *self._constants.keys()} if t is not part]
        for whole in (t for t in known if t.untyped_storage().data_ptr() == memory):
            old, new = self.factors(whole), self.factors(part)
            blank = whole in self._constants
            self._constants.pop(whole, None)
            if old and new and len(old) != len(new):
                self.pin(
                    (*old, *new), f"a tensor of other structure written into a part in {self.module or 'the network'}"
                )
                self.put(whole, ())
                continue
            result = []
            for number in range(max(len(old), len(new))):
                before = old[number] if old else torch.zeros((1,) * whole.dim(), dtype=torch.long)
                after = new[number] if new else torch.zeros((1,) * part.dim(), dtype=torch.long)
                inside = _overlaid(torch.zeros((1,) * whole.dim(), dtype=torch.long), whole, _ONE, part).bool()
                if not new and uniform:
                    if _even(inside, varies(before)):
                        result.append(before)
                        continue
                    after = self._constant_labels(part, varies(before) if part.dim() == whole.dim() else set())
                axes = varies(after) if part.dim() == whole.dim() else set()
                if blank and axes and not old and _even(whole.masked_fill(inside, 0), axes):
                    if _even(inside, axes):
                        result.append(after)
                        continue
                    before = self._constant_labels(whole.masked_fill(inside, 0), axes)
                result.append(_overlaid(before, whole, after, part))
            self.put(whole, result)

    def _constant_labels(self, tensor: Tensor, axes: set[int]) -> Tensor:
        """Labels of what is one constant along an axis; fixed where it is not, or the axis is not one."""
        if len(axes) != 1 or max(axes) >= tensor.dim() or not _even(tensor, axes):
            return torch.zeros((1,) * tensor.dim(), dtype=torch.long)
        (axis,) = axes
        return self.equal_elements(tensor.shape[axis]).view([-1 if a == axis else 1 for a in range(tensor.dim())])

    def mark_constant(self, tensor: Tensor) -> None:
        """Its values depend neither on the input nor on a parameter, though an operand of the operator did."""
        self._constants[tensor] = True

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether the tensor's values depend neither on the input nor on a parameter."""
        return tensor in self._constants

    def is_parameter(self, tensor: Tensor) -> bool:
        return id(tensor) in self._names

    def block_factor(self, tensor: Tensor, blocks: int) -> Factors:
        """A grouped convolution's weight (rows, columns, ...): rows, and columns separately within each block of rows."""
        name = self._names[id(tensor)]
        rows = self._slots(name, 0, 1, tensor.shape[0])
        columns = self._slots(name, 1, blocks, blocks * tensor.shape[1])
        inner = (torch.arange(columns.length) + columns.first).view(blocks, -1)
        inner = inner.repeat_interleave(tensor.shape[0] // blocks, 0)
        tail = (1,) * (tensor.dim() - 2)
        return (torch.arange(rows.length) + rows.first).view(-1, 1, *tail), inner.view(*inner.shape, *tail)

    def equal_elements(self, length: int) -> Tensor:
        """Labels (length,) of elements that are one constant, like a padding's zeros: exchangeable, and owning nothing."""
        name = f"{EQUAL}{len(self.trace.axes)}"
        return torch.arange(length) + self._slots(name, 0, 1, length).first

    def _parameter_factors(self, name: str, tensor: Tensor) -> Factors:
        factors = []
        for axis, length in enumerate(tensor.shape):
            if length > 1:
                labels = torch.arange(length) + self._slots(name, axis, 1, length).first
                factors.append(labels.view(*(length if a == axis else 1 for a in range(tensor.dim()))))
        return tuple(factors)

    def _slots(self, name: str, axis: int, blocks: int, length: int) -> SlotAxis:
        key = (name, axis, blocks)
        if key not in self._axes:
            new = self._axes[key] = SlotAxis(name, axis, blocks, self.trace.labels, length)
            self.trace.axes.append(new)
            self.trace.labels += length
            for other in self._axes.values():
                if (other.parameter, other.axis) == (name, axis) and other.blocks != blocks:
                    for one in (new, other):  # used as blocks here and otherwise there: all blocks move alike
                        span = torch.arange(one.length)
                        self.tie(span + one.first, span % (length // blocks) + new.first)
        return self._axes[key]

    # What an operator says about labels.

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Labels (broadcast against each other) that move together."""
        one, other = torch.broadcast_tensors(one, other)
        pairs = torch.unique(torch.stack([one.reshape(-1), other.reshape(-1)]), dim=1)
        self.trace.ties.append(pairs[:, pairs[0] != pairs[1]])

    def pin(self, factors: Iterable[Tensor], why: str) -> None:
        """Labels that may not move."""
        for factor in factors:
            self.trace.pins.append((torch.unique(factor), why))

    def tag(self, factor: Tensor, axes: Iterable[int]) -> Tensor:
        """Labels may be exchanged only within one index of `axes`: all those of an index are one set.

        Sets as a whole may be exchanged, if all that is said of them allows it. Returns the label of each set, shaped as the
        factor with size 1 along the other axes; where there is but one set, it is pinned.
        """
        kept = [a for a in axes if factor.shape[a] > 1]
        rest = [a for a in range(factor.dim()) if a not in kept]
        shape = [factor.shape[a] if a in kept else 1 for a in range(factor.dim())]
        rows = factor.permute(*kept, *rest).reshape(int(np.prod(shape)), -1).sort(1).values
        rows, inverse = torch.unique(rows, dim=0, return_inverse=True)
        key = (tuple(rows.shape), rows.numpy().tobytes())
        if key not in self._sets:
            own = self._sets[key] = torch.arange(len(rows)) + self.trace.labels
            self.trace.labels += len(rows)
            self.trace.tags.append((rows, own))
            if len(rows) == 1:
                self.pin((own,), "a set taken as a whole")
        return self._sets[key][inverse].view(shape)

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


def _overlaid(before: Tensor, whole: Tensor, after: Tensor, part: Tensor) -> Tensor:
    """Labels of `whole` once `part`, on the same memory, has its own."""
    length = whole.untyped_storage().nbytes() // whole.element_size()
    memory = torch.full((length,), FIXED, dtype=torch.long)
    for tensor, labels in ((whole, before), (part, after)):
        memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(labels.expand(tensor.shape))
    return memory.as_strided(whole.shape, whole.stride(), whole.storage_offset()).clone()


def _even(tensor: Tensor, axes: Iterable[int]) -> bool:
    """Whether values are the same all along some axes."""
    return all(bool((tensor == tensor.narrow(axis, 0, 1)).all()) for axis in axes)


def compact(factor: Tensor) -> Tensor:
    """Narrow every axis along which the labels are constant to size 1."""
    for axis, size in enumerate(factor.shape):
        if size > 1 and (factor.stride(axis) == 0 or bool((factor == factor.narrow(axis, 0, 1)).all())):
            factor = factor.narrow(axis, 0, 1)
    return factor


def varies(factor: Tensor) -> set[int]:
    """The axes along which a compact factor varies."""
    return {axis for axis, size in enumerate(factor.shape) if size > 1}
