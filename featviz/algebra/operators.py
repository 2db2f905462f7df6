"""The rules of label propagation, operator by operator, at the level of ATen.

(propagation, operator, arguments, output) -> whether the operator is known. A rule accounts for every factor of every
argument: it passes it on, ties it, tags it, or pins it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from featviz.algebra.labels import FIXED, Factors, Propagation, tensors_of, varies

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
        _reduce(mode, named, out)
    elif packet in PASSES:
        mode.put(tensors_of(out)[0], mode.factors(args[0]))
    elif packet in CONSTANT_LIKE:
        mode.put(tensors_of(out)[0], ())
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


def pointwise(mode: Propagation, out: Tensor, operands: Sequence[Tensor]) -> None:
    """Elementwise after broadcasting: factors over the same axes are tied, one that meets a fixed operand is held."""
    shapes = [(1,) * (out.dim() - t.dim()) + tuple(t.shape) for t in operands]
    result: list[Tensor] = []
    owners: list[set[int]] = []
    for number, tensor in enumerate(operands):
        for factor in mode.factors(tensor):
            aligned = factor.reshape((1,) * (out.dim() - factor.dim()) + tuple(factor.shape))
            for at, other in enumerate(result):
                if other.shape == aligned.shape and number not in owners[at]:
                    mode.tie(other, aligned)
                    owners[at].add(number)
                    break
            else:
                result.append(aligned)
                owners.append({number})
    kept = []
    for factor, owner in zip(result, owners, strict=True):
        axes = varies(factor)
        held: set[int] = set()
        for number, shape in enumerate(shapes):
            if number not in owner:
                held |= {a for a in axes if shape[a] > 1 and not _uniform(mode, operands[number], a - out.dim())}
        if held == axes:
            mode.pin((factor,), f"meets a fixed tensor in {mode.module or 'the network'}")
            continue
        if held:
            mode.tag(factor, sorted(held))
        kept.append(factor)
    mode.put(out, kept)


def _uniform(mode: Propagation, tensor: Tensor, axis: int) -> bool:
    """Whether a constant has the same value all along an axis (counted from the end)."""
    return mode.is_constant(tensor) and bool((tensor == tensor.narrow(axis, 0, 1)).all())


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
        moved.append(tensors_of(result))
    for number, tensor in enumerate(tensors_of(out)):
        mode.put(tensor, [factor[number] for factor in moved])


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


def _reduce(mode: Propagation, named: dict, out: Any) -> None:
    source, outs = named["self"], tensors_of(out)
    dims = named.get("dim")
    if dims is None or dims == []:
        dims = list(range(source.dim()))
    dims = {d % source.dim() for d in ([dims] if isinstance(dims, int) else dims)}
    keep = outs[0].dim() == source.dim()
    result = []
    for factor in mode.factors(source):
        axes = varies(factor)
        if axes <= dims:
            mode.tag(factor, ())
            continue
        factor = mode.constant_along(factor, sorted(axes & dims))
        if not keep:
            factor = factor.reshape([n for a, n in enumerate(factor.shape) if a not in dims])
        result.append(factor)
    for tensor in outs:
        mode.put(tensor, result)


def _softmax(mode: Propagation, named: dict, out: Tensor) -> None:
    dim = named["dim"] % out.dim()
    for factor in mode.factors(named["self"]):
        axes = varies(factor)
        if dim in axes:
            mode.tag(factor, sorted(axes - {dim}))
    mode.put(out, mode.factors(named["self"]))


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


def _convolution(mode: Propagation, named: dict, out: Tensor) -> None:
    x, weight, bias = named["input"], named["weight"], named["bias"]
    blocks, transposed = named["groups"], named["transposed"]
    channel = x.dim() - (weight.dim() - 2) - 1
    where = mode.module or "the network"
    depthwise = blocks > 1 and not transposed and weight.shape[1] == 1 and blocks == x.shape[channel]
    grouped = blocks > 1 and not depthwise
    direct = grouped and not transposed and mode.is_parameter(weight)
    factors = mode.block_factor(weight, blocks) if direct else mode.factors(weight)
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    streams = []
    for factor in mode.factors(x):
        if channel in varies(factor):
            streams.append(mode.constant_along(factor, sorted(varies(factor) - {channel})).reshape(-1))
        else:
            mode.pin((factor,), f"varies in space before a convolution in {where}")
    produced = [f.reshape(-1) for f in factors if varies(f) == {out_axis}]
    wanted = [_by_input(f, in_axis, blocks) for f in factors if in_axis in varies(f) and varies(f) <= {0, 1}]
    mode.pin([f for f in factors if varies(f) - {0, 1}], "the position in a kernel")
    if transposed and grouped:
        mode.pin((*streams, *produced, *wanted), f"a transposed convolution with groups in {where}")
        produced = []
    elif depthwise:
        _tie_or_pin(mode, [s.repeat_interleave(out.shape[channel] // blocks) for s in streams], produced, where)
    else:
        _tie_or_pin(mode, streams, wanted, where)
        if grouped:
            for labels in (*streams, *produced):
                mode.tag(labels.view(blocks, -1), [0])
    if bias is not None:
        _tie_or_pin(mode, produced, list(mode.factors(bias)), where)
    shape = [out.shape[a] if a == channel else 1 for a in range(out.dim())]
    mode.put(out, [f.view(shape) for f in produced])


def _tie_or_pin(mode: Propagation, ones: Sequence[Tensor], others: Sequence[Tensor], where: str) -> None:
    """Tie factor by factor; where one side has none it is fixed, and holds the other."""
    if len(ones) == len(others):
        for one, other in zip(ones, others, strict=True):
            mode.tie(one, other)
    else:
        mode.pin((*ones, *others), f"meets a fixed tensor in {where}")


def _by_input(factor: Tensor, in_axis: int, blocks: int) -> Tensor:
    """Labels of a weight's input slots, in the order of the input's channels."""
    flat = factor.squeeze(tuple(range(2, factor.dim())))
    if flat.shape[0] > 1 and in_axis == 1:  # (out, in / blocks): one row of each block
        return flat[:: flat.shape[0] // blocks].reshape(-1)
    return flat.reshape(-1).repeat(blocks) if blocks > 1 else flat.reshape(-1)


def _batch_norm(mode: Propagation, named: dict, out: Any) -> None:
    x = named["input"]
    result = []
    for factor in mode.factors(x):
        if 1 in varies(factor):
            factor = mode.constant_along(factor, sorted(varies(factor) - {1}))
        result.append(factor)
    labels = [f.reshape(-1) for f in result if varies(f) == {1}]
    for name in ("weight", "bias", "running_mean", "running_var"):
        own = named.get(name)
        if own is not None:
            _tie_or_pin(mode, labels, mode.factors(own), mode.module or "the network")
    _put_first(mode, out, result)


def _layer_norm(mode: Propagation, named: dict, out: Any) -> None:
    x, shape = named["input"], named["normalized_shape"]
    normalised = set(range(x.dim() - len(shape), x.dim()))
    for factor in mode.factors(x):
        if varies(factor) & normalised:
            mode.tag(factor, sorted(varies(factor) - normalised))
    first, *_ = tensors_of(out)
    affine = [t for t in (named.get("weight"), named.get("bias")) if t is not None]
    pointwise(mode, first, [x, *affine])
    _put_first(mode, out, mode.factors(first))


def _group_norm(mode: Propagation, named: dict, out: Any) -> None:
    blocks, channels = named["group"], named["C"]
    result = []
    for factor in mode.factors(named["input"]):
        factor = mode.constant_along(factor, sorted(varies(factor) - {1}))
        if 1 < blocks < channels:
            mode.tag(factor.reshape(blocks, -1), [0])
        elif blocks == 1:
            mode.tag(factor, ())
        result.append(factor)
    labels = [f.reshape(-1) for f in result if varies(f) == {1}]
    for own in (t for t in (named.get("weight"), named.get("bias")) if t is not None):
        _tie_or_pin(mode, labels, mode.factors(own), mode.module or "the network")
    _put_first(mode, out, result)


def _put_first(mode: Propagation, out: Any, factors: Sequence[Tensor]) -> None:
    """A norm's output; the statistics that come with it carry no units."""
    first, *others = tensors_of(out)
    mode.put(first, factors)
    for tensor in others:
        mode.put(tensor, ())


