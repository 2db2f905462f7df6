"""C2M3 (Crisostomi et al. 2024, arXiv 2405.17897): all networks into one basis, all layers at once, by Frank-Wolfe.

weights of n networks -> for every network one permutation of every group into a basis that belongs to none of them (the paper's
universe), with a large sum over pairs p < q and over parameters of <P_p W_p, P_q W_q>. Network q comes into p's order through
that basis, so that compositions round a cycle are the identity.

The sum is raised over doubly stochastic matrices (the convex hull of the permutations that are allowed). A step takes the
gradient for all groups of all networks, the permutations that are best under it (a linear assignment per network and family),
and the best point of the segment to them. Along the segment every permuted parameter is a polynomial of the step, and so is the
sum: its values at a few points determine it, and its maximum is exact. No step lowers the sum. Matrices at the end are rounded
by assignment.

Blocks that may be exchanged need nothing more: a family's allowed permutations are the vertices of its hull, and
`assign_family` finds the best vertex. A grouped convolution is written out as the block-diagonal convolution that it is, on
which rows and columns are permuted each by its own matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor, nn

from featviz.config.matching_options import WeightMatchingOptions
from featviz.matching.assignment import assign_family
from featviz.matching.multi_network.alignment import Perms
from featviz.matching.multi_network.match_many import match_weights
from featviz.matching.permutation.baselines import identity
from featviz.matching.permutation.compared_weights import comparable_groups, compared, scale_free_parameters
from featviz.matching.permutation.doubly_stochastic import permutation_matrix, sinkhorn_normalize
from featviz.matching.problem import MatchingProblem
from featviz.matching.unit_axes import axes_by_parameter
from featviz.symmetry.groups import GroupAxis, Index, PermutationGroups

STEPS = 400
TOLERANCE = 1e-6  # gain of a step, relative to the sum, under which it is idle
PATIENCE = 5  # idle steps in a row after which the ascent has converged

Matrices = dict[
    str, Tensor
]  # group -> (networks, n, n), float64: row i says of which units unit i of the basis is made


def match_c2m3(problem: MatchingProblem, options: WeightMatchingOptions) -> tuple[list[Perms], float]:
    """Method "c2m3". Its result is at least as good as that of weight matching, which is one of its starts.

    Returns:
        The permutations of every network, and the sum over pairs of inner products.

    Raises:
        AlignmentError: the weights are not finite.
    """
    start, _ = match_weights(problem, options)
    return match_from_starts(problem, options, start)


def match_from_starts(
    problem: MatchingProblem, options: WeightMatchingOptions, start: Sequence[Perms] = ()
) -> tuple[list[Perms], float]:
    """Ascend from several starts, and keep the best, since what is reached differs much from start to start.

    They are the identities, as in the authors' configuration; permutations that are given; and `restarts` random doubly
    stochastic matrices, the authors' other choice.

    Args:
        start: per network the permutation of every group into one basis; the result is at least as good.
    """
    total = SumOverPairs(problem.models, comparable_groups(problem.groups, bool(options.scale_free)))
    same = [identity(problem.groups) for _ in problem.models]
    begins = [permutation_matrices(same), *([permutation_matrices(start)] if start else [])]
    generator = torch.Generator().manual_seed(problem.seed)
    begins += [random_doubly_stochastic(total, generator) for _ in range(options.restarts)]
    best, perms = -np.inf, same
    if start:
        best, perms = float(total.objective(permutation_matrices(start))), [dict(own) for own in start]
    for done, begin in enumerate(begins):
        found = total.best_permutations(frank_wolfe(total, begin)[0])
        reached = float(total.objective(permutation_matrices(found)))
        if reached > best:
            best, perms = reached, found
        if problem.progress:
            problem.progress(done + 1, len(begins))
    return perms, best


class SumOverPairs:
    """The sum over parameters and pairs of networks of <P_p W_p, P_q W_q>, of weights as weight matching compares them."""

    def __init__(self, models: Sequence[nn.Module], groups: PermutationGroups) -> None:
        self.groups = groups
        self.count = len(models)
        named = [dict(model.named_parameters()) for model in models]
        self.axes: dict[str, list[tuple[str, GroupAxis]]] = {}
        self.weights: dict[str, Tensor] = {}  # (networks, ...)
        free = scale_free_parameters(groups, {name: tuple(value.shape) for name, value in named[0].items()})
        for name, owners in axes_by_parameter(groups).items():
            if name not in named[0]:
                continue  # a buffer
            depthwise = any(axis.blocks > 1 for _, axis in owners) and named[0][name].shape[1] == 1
            blocks = 1 if depthwise else max(axis.blocks for _, axis in owners)
            dtype = torch.promote_types(named[0][name].dtype, torch.float32)
            weights = [compared(own[name], dtype, name in free).double() for own in named]
            self.weights[name] = torch.stack([block_diagonal(weight, blocks) for weight in weights])
            self.axes[name] = [
                (group, replace(axis, blocks=1))
                for group, axis in owners
                if axis.blocks == 1 or not depthwise  # whose rows say all
            ]
        self.degree = max((len({axis.axis for _, axis in owners}) for owners in self.axes.values()), default=0)

    def permuted(self, matrices: Matrices) -> list[Tensor]:
        """Every parameter of all networks in the common basis: (networks, elements)."""
        permuted = []
        for name, weight in self.weights.items():
            for group, axis in self.axes[name]:
                weight = combine_rows_of_all(weight, matrices[group], axis)
            permuted.append(weight.flatten(1))
        return permuted

    def objective(self, matrices: Matrices) -> Tensor:
        """The sum, at these matrices."""
        terms = (_over_pairs(tensor) for tensor in self.permuted(matrices))
        return sum(terms, torch.zeros((), dtype=torch.float64))

    def gradient(self, matrices: Matrices) -> Matrices:
        """Of the objective, for every group and network."""
        free = {name: value.detach().requires_grad_() for name, value in matrices.items()}
        found = torch.autograd.grad(
            self.objective(free), list(free.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(free, found, strict=True))

    def on_segment(self, start: Matrices, end: Matrices) -> Polynomial:
        """The objective on the segment from `start` (0) to `end` (1), exactly."""
        points = np.linspace(0, 1, self.degree + 1)
        permuted = zip(*(self.permuted(interpolate(start, end, t)) for t in points), strict=True)
        inner = np.zeros((len(points), len(points)))
        for own in permuted:
            at = torch.stack(own)  # (points, networks, elements)
            inner += (_gram(at.sum(1)) - _gram(at.flatten(1))).numpy() / 2
        lagrange = [Polynomial.fromroots(np.delete(points, k)) for k in range(len(points))]
        lagrange = [basis / basis(t) for basis, t in zip(lagrange, points, strict=True)]
        terms = [inner[k, j] * lagrange[k] * lagrange[j] for k, j in np.ndindex(inner.shape)]
        return sum(terms, Polynomial([0.0]))

    def best_permutations(self, values: Matrices) -> list[Perms]:
        """For every network the allowed permutations with the largest sum of `values`, the groups of a family together."""
        found: list[Perms] = [{} for _ in range(self.count)]
        for family in self.groups.families():
            for number, perms in enumerate(found):
                perms |= assign_family(family, {group.name: values[group.name][number].numpy() for group in family})
        return found


def frank_wolfe(total: SumOverPairs, matrices: Matrices) -> tuple[Matrices, list[float]]:
    """Raise the sum from these matrices on: (those at the end, the sum at first and after every step)."""
    trace: list[float] = []
    idle = 0
    for _ in range(STEPS if total.weights else 0):
        vertex = permutation_matrices(total.best_permutations(total.gradient(matrices)))
        segment = total.on_segment(matrices, vertex)
        step = argmax_on_unit_interval(segment)
        trace = trace or [float(segment(0.0))]
        trace.append(float(segment(step)))
        matrices = interpolate(matrices, vertex, step)
        idle = idle + 1 if trace[-1] - trace[-2] <= TOLERANCE * abs(trace[-1]) else 0
        if step == 0 or idle == PATIENCE:
            break
    return matrices, trace


def random_doubly_stochastic(total: SumOverPairs, generator: torch.Generator) -> Matrices:
    """Numbers from [0, 1) scaled to rows and columns that sum to 1, blocks as wholes."""
    matrices: Matrices = {}
    for family in total.groups.families():
        blocks = family[0].blocks
        outer = [_doubly_stochastic(blocks, generator) for _ in range(total.count)]
        for group in family:
            size = group.size // blocks
            own = []
            for whole in outer:
                inner = torch.stack([_doubly_stochastic(size, generator) for _ in range(blocks**2)])
                parts = inner.view(blocks, blocks, size, size) * whole[:, :, None, None]
                own.append(parts.transpose(1, 2).reshape(group.size, group.size))
            matrices[group.name] = torch.stack(own)
    return matrices


def _doubly_stochastic(size: int, generator: torch.Generator) -> Tensor:
    return sinkhorn_normalize(torch.rand(size, size, generator=generator, dtype=torch.float64).clamp_min(1e-12).log())


def argmax_on_unit_interval(polynomial: Polynomial) -> float:
    """Where in [0, 1] a polynomial is largest; at 0 where it is nowhere larger than there."""
    slope = polynomial.deriv().trim(1e-12 * np.abs(polynomial.coef).max())
    roots = slope.roots()
    inside = [float(root.real) for root in roots if abs(root.imag) < 1e-9 and 0 < root.real < 1]
    return max([0.0, 1.0, *inside], key=polynomial)


def interpolate(start: Matrices, end: Matrices, step: float) -> Matrices:
    """The matrices at `step` of the way from `start` (0) to `end` (1)."""
    return {name: torch.lerp(value, end[name], step) for name, value in start.items()}


def permutation_matrices(perms: Sequence[Mapping[str, Index]]) -> Matrices:
    """The matrices of permutations."""
    return {name: torch.stack([permutation_matrix(own[name]) for own in perms]) for name in perms[0]}


def combine_rows_of_all(weight: Tensor, matrices: Tensor, axis: GroupAxis) -> Tensor:
    """`combine_rows` of every network at once, on an axis without blocks: (networks, ...) with (networks, units, units)."""
    rows = weight.movedim(1 + axis.axis, 1)
    size, copies = axis.index.shape
    own = axis.index.reshape(-1)
    whole = len(own) == rows.shape[1] and (np.diff(own) == 1).all()
    moved = rows if whole else rows[:, torch.from_numpy(own)]
    combined = (matrices @ moved.reshape(len(rows), size, -1)).reshape(len(rows), size * copies, *rows.shape[2:])
    if not whole:
        combined = rows.index_copy(1, torch.from_numpy(own), combined)
    return combined.movedim(1, 1 + axis.axis)


def block_diagonal(weight: Tensor, blocks: int) -> Tensor:
    """A grouped convolution's weight (rows, columns of a block, ...) as (rows, columns of all blocks, ...)."""
    if blocks == 1:
        return weight
    rows, columns = weight.shape[:2]
    whole = weight.new_zeros(blocks, rows // blocks, blocks, columns, *weight.shape[2:])
    here = torch.arange(blocks)
    whole[here, :, here] = weight.unflatten(0, (blocks, -1))
    return whole.flatten(2, 3).flatten(0, 1)


def _over_pairs(parameter: Tensor) -> Tensor:
    """Sum over pairs of networks p < q of <parameter_p, parameter_q>: (networks, elements)."""
    return (parameter.sum(0).square().sum() - parameter.square().sum()) / 2


def _gram(rows: Tensor) -> Tensor:
    """Inner products of all pairs of rows."""
    return rows @ rows.T
