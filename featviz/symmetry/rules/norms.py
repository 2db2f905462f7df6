"""Label rules for norms, softmax and reductions: a set that is summed over as a whole may be permuted within."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from featviz.symmetry.propagation import Propagation, tensors_of, varies
from featviz.symmetry.rules.elementwise import pointwise, tie_or_pin


def reduce(mode: Propagation, named: dict, out: Any) -> None:
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
        if axes & dims:
            factor = mode.tag(factor, sorted(axes - dims))
        if not keep:
            factor = factor.reshape([n for a, n in enumerate(factor.shape) if a not in dims])
        result.append(factor)
    for tensor in outs:
        mode.put(tensor, result)


def softmax(mode: Propagation, named: dict, out: Tensor) -> None:
    dim = named["dim"] % out.dim()
    for factor in mode.factors(named["self"]):
        axes = varies(factor)
        if dim in axes:
            mode.tag(factor, sorted(axes - {dim}))
    mode.put(out, mode.factors(named["self"]))


def batch_norm(mode: Propagation, named: dict, out: Any) -> None:
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
            tie_or_pin(mode, labels, mode.factors(own), mode.module or "the network")
    _put_first(mode, out, result)


def layer_norm(mode: Propagation, named: dict, out: Any) -> None:
    x, shape = named["input"], named["normalized_shape"]
    normalised = set(range(x.dim() - len(shape), x.dim()))
    for factor in mode.factors(x):
        if varies(factor) & normalised:
            mode.tag(factor, sorted(varies(factor) - normalised))
    first, *_ = tensors_of(out)
    affine = [t for t in (named.get("weight"), named.get("bias")) if t is not None]
    pointwise(mode, first, [x, *affine])
    _put_first(mode, out, mode.factors(first))


def group_norm(mode: Propagation, named: dict, out: Any) -> None:
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
        tie_or_pin(mode, labels, mode.factors(own), mode.module or "the network")
    _put_first(mode, out, result)


def _put_first(mode: Propagation, out: Any, factors: Sequence[Tensor]) -> None:
    """A norm's output; the statistics that come with it carry no units."""
    first, *others = tensors_of(out)
    mode.put(first, factors)
    for tensor in others:
        mode.put(tensor, ())
