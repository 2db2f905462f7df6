"""Rules of elementwise operators: add, multiply, ReLU, gates.

x + y, x and y (1, 4, 8, 8) with ids 1 2 3 4 and 5 6 7 8: 1 is the same unit as 5, ... and the sum has ids 1 2 3 4.
x + c, c a fixed vector over the channels with different values: 1 2 3 4 are pinned. With equal values nothing happens.
scores (heads, tokens, tokens) * scale (heads, 1, 1): both have an id for each head, which are the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._ops import OpOverload

from featviz.symmetry.rules.registry import Call, rule, rule_of_kind
from featviz.symmetry.unit_tracer import UnitTracer, axes_of

aten = torch.ops.aten


def _is_elementwise(operator: OpOverload) -> bool:
    """By torch's tags; an in-place operator has those of the operator without its last underscore."""
    if operator.is_view:
        return False
    if torch.Tag.pointwise in operator.tags:
        return True
    name = operator._schema.name.rpartition("::")[2]
    if operator.namespace != "aten" or not name.endswith("_"):
        return False
    functional = getattr(aten, name.rstrip("_"), None)
    overloads = [getattr(functional, overload) for overload in functional.overloads()] if functional else []
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


@rule_of_kind(_is_elementwise)
@rule(aten.hardswish, aten.hardswish_, aten._prelu_kernel, aten.dropout, aten.bernoulli)  # not tagged in torch
def elementwise(tracer: UnitTracer, call: Call) -> None:
    """Each element of the output is the same function of the elements at its index in the inputs (broadcast)."""
    combine(tracer, call.out, call.inputs)


def combine(tracer: UnitTracer, out: Tensor, operands: Sequence[Tensor]) -> None:
    """Set the ids of an elementwise output: ids of different operands over the same axes are the same units, and those
    that meet a fixed operand are pinned.
    """
    shapes = [(1,) * (out.dim() - t.dim()) + tuple(t.shape) for t in operands]
    result: list[Tensor] = []
    owners: list[set[int]] = []  # for each id tensor of the result, the operands that have it
    for number, operand in enumerate(operands):
        for ids in tracer.ids_of(operand):
            ids = ids.reshape((1,) * (out.dim() - ids.dim()) + tuple(ids.shape))
            for at, other in enumerate(result):
                if other.shape == ids.shape and number not in owners[at]:
                    tracer.same_unit(other, ids)
                    owners[at].add(number)
                    break
            else:
                result.append(ids)
                owners.append({number})
    _join_nested(tracer, result, owners)
    kept = []
    for ids, owner in zip(result, owners, strict=True):
        axes = axes_of(ids)
        fixed: set[int] = set()  # axes along which an operand without these ids has different values
        for number, shape in enumerate(shapes):
            if number not in owner:
                fixed |= {a for a in axes if shape[a] > 1 and not tracer.is_uniform(operands[number], a - out.dim())}
        if fixed == axes:
            tracer.pin([ids], f"meets a fixed tensor in {tracer.where}")
            continue
        if fixed:
            tracer.pin([tracer.block_ids(ids, sorted(fixed))], f"meets a fixed tensor in {tracer.where}")
        kept.append(ids)
    tracer.set_ids(out, kept)


def _join_nested(tracer: UnitTracer, found: list[Tensor], owners: list[set[int]]) -> None:
    """Join, in place, id tensors of different operands where one varies on some of the other's axes.

    (heads,) and (heads, coordinates): the first holds the blocks of the second.
    (coordinates,) and (heads, coordinates): the coordinates of all heads are permuted alike.
    """
    for small in sorted(range(len(found)), key=lambda number: len(axes_of(found[number]))):
        for big in range(len(found)):
            inner, outer = axes_of(found[small]), axes_of(found[big])
            if not inner < outer or owners[small] & owners[big]:
                continue
            if max(inner) < min(outer - inner):
                tracer.same_unit(tracer.block_ids(found[big], sorted(inner)), found[small])
                owners[big] |= owners[small]
                found[small], owners[small] = found[big], owners[big]
            else:
                tracer.same_unit(found[big], found[small])
                owners[small] |= owners[big]
                found[big], owners[big] = found[small], owners[small]
    distinct = [n for n in range(len(found)) if not any(found[n] is found[m] for m in range(n))]
    found[:], owners[:] = [found[n] for n in distinct], [owners[n] for n in distinct]


@rule(aten.glu)
def glu(tracer: UnitTracer, call: Call) -> None:
    """x[:n] * sigmoid(x[n:]) along `dim`: unit i and unit n + i are permuted alike."""
    dim, found = call["dim"] % call.out.dim(), []
    for ids in tracer.ids_of(call["self"]):
        if dim in axes_of(ids):
            ids, gates = ids.chunk(2, dim)
            tracer.same_unit(ids, gates)
        found.append(ids)
    tracer.set_ids(call.out, found)
