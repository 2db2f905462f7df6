"""Rules of norms, softmax and reductions: what is summed over as a whole is a block; its units may be exchanged.

x.mean((2, 3)), ids (1, 4, 1, 1): the axes of the mean have no ids, and the channels' go on as (1, 4).
x.sum(1): channels 1 2 3 4 may be exchanged with each other, and with nothing else: they are one block.
GroupNorm(2, 4): channels 1 2 and 3 4 are two blocks, and the weight's ids are the same units as the channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from featviz.symmetry.rules.elementwise import combine
from featviz.symmetry.rules.registry import Call, rule
from featviz.symmetry.unit_tracer import UnitTracer, axes_of

aten = torch.ops.aten
BATCH_NORMS = (
    aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten._native_batch_norm_legit,
    aten._batch_norm_no_update, aten.cudnn_batch_norm,
)  # fmt: skip


@rule(
    aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.std, aten.prod, aten.linalg_vector_norm, aten.norm,
    aten.logsumexp, aten.nansum, aten.var_mean, aten.std_mean,
)  # fmt: skip
def reduction(tracer: UnitTracer, call: Call) -> None:
    """A symmetric function of all elements along `dim` (of the whole tensor where it is None or empty)."""
    source, outs = call["self"], call.outputs
    dims = call.get("dim")
    if dims is None or dims == []:
        dims = list(range(source.dim()))
    dims = {d % source.dim() for d in ([dims] if isinstance(dims, int) else dims)}
    keeps_axes = outs[0].dim() == source.dim()
    found = []
    for ids in tracer.ids_of(source):
        axes = axes_of(ids)
        if axes <= dims:
            tracer.block_ids(ids, ())
            continue
        if axes & dims:
            ids = tracer.block_ids(ids, sorted(axes - dims))
        if not keeps_axes:
            ids = ids.reshape([n for a, n in enumerate(ids.shape) if a not in dims])
        found.append(ids)
    for out in outs:
        tracer.set_ids(out, found)


@rule(aten._softmax, aten._log_softmax, aten._safe_softmax)
def softmax(tracer: UnitTracer, call: Call) -> None:
    """Each element over the sum along `dim`: that axis is a block."""
    dim = call["dim"] % call.out.dim()
    for ids in tracer.ids_of(call["self"]):
        if dim in axes_of(ids):
            tracer.block_ids(ids, sorted(axes_of(ids) - {dim}))
    tracer.set_ids(call.out, tracer.ids_of(call["self"]))


@rule(*BATCH_NORMS)
def batch_norm(tracer: UnitTracer, call: Call) -> None:
    """Each channel by itself; weight, bias and running statistics have its units."""
    found = []
    for ids in tracer.ids_of(call["input"]):
        if 1 in axes_of(ids):
            ids = tracer.same_along(ids, sorted(axes_of(ids) - {1}))
        found.append(ids)
    _same_as_affine(tracer, call, found, ("weight", "bias", "running_mean", "running_var"))
    _set_first(tracer, call, found)


@rule(aten.native_layer_norm, aten._fused_rms_norm)
def layer_norm(tracer: UnitTracer, call: Call) -> None:
    """The normalised axes (the last ones) are a block; then an elementwise product with the weight, and a sum with the
    bias.
    """
    x, shape = call["input"], call["normalized_shape"]
    normalised = set(range(x.dim() - len(shape), x.dim()))
    for ids in tracer.ids_of(x):
        if axes_of(ids) & normalised:
            tracer.block_ids(ids, sorted(axes_of(ids) - normalised))
    first = call.outputs[0]
    affine = [t for t in (call.get("weight"), call.get("bias")) if t is not None]
    combine(tracer, first, [x, *affine])
    _set_first(tracer, call, tracer.ids_of(first))


@rule(aten.native_group_norm)
def group_norm(tracer: UnitTracer, call: Call) -> None:
    """Each group of channels is a block; an InstanceNorm (as many groups as channels) leaves them free."""
    blocks, channels = call["group"], call["C"]
    found = []
    for ids in tracer.ids_of(call["input"]):
        ids = tracer.same_along(ids, sorted(axes_of(ids) - {1}))
        if blocks < channels and 1 in axes_of(ids):
            tracer.block_ids(ids.reshape(blocks, -1), [0])
        found.append(ids)
    _same_as_affine(tracer, call, found, ("weight", "bias"))
    _set_first(tracer, call, found)


@rule(aten._weight_norm_interface)
def weight_norm(tracer: UnitTracer, call: Call) -> None:
    """weight = g * v / |v|, the norm over all axes but `dim` (Salimans & Kingma 2016): each axis of v that is summed
    over is a block.
    """
    v, dim = call["v"], call["dim"] % call["v"].dim()
    for ids in tracer.ids_of(v):
        if axes_of(ids) != {dim}:
            tracer.block_ids(ids, [dim])
    weight, norm = call.out
    combine(tracer, weight, [v, call["g"]])
    tracer.set_ids(norm, ())


def _same_as_affine(tracer: UnitTracer, call: Call, found: Sequence[Tensor], names: Sequence[str]) -> None:
    """The channels are the units of the norm's vectors."""
    channels = [ids.reshape(-1) for ids in found if axes_of(ids) == {1}]
    for vector in (call.get(name) for name in names):
        if vector is not None:
            tracer.same_units_or_pin(channels, tracer.ids_of(vector))


def _set_first(tracer: UnitTracer, call: Call, found: Sequence[Tensor]) -> None:
    """The ids of a norm's output; the statistics that come with it carry none."""
    first, *others = call.outputs
    tracer.set_ids(first, found)
    for tensor in others:
        tracer.set_ids(tensor, ())
