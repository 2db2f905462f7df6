"""Rules of cat, stack and constant padding: tensors put side by side.

cat([x, y], 1), ids 1 2 and 3 4: the output has ids 1 2 3 4. cat([x, x], 1): 1 2 1 2, so that a unit owns two channels.
cat([x, y], 0) of two batches, ids (1, 2) and (1, 2): both have the same units, ids 1 2.
pad(x, one channel before and after), ids 1 2: new 1 2 new; the new ones are zeros, which may be exchanged with each
other.
"""

import torch
from torch import Tensor

from featviz.symmetry.rules.registry import Call, rule
from featviz.symmetry.trace import PINNED
from featviz.symmetry.unit_tracer import UnitTracer, axes_of

aten = torch.ops.aten


@rule(aten.cat)
def concatenate(tracer: UnitTracer, call: Call) -> None:
    """Tensors one after the other along `dim`; one without ids is fixed there, and blocks nothing of the others."""
    pieces = [t for t in call["tensors"] if t.numel()]
    axis = call["dim"] % call.out.dim()
    found = [tracer.ids_of(t) for t in pieces]
    most = max(len(ids) for ids in found)
    if any(len(ids) not in (0, most) for ids in found) or (most > 1 and any(not ids for ids in found)):
        _pin_all(tracer, call, found, "concatenated")
        return
    joined = []
    for number in range(most):
        ones = [ids[number] if ids else torch.full((1,) * call.out.dim(), PINNED, dtype=torch.long) for ids in found]
        if all(ids.shape == ones[0].shape and axis not in axes_of(ids) for ids in ones):
            for other in ones[1:]:
                tracer.same_unit(ones[0], other)
            joined.append(ones[0])
        else:
            joined.append(torch.cat([ids.expand(t.shape) for ids, t in zip(ones, pieces, strict=True)], axis))
    tracer.set_ids(call.out, joined)


@rule(aten.stack)
def stack(tracer: UnitTracer, call: Call) -> None:
    """Tensors side by side along a new axis."""
    pieces = call["tensors"]
    axis = call["dim"] % call.out.dim()
    found = [tracer.ids_of(t) for t in pieces]
    most = max(len(ids) for ids in found)
    if any(len(ids) != most for ids in found):
        _pin_all(tracer, call, found, "stacked")
        return
    joined = []
    for number in range(most):
        full = [ids[number].expand(t.shape) for ids, t in zip(found, pieces, strict=True)]
        joined.append(torch.stack(full, axis))
    tracer.set_ids(call.out, joined)


def _pin_all(tracer: UnitTracer, call: Call, found: list[tuple[Tensor, ...]], verb: str) -> None:
    for ids in found:
        tracer.pin(ids, f"{verb} with a tensor of other structure in {tracer.where}")
    tracer.set_ids(call.out, ())


@rule(aten.constant_pad_nd)
def pad(tracer: UnitTracer, call: Call) -> None:
    """A constant around a tensor: new units along the axis of the ids, exchangeable with each other where there is one
    such axis.
    """
    source, pads = call["self"], list(call["pad"])
    found = []
    for ids in tracer.ids_of(source):
        axes = axes_of(ids)
        around = [size if source.dim() - 1 - i // 2 in axes else 0 for i, size in enumerate(pads)]
        if any(around):
            wide = aten.constant_pad_nd(ids, around, PINNED)
            if len(axes) == 1:
                shape = [call.out.shape[a] if a in axes else 1 for a in range(call.out.dim())]
                constants = tracer.constant_ids(max(shape)).view(shape)
                inside = aten.constant_pad_nd(torch.ones_like(ids, dtype=torch.bool), around, 0)
                wide = torch.where(inside, wide, constants)
            ids = wide
        found.append(ids)
    tracer.set_ids(call.out, found)
