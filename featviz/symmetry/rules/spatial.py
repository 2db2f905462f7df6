"""Rules of pooling, interpolation and reflecting padding: each channel by itself, all channels alike.

max_pool2d(x, 2), x (1, 4, 8, 8) with ids (1, 4, 1, 1): the output (1, 4, 4, 4) has the same. Units that differ from
pixel to pixel (a table of positions) must be permuted alike at all of them.
"""

import torch

from featviz.symmetry.rules.registry import Call, rule
from featviz.symmetry.unit_tracer import UnitTracer

aten = torch.ops.aten


@rule(
    aten.max_pool1d_with_indices, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.max_pool2d,
    aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d,
    aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_max_pool1d, aten.adaptive_max_pool2d,
    aten.adaptive_max_pool3d, aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d,
    aten._upsample_nearest_exact1d, aten._upsample_nearest_exact2d, aten.upsample_bilinear2d,
    aten._upsample_bilinear2d_aa, aten.upsample_bicubic2d, aten._upsample_bicubic2d_aa, aten.upsample_linear1d,
    aten.upsample_trilinear3d, aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d,
    aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d,
)  # fmt: skip
def per_channel(tracer: UnitTracer, call: Call) -> None:
    """A map of the axes behind the channels; indices that come with the output carry no ids."""
    source = call.get("input") if call.get("input") is not None else call["self"]
    # Channels lie before the axes whose size an operator of this kind may change: the last one to three.
    axes = [a for a in range(source.dim()) if a > (1 if source.dim() >= 3 else 0)]
    first, *others = call.outputs
    tracer.set_ids(first, [tracer.same_along(ids, axes) for ids in tracer.ids_of(source)])
    for tensor in others:
        tracer.set_ids(tensor, ())
