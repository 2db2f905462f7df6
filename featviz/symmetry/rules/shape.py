"""Rules of operators that move elements and change none: views, reshape, transposition, indexing, roll, repeat.

The operator itself is run on the ids. x (1, 4, 2, 2) with ids 1 2 3 4, flattened: (1, 16) with ids 1 1 1 1 2 2 2 2 3 3
3 3 4 4 4 4. Split into halves: 1 2 and 3 4; each half is a block, since from here on the halves may be treated
differently.
"""

import torch
from torch import Tensor

from featviz.symmetry.rules.registry import Call, rule, rule_of_kind
from featviz.symmetry.unit_tracer import UnitTracer, compact
from featviz.weights.tensors import tensors_of

aten = torch.ops.aten


@rule_of_kind(lambda operator: operator.is_view)
@rule(
    aten._unsafe_view, aten.reshape, aten.roll, aten.index, aten.index_select, aten.repeat, aten.flip, aten.embedding,
    aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.repeat_interleave, aten.gather,
    aten.narrow_copy, aten.permute_copy, aten.slice_copy, aten.rot90, aten.tril, aten.triu, aten.unsafe_split,
    aten.unsafe_split_with_sizes, aten.unsafe_chunk,
)  # fmt: skip
def data_movement(tracer: UnitTracer, call: Call) -> None:
    """Every element of the output is one of the first argument (or zero)."""
    source = call.args[0]
    for index in tensors_of((call.args[1:], call.kwargs)):
        tracer.pin(tracer.ids_of(index), f"used as an index in {tracer.where}")
    before = tracer.ids_of(source)
    moved = [_moved(call, ids.expand(source.shape)) for ids in before]
    for number, tensor in enumerate(call.outputs):
        tracer.set_ids(tensor, [ids[number] for ids in moved])
        if call.operator.is_view and tensor.numel() >= source.numel():
            continue
        for old, new in zip(before, moved, strict=True):
            part = torch.unique(new[number])
            if 1 < len(part) < len(torch.unique(old)):
                tracer.block_ids(part, ())


def _moved(call: Call, ids: Tensor) -> list[Tensor]:
    """Ids of the source's shape, moved as the operator moves elements; one tensor for each output."""
    name = call.operator.overloadpacket.__name__
    if name in ("view", "_unsafe_view", "_reshape_alias"):  # the ids may lie otherwise in memory
        return [compact(ids.reshape(tuple(call.out.shape)))]
    if name == "as_strided":
        like = torch.empty_strided(ids.shape, call["self"].stride(), dtype=torch.long).copy_(ids)
        return [compact(like.as_strided(*call.args[1:], **call.kwargs))]
    return [compact(tensor) for tensor in tensors_of(call.operator(ids, *call.args[1:], **call.kwargs))]


@rule(aten.as_strided_)
def restride(tracer: UnitTracer, call: Call) -> None:
    """Adaptive pooling of a channels_last map restrides its result; the order of elements by shape stays."""
    out, found = call.out, tracer.ids_of(call["self"])
    if all(i.dim() == out.dim() and all(a in (1, b) for a, b in zip(i.shape, out.shape, strict=True)) for i in found):
        tracer.set_ids(out, found)
    else:
        tracer.pin(found, f"restrided in {tracer.where}")
        tracer.set_ids(out, ())
