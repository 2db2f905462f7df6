"""Label rules for elementwise operators: factors over the same axes move together, and a fixed partner holds."""

from collections.abc import Sequence

from torch import Tensor

from featviz.symmetry.propagation import Propagation, varies


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
    _nest(mode, result, owners)
    kept = []
    for factor, owner in zip(result, owners, strict=True):
        axes = varies(factor)
        held: set[int] = set()
        for number, shape in enumerate(shapes):
            if number not in owner:
                held |= {a for a in axes if shape[a] > 1 and not uniform(mode, operands[number], a - out.dim())}
        if held == axes:
            mode.pin((factor,), f"meets a fixed tensor in {mode.module or 'the network'}")
            continue
        if held:
            mode.pin((mode.tag(factor, sorted(held)),), f"meets a fixed tensor in {mode.module or 'the network'}")
        kept.append(factor)
    mode.put(out, kept)


def _nest(mode: Propagation, factors: list[Tensor], owners: list[set[int]]) -> None:
    """Factors of different operands, one over some of the other's axes: of (heads, coordinates) and (heads,) the second moves
    with the sets of the first, of (heads, coordinates) and (coordinates,) all heads move alike. In place."""
    for small in sorted(range(len(factors)), key=lambda number: len(varies(factors[number]))):
        for big in range(len(factors)):
            inner, outer = varies(factors[small]), varies(factors[big])
            if not inner < outer or owners[small] & owners[big]:
                continue
            if max(inner) < min(outer - inner):
                mode.tie(mode.tag(factors[big], sorted(inner)), factors[small])
                owners[big] |= owners[small]
                factors[small], owners[small] = factors[big], owners[big]
            else:
                mode.tie(factors[big], factors[small])
                owners[small] |= owners[big]
                factors[big], owners[big] = factors[small], owners[small]
    alone = [n for n in range(len(factors)) if not any(factors[n] is factors[m] for m in range(n))]
    factors[:], owners[:] = [factors[n] for n in alone], [owners[n] for n in alone]


def uniform(mode: Propagation, tensor: Tensor, axis: int) -> bool:
    """Whether a constant has the same value all along an axis (counted from the end)."""
    return mode.is_constant(tensor) and bool((tensor == tensor.narrow(axis, 0, 1)).all())


def tie_or_pin(mode: Propagation, ones: Sequence[Tensor], others: Sequence[Tensor], where: str) -> None:
    """Tie factor by factor; where one side has none it is fixed, and holds the other."""
    if len(ones) == len(others):
        for one, other in zip(ones, others, strict=True):
            mode.tie(one, other)
    else:
        mode.pin((*ones, *others), f"meets a fixed tensor in {where}")
