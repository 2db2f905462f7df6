"""C2M3 (Crisostomi et al. 2024, arXiv 2405.17897): all networks to one universe, all layers at once, by Frank-Wolfe.

weights of n networks -> for every network one permutation of every group into a basis that belongs to none of them, with a
large sum over pairs p < q and over tensors of <P_p W_p, P_q W_q>. Network q comes to p through the universe, so that
compositions round a cycle are the identity.

The sum is raised over soft permutations (the hull of those that are allowed). A step takes the gradient for all groups of all
networks, the permutations that are best under it (a linear assignment per network and family: the direction), and the best
point of the line to them. Along that line every permuted tensor is a polynomial of the step, and so is the sum: its values at
a few points determine it, and its maximum is exact. No step lowers the sum. What is soft at the end is rounded by assignment.

Blocks that may be exchanged need nothing more: a family's allowed permutations are the corners of its hull, and `assign_blocks`
finds the best corner. A grouped convolution is written out as the block-diagonal convolution that it is, on which rows and
columns are permuted each by its own matrix.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor, nn

from featviz.config import AlignConfig
from featviz.matching.assignment import Floats, assign_blocks
from featviz.matching.doubly_stochastic import matrix, mixed, sinkhorn
from featviz.matching.linear.merge import axes_by_parameter
from featviz.matching.weights import normalised
from featviz.symmetry.groups import GroupAxis, Index, PermutationGroups

STEPS = 400
TOLERANCE = 1e-6  # gain of a step, relative to the sum, under which it is idle
PATIENCE = 5  # idle steps in a row after which the ascent has converged

Soft = dict[str, Tensor]  # group -> (networks, n, n), float64: row i says from which units place i is mixed


def match_c2m3(
    models: Sequence[nn.Module],
    groups: PermutationGroups,
    config: AlignConfig,
    start: Sequence[Mapping[str, Index]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Index]], float]:
    """Match all networks by the weights alone: (each one's permutations into the universe, sum over pairs that they reach).

    The ascent begins at the identities, as in the authors' configuration, at permutations that are given, and at
    `restarts` random soft ones, the authors' other choice. What it reaches differs much from start to start; the best
    is kept.

    Args:
        config: seed and number of the random starts (`restarts`).
        start: per network the permutation of every group into one basis; the result is at least as good.
        progress: called with (starts done, starts).

    Raises:
        AlignmentError: the weights are not finite.
    """
    universe = Universe(models, groups)
    same = [{group.name: np.arange(group.size) for group in groups} for _ in models]
    begins = [hard(same), *([hard(start)] if start else [])]
    generator = torch.Generator().manual_seed(config.seed)
    begins += [scattered(universe, generator) for _ in range(config.restarts)]
    best, perms = (float(universe.objective(hard(start))), [dict(own) for own in start]) if start else (-np.inf, same)
    for done, begin in enumerate(begins):
        found = universe.best(frank_wolfe(universe, begin)[0])
        reached = float(universe.objective(hard(found)))
        if reached > best:
            best, perms = reached, found
        if progress:
            progress(done + 1, len(begins))
    return perms, best


class Universe:
    """The weights of all networks, normalised as for weight matching, and how soft permutations act on them."""

    def __init__(self, models: Sequence[nn.Module], groups: PermutationGroups) -> None:
        self.groups = groups
        self.count = len(models)
        named = [dict(model.named_parameters()) for model in models]
        self.axes: dict[str, list[tuple[str, GroupAxis]]] = {}
        self.weights: dict[str, Tensor] = {}  # (networks, ...)
        for name, owners in axes_by_parameter(groups).items():
            if name not in named[0]:
                continue  # a buffer
            depthwise = any(axis.blocks > 1 for _, axis in owners) and named[0][name].shape[1] == 1
            blocks = 1 if depthwise else max(axis.blocks for _, axis in owners)
            self.weights[name] = torch.stack([block_diagonal(normalised(own[name]), blocks) for own in named])
            self.axes[name] = [
                (group, replace(axis, blocks=1))
                for group, axis in owners
                if axis.blocks == 1 or not depthwise  # whose rows say all
            ]
        self.degree = max((len({axis.axis for _, axis in owners}) for owners in self.axes.values()), default=0)

    def permuted(self, soft: Soft) -> list[Tensor]:
        """Every tensor of all networks in the universe: (networks, elements)."""
        there = []
        for name, weight in self.weights.items():
            for group, axis in self.axes[name]:
                weight = torch.vmap(partial(mixed, axis=axis))(weight, soft[group])
            there.append(weight.flatten(1))
        return there

    def objective(self, soft: Soft) -> Tensor:
        """Sum over tensors and pairs of networks of their inner product in the universe."""
        there = self.permuted(soft)
        return sum((_pairs(tensor, tensor) for tensor in there), torch.zeros((), dtype=torch.float64))

    def gradient(self, soft: Soft) -> Soft:
        """Of the objective, for every group and network."""
        free = {name: value.detach().requires_grad_() for name, value in soft.items()}
        found = torch.autograd.grad(
            self.objective(free), list(free.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(free, found, strict=True))

    def along(self, start: Soft, end: Soft) -> Polynomial:
        """The objective on the line from `start` (0) to `end` (1), exactly."""
        points = np.linspace(0, 1, self.degree + 1)
        there = zip(*(self.permuted(between(start, end, t)) for t in points), strict=True)
        inner = sum((np.array([[float(_pairs(s, t)) for t in own] for s in own]) for own in there), np.zeros(()))
        lagrange = [Polynomial.fromroots(np.delete(points, k)) for k in range(len(points))]
        lagrange = [basis / basis(t) for basis, t in zip(lagrange, points, strict=True)]
        terms = [inner[k, j] * lagrange[k] * lagrange[j] for k, j in np.ndindex(inner.shape)]
        return sum(terms, Polynomial([0.0]))

    def best(self, values: Soft) -> list[dict[str, Index]]:
        """For every network the allowed permutations with the largest sum of `values`, the groups of a family together."""
        found: list[dict[str, Index]] = [{} for _ in range(self.count)]
        for family in self.groups.families():
            for number, perms in enumerate(found):
                parts: list[Floats] = [values[group.name][number].numpy() for group in family]
                placed = assign_blocks(parts, family[0].blocks, family[0].name)
                perms |= {group.name: perm for group, perm in zip(family, placed, strict=True)}
        return found


def frank_wolfe(universe: Universe, soft: Soft) -> tuple[Soft, list[float]]:
    """Raise the objective from soft permutations on: (those at the end, the objective at first and after every step)."""
    trace: list[float] = []
    idle = 0
    for _ in range(STEPS if universe.weights else 0):
        corner = hard(universe.best(universe.gradient(soft)))
        line = universe.along(soft, corner)
        step = highest(line)
        trace = trace or [float(line(0.0))]
        trace.append(float(line(step)))
        soft = between(soft, corner, step)
        idle = idle + 1 if trace[-1] - trace[-2] <= TOLERANCE * abs(trace[-1]) else 0
        if step == 0 or idle == PATIENCE:
            break
    return soft, trace


def scattered(universe: Universe, generator: torch.Generator) -> Soft:
    """Random soft permutations: numbers from [0, 1) scaled to rows and columns that sum to 1, blocks as wholes."""
    soft: Soft = {}
    for family in universe.groups.families():
        blocks = family[0].blocks
        outer = [_doubly_stochastic(blocks, generator) for _ in range(universe.count)]
        for group in family:
            size = group.size // blocks
            own = []
            for whole in outer:
                inner = torch.stack([_doubly_stochastic(size, generator) for _ in range(blocks**2)])
                parts = inner.view(blocks, blocks, size, size) * whole[:, :, None, None]
                own.append(parts.transpose(1, 2).reshape(group.size, group.size))
            soft[group.name] = torch.stack(own)
    return soft


def _doubly_stochastic(size: int, generator: torch.Generator) -> Tensor:
    return sinkhorn(torch.rand(size, size, generator=generator, dtype=torch.float64).clamp_min(1e-12).log())


def highest(line: Polynomial) -> float:
    """Where in [0, 1] a polynomial is largest; at 0 where it is nowhere larger than there."""
    slope = line.deriv().trim(1e-12 * np.abs(line.coef).max())
    roots = slope.roots()
    inside = [float(root.real) for root in roots if abs(root.imag) < 1e-9 and 0 < root.real < 1]
    return max([0.0, 1.0, *inside], key=line)


def between(start: Soft, end: Soft, step: float) -> Soft:
    return {name: torch.lerp(value, end[name], step) for name, value in start.items()}


def hard(perms: Sequence[Mapping[str, Index]]) -> Soft:
    """The matrices of permutations."""
    return {name: torch.stack([matrix(own[name]) for own in perms]) for name in perms[0]}


def block_diagonal(weight: Tensor, blocks: int) -> Tensor:
    """A grouped convolution's weight (rows, columns of a block, ...) as (rows, columns of all blocks, ...)."""
    if blocks == 1:
        return weight
    rows, columns = weight.shape[:2]
    whole = weight.new_zeros(blocks, rows // blocks, blocks, columns, *weight.shape[2:])
    here = torch.arange(blocks)
    whole[here, :, here] = weight.unflatten(0, (blocks, -1))
    return whole.flatten(2, 3).flatten(0, 1)


def _pairs(one: Tensor, other: Tensor) -> Tensor:
    """Sum over pairs of networks p < q of <one_p, other_q>, the mean of both ways round: (networks, elements) each."""
    return (one.sum(0) @ other.sum(0) - (one * other).sum()) / 2
