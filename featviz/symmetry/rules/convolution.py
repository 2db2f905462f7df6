"""The rule of convolutions: the input's channels are the weight's columns, the output's channels its rows.

Conv2d(4, 6): the input's ids 1 2 3 4 are the same as the weight's columns; the output has the ids of its rows.
Conv2d(4, 4, groups=4), depthwise: the input's ids are the same as the weight's rows.
Conv2d(4, 6, groups=2), weight (6, 2, k, k): rows 0 to 2 read channels 0 and 1, rows 3 to 5 read channels 2 and 3. The
columns have ids of their own in each block: 1 2 | 3 4 for the input, 5 6 7 | 8 9 10 for the output. Units exchange
within a block, and block 1 2 with 3 4 where 5 6 7 is exchanged with 8 9 10: both blocks of a group are the same block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from featviz.symmetry.rules.registry import Call, rule
from featviz.symmetry.unit_tracer import UnitTracer, axes_of


@dataclass(frozen=True)
class _WeightIds:
    """Flat id tensors of a weight: of its rows, and of its columns, those of each block one after the other."""

    rows: list[Tensor]
    columns: list[Tensor]


@rule(torch.ops.aten.convolution, torch.ops.aten._convolution)
def convolution(tracer: UnitTracer, call: Call) -> None:
    """Convolutions and transposed ones of 1 to 3 dimensions, with groups."""
    x, weight, bias, blocks, transposed = (call[k] for k in ("input", "weight", "bias", "groups", "transposed"))
    channel = x.dim() - (weight.dim() - 2) - 1
    width = call.out.shape[channel]
    read = _channels_of(tracer, x, channel)
    # Depthwise: each input channel has kernels of its own. A parameter with several kernels each is read as grouped.
    one_channel_each = 1 < blocks == x.shape[channel]
    grouped = blocks > 1 and tracer.is_parameter(weight) and not (one_channel_each and blocks == width)
    depthwise = one_channel_each and not grouped and (blocks == width or not transposed)
    found = _weight_ids(tracer, weight, blocks, grouped)
    if depthwise:
        tracer.same_units_or_pin([ids.repeat_interleave(width // blocks) for ids in read], found.rows)
        made = found.rows
    else:
        made, wanted = (found.columns, found.rows) if transposed else (found.rows, found.columns)
        tracer.same_units_or_pin(read, wanted)
    if blocks > 1 and not depthwise:
        own = [tracer.block_ids(ids.view(blocks, -1), [0]) for ids in (*read, *made)]
        for other in own[1:]:
            tracer.same_unit(own[0], other)
        if not read or not made:
            tracer.pin(own, f"meets a fixed tensor in {tracer.where}")
    if bias is not None:
        tracer.same_units_or_pin(made, tracer.ids_of(bias))
    shape = [width if a == channel else 1 for a in range(call.out.dim())]
    tracer.set_ids(call.out, [ids.view(shape) for ids in made])


def _channels_of(tracer: UnitTracer, x: Tensor, channel: int) -> list[Tensor]:
    """The flat ids of the input's channels: what varies in space as well moves alike at all positions."""
    read = []
    for ids in tracer.ids_of(x):
        if channel in axes_of(ids):
            read.append(tracer.same_along(ids, sorted(axes_of(ids) - {channel})).reshape(-1))
        else:
            tracer.pin([ids], f"varies in space before a convolution in {tracer.where}")
    return read


def _weight_ids(tracer: UnitTracer, weight: Tensor, blocks: int, grouped: bool) -> _WeightIds:
    """The ids of the rows and columns of a weight; what varies on the axes of the kernel is pinned.

    Args:
        grouped: the weight is a parameter whose columns are other units in each block of rows.
    """
    found = tracer.grouped_weight_ids(weight, blocks) if grouped else tracer.ids_of(weight)
    tracer.pin([ids for ids in found if axes_of(ids) - {0, 1}], "the position in a kernel")
    if grouped:
        rows, columns = found
        return _WeightIds([rows.reshape(-1)], [_by_block(columns, blocks)])
    rows = [ids.reshape(-1) for ids in found if axes_of(ids) == {0}]
    columns = [_by_block(ids, blocks) for ids in found if axes_of(ids) in ({1}, {0, 1})]
    return _WeightIds(rows, columns)


def _by_block(columns: Tensor, blocks: int) -> Tensor:
    """The ids of a weight's columns, block after block: one for each channel on their side of the convolution."""
    flat = columns.squeeze(tuple(range(2, columns.dim())))
    if flat.shape[0] > 1:  # one row of each block
        return flat[:: flat.shape[0] // blocks].reshape(-1)
    return flat.reshape(-1).repeat(blocks)
