"""Unit ids: which index of a tensor belongs to which unit. The rules of operators read and write them here.

Every index of every axis of a parameter gets an id of its own. A tensor carries its ids as *id tensors*: integer
tensors with as many axes as the tensor itself, and size 1 along every axis on which they do not vary. There is one id
tensor for each independent way in which the tensor can be permuted; a tensor without one may not be permuted. Example,
a `Conv2d(3, 4, 1)` and its output:

    weight (4, 3, 1, 1): rows (4, 1, 1, 1) = 1 2 3 4 and columns (1, 3, 1, 1) = 5 6 7
    output (1, 4, 8, 8): (1, 4, 1, 1) = 1 2 3 4
    a batch norm after it, weight (4,) = 8 9 10 11: its rule says that 1 is the same unit as 8, 2 as 9, ...

A *block* is a set of ids within which units may be exchanged, while nothing else may come in: the coordinates of an
attention head, the channels of one group of a GroupNorm. A block has an id of its own, which moves where whole blocks
are exchanged.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from featviz.symmetry.trace import ParameterAxis, Trace
from featviz.weights.tensors import named_tensors

NO_PARAMETER = "="  # starts the names of axes that belong to no parameter


class UnitTracer:
    """The unit ids of all tensors of one forward pass, and the record (`trace`) of what operators say about them."""

    def __init__(self, model: nn.Module) -> None:
        self.trace = Trace(buffers=frozenset(name for name, _ in model.named_buffers()))
        self.module = ""
        self._names = {id(tensor): name for name, tensor in named_tensors(model).items()}
        self._ids = WeakTensorKeyDictionary()
        self._constants = WeakTensorKeyDictionary()
        self._axes: dict[tuple[str, int, int], ParameterAxis] = {}
        self._blocks: dict[tuple[tuple[int, ...], bytes], Tensor] = {}

    @property
    def where(self) -> str:
        """The module that is running, for the reasons of `pin`."""
        return self.module or "the network"

    # The ids of tensors.

    def ids_of(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The id tensors of a tensor; () where nothing of it may be permuted."""
        found = self._ids.get(tensor)
        if found is None:
            name = self._names.get(id(tensor))
            found = () if name is None else self._parameter_ids(name, tensor)
            self._ids[tensor] = found
        return found

    def set_ids(self, tensor: Tensor, ids: Iterable[Tensor]) -> None:
        """Give an operator's output its id tensors; axes on which they are constant are narrowed to size 1.

        An id tensor that is constant on all axes stands for one unit that was taken out alone: that unit is pinned.
        """
        kept = []
        for one in ids:
            small = compact(one)
            if small.numel() > 1:
                kept.append(small)
            else:
                self.pin([small], f"a single unit taken out in {self.where}")
        self._ids[tensor] = tuple(kept)

    def known_tensors(self) -> list[Tensor]:
        """All tensors alive that have ids, or are constants."""
        return list({*self._ids.keys(), *self._constants.keys()})

    # What an operator says about units.

    def same_unit(self, ids: Tensor, other: Tensor) -> None:
        """Elementwise (after broadcasting): both ids are one unit, and must be permuted alike."""
        ids, other = torch.broadcast_tensors(ids, other)
        pairs = torch.unique(torch.stack([ids.reshape(-1), other.reshape(-1)]), dim=1)
        self.trace.same.append(pairs[:, pairs[0] != pairs[1]])

    def same_units_or_pin(self, ids: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        """`same_unit` for each pair of id tensors; where the numbers differ, one side is fixed, and the other gets
        pinned.
        """
        if len(ids) == len(others):
            for one, other in zip(ids, others, strict=True):
                self.same_unit(one, other)
        else:
            self.pin((*ids, *others), f"meets a fixed tensor in {self.where}")

    def same_along(self, ids: Tensor, axes: Iterable[int]) -> Tensor:
        """Units at different indices of `axes` must be permuted alike. Returns the ids at index 0 of these axes."""
        for axis in axes:
            if ids.shape[axis] > 1:
                first = ids.narrow(axis, 0, 1)
                self.same_unit(ids, first)
                ids = first
        return ids

    def pin(self, ids: Iterable[Tensor], reason: str) -> None:
        """The units of these id tensors may not be permuted; `reason` is shown to users."""
        for one in ids:
            self.trace.pinned.append((torch.unique(one), reason))

    def block_ids(self, ids: Tensor, axes: Iterable[int]) -> Tensor:
        """Each index of `axes` is a block: units may be exchanged within it, and blocks with each other.

        Returns the ids of the blocks, shaped as `ids` with size 1 along all other axes. With `axes` () all ids are one
        block (what is summed over as a whole); it has no partner, and is pinned as a block. Example, ids (2 heads, 3
        coordinates):

            ids = [[1, 2, 3], [4, 5, 6]], axes = [0]  ->  [[7], [8]]: 1 2 3 exchange, 4 5 6 exchange, and block 7 with 8
        """
        kept = [a for a in axes if ids.shape[a] > 1]
        rest = [a for a in range(ids.dim()) if a not in kept]
        shape = [ids.shape[a] if a in kept else 1 for a in range(ids.dim())]
        rows = ids.permute(*kept, *rest).reshape(int(np.prod(shape)), -1).sort(1).values
        rows, inverse = torch.unique(rows, dim=0, return_inverse=True)
        key = (tuple(rows.shape), rows.numpy().tobytes())
        if key not in self._blocks:
            own = self._blocks[key] = self._new_ids(len(rows))
            self.trace.blocks.append((rows, own))
            if len(rows) == 1:
                self.pin([own], "a set of units taken as a whole")
        return self._blocks[key][inverse].view(shape)

    # Parameters and constants.

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether the tensor is itself a parameter or a buffer of the network."""
        return id(tensor) in self._names

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether the tensor's values depend neither on the input nor on a parameter."""
        return tensor in self._constants

    def mark_constant(self, tensor: Tensor, constant: bool = True) -> None:
        """Say that a tensor's values depend (or do not) on the input or on a parameter."""
        if constant:
            self._constants[tensor] = True
        else:
            self._constants.pop(tensor, None)

    def is_uniform(self, tensor: Tensor, axis: int) -> bool:
        """Whether a constant has the same value all along an axis: permuting that axis changes nothing."""
        return self.is_constant(tensor) and is_equal_along(tensor, [axis])

    def constant_ids(self, length: int) -> Tensor:
        """New ids (length,) of elements that are one constant, like padded zeros: they exchange, and own nothing."""
        name = f"{NO_PARAMETER}{len(self.trace.axes)}"
        return self._axis_ids(name, 0, 1, length)

    def grouped_weight_ids(self, weight: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
        """The ids of a grouped convolution's weight (rows, columns, ...): of its rows (rows, 1, ...), and of its
        columns (rows, columns, ...), which are other units in each of the `blocks` blocks of rows.
        """
        name = self._names[id(weight)]
        tail = (1,) * (weight.dim() - 2)
        rows = self._axis_ids(name, 0, 1, weight.shape[0])
        columns = self._axis_ids(name, 1, blocks, blocks * weight.shape[1]).view(blocks, -1)
        columns = columns.repeat_interleave(weight.shape[0] // blocks, 0)
        return rows.view(-1, 1, *tail), columns.view(*columns.shape, *tail)

    def _parameter_ids(self, name: str, tensor: Tensor) -> tuple[Tensor, ...]:
        """One id tensor for each axis of more than one index."""
        found = []
        for axis, length in enumerate(tensor.shape):
            if length > 1:
                shape = [length if a == axis else 1 for a in range(tensor.dim())]
                found.append(self._axis_ids(name, axis, 1, length).view(shape))
        return tuple(found)

    def _axis_ids(self, name: str, axis: int, blocks: int, length: int) -> Tensor:
        """The ids (length,) of a parameter's axis, new at its first use."""
        key = (name, axis, blocks)
        if key not in self._axes:
            first = int(self._new_ids(length)[0]) if length else self.trace.count
            new = self._axes[key] = ParameterAxis(name, axis, blocks, first, length)
            self.trace.axes.append(new)
            for other in self._axes.values():
                if (other.parameter, other.axis) == (name, axis) and other.blocks != blocks:
                    for one in (new, other):  # used in blocks here and otherwise there: all blocks move alike
                        span = torch.arange(one.length)
                        self.same_unit(span + one.first_id, span % (length // blocks) + new.first_id)
        return torch.arange(length) + self._axes[key].first_id

    def _new_ids(self, length: int) -> Tensor:
        first = self.trace.count
        self.trace.count += length
        return torch.arange(first, first + length)


def compact(ids: Tensor) -> Tensor:
    """Narrow every axis along which the ids are constant to size 1."""
    for axis, size in enumerate(ids.shape):
        if size > 1 and (ids.stride(axis) == 0 or is_equal_along(ids, [axis])):
            ids = ids.narrow(axis, 0, 1)
    return ids


def axes_of(ids: Tensor) -> set[int]:
    """The axes along which a compact id tensor varies."""
    return {axis for axis, size in enumerate(ids.shape) if size > 1}


def is_equal_along(tensor: Tensor, axes: Iterable[int]) -> bool:
    """Whether values are the same all along some axes."""
    return all(bool((tensor == tensor.narrow(axis, 0, 1)).all()) for axis in axes)
