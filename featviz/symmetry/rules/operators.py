"""The rules of label propagation, operator by operator, at the level of ATen.

(propagation, operator, arguments, output) -> whether the operator is known. A rule accounts for every factor of every
argument: it passes it on, ties it, tags it, or pins it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from featviz.symmetry.propagation import FIXED, Propagation, compact, tensors_of, varies
from featviz.symmetry.rules.contractions import addmm, convolution, mm
from featviz.symmetry.rules.elementwise import pointwise
from featviz.symmetry.rules.norms import batch_norm, group_norm, layer_norm, reduce, softmax

aten = torch.ops.aten

# Operators that only move data: run on the labels as they are. Views are recognised by their schema.
MOVES = {
    aten._unsafe_view, aten.reshape, aten.roll, aten.index, aten.index_select, aten.repeat, aten.flip, aten.embedding,
    aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.repeat_interleave, aten.gather,
    aten.narrow_copy, aten.permute_copy, aten.slice_copy, aten.rot90, aten.tril, aten.triu,
}  # fmt: skip

# Elementwise on the first argument alone, though not tagged so.
PASSES = {
    aten._to_copy,
    aten.lift_fresh,
    aten.native_dropout,
    aten.contiguous,
    aten.resolve_conj,
    aten.detach_,
}

# Elementwise, though not tagged so.
POINTWISE_UNTAGGED = {aten.hardswish, aten.hardswish_, aten._prelu_kernel, aten.dropout, aten.bernoulli}

# Operators on the axes behind the channels: each channel by itself, all channels alike.
SPATIAL = {
    aten.max_pool1d_with_indices, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.max_pool2d,
    aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d,
    aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_max_pool1d, aten.adaptive_max_pool2d,
    aten.adaptive_max_pool3d, aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d,
    aten._upsample_nearest_exact1d, aten._upsample_nearest_exact2d, aten.upsample_bilinear2d,
    aten._upsample_bilinear2d_aa, aten.upsample_bicubic2d, aten._upsample_bicubic2d_aa, aten.upsample_linear1d,
    aten.upsample_trilinear3d, aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d,
    aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d,
}  # fmt: skip

REDUCTIONS = {
    aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.std, aten.prod, aten.linalg_vector_norm, aten.norm,
    aten.logsumexp, aten.nansum, aten.var_mean, aten.std_mean,
}  # fmt: skip

CONSTANT_LIKE = {
    aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.new_zeros, aten.new_ones, aten.new_full,
    aten.new_empty, aten.fill_, aten.zero_, aten.fill,
}  # fmt: skip


def propagate(mode: Propagation, func: Any, args: tuple, kwargs: dict, out: Any) -> bool:
    """Apply the rule of one operator; False where there is none."""
    packet = func.overloadpacket
    names = [a.name for a in func._schema.arguments]
    named = dict(zip(names, args, strict=False)) | kwargs
    rule = RULES.get(packet)
    if rule is not None:
        rule(mode, named, out)
    elif packet in MOVES or func.is_view:
        _move(mode, func, args, kwargs, out)
    elif packet in SPATIAL:
        _spatial(mode, named, out)
    elif packet in REDUCTIONS:
        reduce(mode, named, out)
    elif packet in PASSES:
        mode.put(tensors_of(out)[0], mode.factors(args[0]))
    elif packet in CONSTANT_LIKE:
        mode.put(out, ())
        mode.mark_constant(out)
    elif _is_pointwise(func):
        pointwise(mode, out, tensors_of((args, kwargs)))
    else:
        return False
    return True


def _is_pointwise(func: Any) -> bool:
    if func.overloadpacket in POINTWISE_UNTAGGED or torch.Tag.pointwise in func.tags:
        return True
    name = func.overloadpacket.__name__
    functional = getattr(aten, name.rstrip("_"), None) if name.endswith("_") else None
    if functional is None:
        return False
    overloads = [getattr(functional, overload) for overload in functional.overloads()]
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


def _move(mode: Propagation, func: Any, args: tuple, kwargs: dict, out: Any) -> None:
    source, rest = args[0], args[1:]
    for index in tensors_of((rest, kwargs)):
        mode.pin(mode.factors(index), f"used as an index in {mode.module or 'the network'}")
    moved: list[list[Tensor]] = []
    name = func.overloadpacket.__name__
    for factor in mode.factors(source):
        full = factor.expand(source.shape)
        if name in ("view", "_unsafe_view", "_reshape_alias"):
            result: object = full.reshape(tuple(out.shape))
        elif name == "as_strided":
            full = torch.empty_strided(source.shape, source.stride(), dtype=torch.long).copy_(full)
            result = full.as_strided(*rest, **kwargs)
        else:
            result = func(full, *rest, **kwargs)
        moved.append([compact(labels) for labels in tensors_of(result)])
    for number, tensor in enumerate(tensors_of(out)):
        mode.put(tensor, [factor[number] for factor in moved])
        if func.is_view and tensor.numel() >= source.numel():
            continue
        for before, after in zip(mode.factors(source), moved, strict=True):
            part = torch.unique(after[number])
            if 1 < len(part) < len(torch.unique(before)):
                mode.tag(part, ())  # from here on, what is taken out is treated in its own way


def _cat(mode: Propagation, named: dict, out: Tensor) -> None:
    pieces = [t for t in named["tensors"] if t.numel()]
    axis = named.get("dim", 0) % out.dim()
    factors = [mode.factors(t) for t in pieces]
    most = max(len(f) for f in factors)
    if any(len(f) not in (0, most) for f in factors) or (most > 1 and any(not f for f in factors)):
        for piece in factors:
            mode.pin(piece, f"concatenated with a tensor of other structure in {mode.module or 'the network'}")
        mode.put(out, ())
        return
    joined = []
    for number in range(most):
        ones = [f[number] if f else torch.zeros((1,) * out.dim(), dtype=torch.long) for f in factors]
        if all(f.shape == ones[0].shape and axis not in varies(f) for f in ones):
            for other in ones[1:]:
                mode.tie(ones[0], other)
            joined.append(ones[0])
        else:
            joined.append(torch.cat([f.expand(t.shape) for f, t in zip(ones, pieces, strict=True)], axis))
    mode.put(out, joined)


def _stack(mode: Propagation, named: dict, out: Tensor) -> None:
    pieces = named["tensors"]
    axis = named.get("dim", 0) % out.dim()
    factors = [mode.factors(t) for t in pieces]
    most = max(len(f) for f in factors)
    if any(len(f) != most for f in factors):
        for piece in factors:
            mode.pin(piece, f"stacked with a tensor of other structure in {mode.module or 'the network'}")
        mode.put(out, ())
        return
    joined = []
    for number in range(most):
        full = [f[number].expand(t.shape) for f, t in zip(factors, pieces, strict=True)]
        joined.append(torch.stack(full, axis))
    mode.put(out, joined)


def _pad(mode: Propagation, named: dict, out: Tensor) -> None:
    source, pads = named["self"], list(named["pad"])
    result = []
    for factor in mode.factors(source):
        axes = varies(factor)
        beside = [pad if source.dim() - 1 - i // 2 in axes else 0 for i, pad in enumerate(pads)]
        if any(beside):
            if len(axes) == 1:  # the padding is one constant: its elements may be exchanged
                shape = [out.shape[a] if a in axes else 1 for a in range(out.dim())]
                equal = mode.equal_elements(max(shape)).view(shape)
                inside = aten.constant_pad_nd(torch.ones_like(factor, dtype=torch.bool), beside, 0)
                factor = torch.where(inside, aten.constant_pad_nd(factor, beside, FIXED), equal)
            else:
                factor = aten.constant_pad_nd(factor, beside, FIXED)
        result.append(factor)
    mode.put(out, result)


def _spatial(mode: Propagation, named: dict, out: Any) -> None:
    source = named["input"] if "input" in named else named["self"]
    first = tensors_of(out)[0]
    # Channels lie before the axes whose size an operator of this kind may change: the last one to three.
    axes = [a for a in range(source.dim()) if a > (1 if source.dim() >= 3 else 0)]
    for tensor in tensors_of(out):
        factors = [mode.constant_along(f, axes) for f in mode.factors(source)] if tensor is first else ()
        mode.put(tensor, factors)


def _glu(mode: Propagation, named: dict, out: Tensor) -> None:
    dim = named.get("dim", -1) % out.dim()
    result = []
    for factor in mode.factors(named["self"]):
        if dim in varies(factor):
            value, gate = factor.chunk(2, dim)
            mode.tie(value, gate)
            factor = value
        result.append(factor)
    mode.put(out, result)


def _copy_into(mode: Propagation, named: dict, out: Tensor) -> None:
    source = named["src"]
    lead = (1,) * (out.dim() - source.dim())
    mode.put(out, [f.reshape(lead + tuple(f.shape)) for f in mode.factors(source)])


def _restride(mode: Propagation, named: dict, out: Tensor) -> None:
    # Adaptive pooling of a channels_last map restrides its result; the element order is that of the shape still.
    factors = mode.factors(named["self"])
    if all(f.dim() == out.dim() and all(a in (1, b) for a, b in zip(f.shape, out.shape, strict=True)) for f in factors):
        mode.put(out, factors)
    else:
        mode.pin(factors, f"restrided in {mode.module or 'the network'}")
        mode.put(out, ())


RULES: dict[object, Callable[[Propagation, dict, Tensor], None]] = {
    aten.copy_: _copy_into,
    aten.as_strided_: _restride,
    aten.cat: _cat,
    aten.stack: _stack,
    aten.constant_pad_nd: _pad,
    aten._softmax: softmax,
    aten._log_softmax: softmax,
    aten._safe_softmax: softmax,
    aten.glu: _glu,
    aten.convolution: convolution,
    aten._convolution: convolution,
    aten.native_batch_norm: batch_norm,
    aten._native_batch_norm_legit_no_training: batch_norm,
    aten._native_batch_norm_legit: batch_norm,
    aten._batch_norm_no_update: batch_norm,
    aten.cudnn_batch_norm: batch_norm,
    aten.native_layer_norm: layer_norm,
    aten._fused_rms_norm: layer_norm,
    aten.native_group_norm: group_norm,
    aten.mm: mm,
    aten.bmm: mm,
    aten.addmm: addmm,
    aten.baddbmm: addmm,
}
