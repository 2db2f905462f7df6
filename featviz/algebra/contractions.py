"""Label rules for contractions: convolutions and matrix products.

What is summed over is tied on both sides, what is left goes on, and groups or batches of products hold their members.
"""

import torch
from torch import Tensor

from featviz.algebra.elementwise import pointwise, tie_or_pin
from featviz.algebra.labels import Factors, Propagation, varies


def convolution(mode: Propagation, named: dict, out: Tensor) -> None:
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
        tie_or_pin(mode, [s.repeat_interleave(out.shape[channel] // blocks) for s in streams], produced, where)
    else:
        tie_or_pin(mode, streams, wanted, where)
        if grouped:
            for labels in (*streams, *produced):
                mode.tag(labels.view(blocks, -1), [0])
    if bias is not None:
        tie_or_pin(mode, produced, list(mode.factors(bias)), where)
    shape = [out.shape[a] if a == channel else 1 for a in range(out.dim())]
    mode.put(out, [f.view(shape) for f in produced])


def _by_input(factor: Tensor, in_axis: int, blocks: int) -> Tensor:
    """Labels of a weight's input slots, in the order of the input's channels."""
    flat = factor.squeeze(tuple(range(2, factor.dim())))
    if flat.shape[0] > 1 and in_axis == 1:  # (out, in / blocks): one row of each block
        return flat[:: flat.shape[0] // blocks].reshape(-1)
    return flat.reshape(-1).repeat(blocks) if blocks > 1 else flat.reshape(-1)


def matmul(mode: Propagation, a: Tensor, b: Tensor, out: Tensor) -> Factors:
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
    tie_or_pin(mode, inner[0], inner[1], where)
    return tuple(result)


def mm(mode: Propagation, named: dict, out: Tensor) -> None:
    mode.put(out, matmul(mode, named["self"], named["mat2"], out))


def addmm(mode: Propagation, named: dict, out: Tensor) -> None:
    a, b = (named[k] for k in (("mat1", "mat2") if "mat1" in named else ("batch1", "batch2")))
    product = torch.empty_like(out)
    mode.put(product, matmul(mode, a, b, out))
    pointwise(mode, out, [named["self"], product])