def _copy_into(mode: Propagation, named: dict, out: Tensor) -> None:
    source = named["src"]
    if out.untyped_storage().nbytes() != out.numel() * out.element_size():
        mode.pin(mode.factors(source), f"written into a part of a tensor in {mode.module or 'the network'}")
        mode.put(out, ())
        return
    lead = (1,) * (out.dim() - source.dim())
    mode.put(out, [f.reshape(lead + tuple(f.shape)) for f in mode.factors(source)])


def _matmul(mode: Propagation, a: Tensor, b: Tensor, out: Tensor) -> Factors:
    """(..., n, k) x (..., k, m): contracted factors are tied, row and column factors go on, batch axes hold."""
    last = out.dim() - 1
    where = mode.module or "the network"
    inner: list[list[Tensor]] = [[], []]
    result: list[Tensor] = []
    for side, (tensor, contracted, free) in enumerate(((a, last, last - 1), (b, last - 1, last))):
        for factor in mode.factors(tensor):
            axes = varies(factor)
            batch = sorted(axes - {contracted, free})
            if contracted in axes:
                factor = mode.constant_along(factor, [free])
                inner[side].append(factor.transpose(-1, -2) if side else factor)
                if batch:
                    mode.tag(factor, batch)
            elif free in axes:
                if batch:
                    mode.tag(factor, batch)
                result.append(factor)
            else:
                mode.pin((factor,), f"permutes the batch of a product in {where}")
    _tie_or_pin(mode, inner[0], inner[1], where)
    return tuple(result)


def _mm(mode: Propagation, named: dict, out: Tensor) -> None:
    mode.put(out, _matmul(mode, named["self"], named["mat2"], out))


def _addmm(mode: Propagation, named: dict, out: Tensor) -> None:
    a, b = (named[k] for k in (("mat1", "mat2") if "mat1" in named else ("batch1", "batch2")))
    product = torch.empty_like(out)
    mode.put(product, _matmul(mode, a, b, out))
    pointwise(mode, out, [named["self"], product])


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
    aten._softmax: _softmax,
    aten._log_softmax: _softmax,
    aten._safe_softmax: _softmax,
    aten.glu: _glu,
    aten.convolution: _convolution,
    aten._convolution: _convolution,
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm,
    aten._native_batch_norm_legit: _batch_norm,
    aten._batch_norm_no_update: _batch_norm,
    aten.cudnn_batch_norm: _batch_norm,
    aten.native_layer_norm: _layer_norm,
    aten._fused_rms_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten.mm: _mm,
    aten.bmm: _mm,
    aten.addmm: _addmm,
    aten.baddbmm: _addmm,
}
