"""Label rules for contractions: convolutions and matrix products.

What is summed over is tied on both sides, what is left goes on. A grouped convolution's blocks and the batch of a product
are sets: their labels are tied on both sides, too, so that whole blocks (heads) may be exchanged.
"""

import torch
from torch import Tensor

from featviz.symmetry.propagation import Factors, Propagation, varies
from featviz.symmetry.rules.elementwise import pointwise, tie_or_pin, uniform


def convolution(mode: Propagation, named: dict, out: Tensor) -> None:
    x, weight, bias = named["input"], named["weight"], named["bias"]
    blocks, transposed = named["groups"], named["transposed"]
    channel = x.dim() - (weight.dim() - 2) - 1
    where = mode.module or "the network"
    single = 1 < blocks == x.shape[channel]  # each input channel has a kernel, or several, of its own
    direct = blocks > 1 and mode.is_parameter(weight) and not (single and blocks == out.shape[channel])
    depthwise = single and not direct and (blocks == out.shape[channel] or not transposed)
    factors = mode.block_factor(weight, blocks) if direct else mode.factors(weight)
    streams = []
    for factor in mode.factors(x):
        if channel in varies(factor):
            streams.append(mode.constant_along(factor, sorted(varies(factor) - {channel})).reshape(-1))
        else:
            mode.pin((factor,), f"varies in space before a convolution in {where}")
    if direct:
        rows, columns = [factors[0].reshape(-1)], [_by_block(factors[1], blocks)]
    else:
        rows = [f.reshape(-1) for f in factors if varies(f) == {0}]
        columns = [_by_block(f, blocks) for f in factors if 1 in varies(f) and varies(f) <= {0, 1}]
    produced, wanted = (columns, rows) if transposed else (rows, columns)
    mode.pin([f for f in factors if varies(f) - {0, 1}], "the position in a kernel")
    if depthwise:
        tie_or_pin(mode, [labels.repeat_interleave(out.shape[channel] // blocks) for labels in streams], rows, where)
        produced = rows
    else:
        tie_or_pin(mode, streams, wanted, where)
    if blocks > 1 and not depthwise:
        sets = [mode.tag(labels.view(blocks, -1), [0]) for labels in (*streams, *produced)]
        for other in sets[1:]:
            mode.tie(sets[0], other)
        if not streams or not produced:
            mode.pin(sets, f"meets a fixed tensor in {where}")
    if bias is not None:
        tie_or_pin(mode, produced, list(mode.factors(bias)), where)
    shape = [out.shape[a] if a == channel else 1 for a in range(out.dim())]
    mode.put(out, [f.view(shape) for f in produced])


def _by_block(factor: Tensor, blocks: int) -> Tensor:
    """Labels of a weight's columns, block after block: those of the channels on their side."""
    flat = factor.squeeze(tuple(range(2, factor.dim())))
    if flat.shape[0] > 1:  # one row of each block
        return flat[:: flat.shape[0] // blocks].reshape(-1)
    return flat.reshape(-1).repeat(blocks)


def matmul(mode: Propagation, a: Tensor, b: Tensor, out: Tensor) -> Factors:
    """(..., n, k) x (..., k, m): contracted factors are tied, row and column factors go on, batches are sets."""
    last = out.dim() - 1
    where = mode.module or "the network"
    inner: tuple[list[Tensor], list[Tensor]] = ([], [])
    sets: tuple[list[Tensor], list[Tensor]] = ([], [])
    result: list[Tensor] = []
    for side, (tensor, contracted, free) in enumerate(((a, last, last - 1), (b, last - 1, last))):
        for factor in mode.factors(tensor):
            axes = varies(factor)
            batch = axes - {contracted, free}
            if contracted in axes:
                factor = mode.constant_along(factor, [free])
                inner[side].append(factor.transpose(-1, -2) if side else factor)
            elif free in axes:
                result.append(factor)
            else:
                sets[side].append(factor)
                continue
            if batch:
                sets[side].append(mode.tag(factor, batch))
    tie_or_pin(mode, *inner, where)
    result += _batches(mode, (a, b), sets, carried=[f for f in result if varies(f) - {last, last - 1}])
    return tuple(result)


def _batches(
    mode: Propagation, operands: tuple[Tensor, Tensor], sets: tuple[list[Tensor], list[Tensor]], carried: list[Tensor]
) -> list[Tensor]:
    """Tie the batches of both sides; their label goes on where no row or column factor carries it."""
    both = [*sets[0], *sets[1]]
    if not both:
        return []
    for mine, other in ((sets[0], operands[1]), (sets[1], operands[0])):
        theirs = sets[1] if mine is sets[0] else sets[0]
        axes = {axis for labels in mine for axis in varies(labels)}
        fixed = any(other.shape[a] > 1 and not uniform(mode, other, a - other.dim()) for a in axes)
        if mine and not theirs and fixed:
            mode.pin(both, f"meets a fixed tensor in {mode.module or 'the network'}")
            return []
    if any(labels.shape != both[0].shape for labels in both):
        mode.pin(both, f"batches of different structure in {mode.module or 'the network'}")
        return []
    for labels in both[1:]:
        mode.tie(both[0], labels)
    return [] if carried else both[:1]


def mm(mode: Propagation, named: dict, out: Tensor) -> None:
    mode.put(out, matmul(mode, named["self"], named["mat2"], out))


def addmm(mode: Propagation, named: dict, out: Tensor) -> None:
    a, b = (named[k] for k in (("mat1", "mat2") if "mat1" in named else ("batch1", "batch2")))
    product = torch.empty_like(out)
    mode.put(product, matmul(mode, a, b, out))
    pointwise(mode, out, [named["self"], product])
