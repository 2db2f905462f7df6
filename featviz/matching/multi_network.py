"""More than two networks in one basis, cycle-consistent by construction: what Crisostomi et al. 2024 (C2M3) call the universe.

networks -> per network one permutation of every group into a common basis, with the largest sum of agreements over all pairs.
The permutation from network q to network p goes through that basis, so that compositions round a cycle are the identity.

The sum is climbed network by network, the others held: a linear assignment each, so that no step lowers it (Git Re-Basin's
MatchMany, Ainsworth et al. 2022, algorithm 3, whose mean of the others this sum is). By activations the agreement of a pair is
the sum of its matched units' correlations, measured for all pairs in one pass; by weights their inner product. Method "c2m3"
climbs the same sum of inner products as its authors do, by Frank-Wolfe over all networks and groups at once (`c2m3.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from featviz.config import AlignConfig
from featviz.data import Data
from featviz.errors import AlignmentError
from featviz.matching.activations import measure, readings
from featviz.matching.assignment import Floats, Matching, assign_blocks
from featviz.matching.c2m3 import match_c2m3
from featviz.matching.indexer import UnitIndexer
from featviz.matching.weights import Evidence, match_weights
from featviz.model_checks import check_finite, check_same_architecture, digest
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.groups import Group, Index, PermutationGroups
from featviz.symmetry.permute import permute_module

SWEEPS = 100
METHODS = ("activations", "weights", "c2m3")


@dataclass(frozen=True)
class ManyAlignment:
    """Networks in the basis of the first: `permutations[k][group][i]` is network k's unit at place i; the first one's are the
    identity.

    objective: sum of the agreements of all pairs. digests: which networks these are.
    """

    groups: PermutationGroups
    permutations: tuple[Mapping[str, Index], ...]
    method: str
    objective: float
    digests: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.permutations)

    def pair(self, first: int, second: int) -> dict[str, Index]:
        """Permutations of network `second` into the basis of network `first`, through the common one."""
        return {
            name: self.permutations[second][name][np.argsort(perm)] for name, perm in self.permutations[first].items()
        }

    def permute(self, models: Sequence[nn.Module]) -> list[nn.Module]:
        """All networks in the common basis; each computes what it did.

        Raises:
            AlignmentError: these are not the networks of this alignment.
        """
        if len(models) != len(self):
            raise AlignmentError(
                f"this alignment is of {len(self)} networks, not of {len(models)}: give the same ones."
            )
        for number, (model, wanted) in enumerate(zip(models, self.digests, strict=True)):
            if digest(model) != wanted:
                raise AlignmentError(
                    f"network {number} is not the one of this alignment: give the same ones in that order."
                )
        return [permute_module(m, self.groups, p) for m, p in zip(models, self.permutations, strict=True)]

    def members(self, layer: str, unit: int) -> tuple[int, ...]:
        """Every network's unit at the place of the first one's `unit`.

        Raises:
            UnitError: there is no such layer or unit.
        """
        indexers = [UnitIndexer(self.groups, Matching(perms, {}, {})) for perms in self.permutations]
        return tuple(int(indexer.a_to_b(layer, unit)) for indexer in indexers)


def align_many(
    models: Sequence[nn.Module],
    example_input: object,
    method: str = "activations",
    data: Data | None = None,
    seed: int = AlignConfig.seed,
    verify: bool = True,
    progress: Callable[[int, int], None] | None = None,
    restarts: int = AlignConfig.restarts,
) -> ManyAlignment:
    """Find the permutations that bring all networks into the basis of the first.

    Args:
        models: two or more networks of one architecture; left as they were.
        example_input: a batch, as for `align`.
        method: "activations" (correlations on `data`) or "weights", network by network (MatchMany of Ainsworth et al. 2022);
            "c2m3", the weights of all networks and layers at once (Crisostomi et al. 2024), from several starts, of which the
            result of "weights" is one.
        data: batches `x` or `(x, label)`, as the networks expect them.
        seed: of the order in which networks take their turns, of the starts of weight matching and of "c2m3".
        restarts: starts of weight matching, random starts of "c2m3"; the best is kept. Not used by "activations".

    Raises:
        AlignmentError: fewer than two networks, another method, or no data where it is needed.
        ModelError: the models differ in architecture, or hold NaN or Inf.
    """
    if len(models) < 2:
        raise AlignmentError(f"{len(models)} networks cannot be aligned: give two or more.")
    if method not in METHODS:
        raise AlignmentError(f"there is no method {method!r} for many networks: use one of {', '.join(METHODS)}.")
    if method == "activations" and data is None:
        raise AlignmentError("method 'activations' compares units on data: give data=..., or use 'weights' or 'c2m3'.")
    for number, model in enumerate(models):
        check_same_architecture(models[0], model)
        check_finite(model, f"network {number}")
    groups = permutation_groups(models[0], example_input, verify=verify)
    generator, config = np.random.default_rng(seed), AlignConfig("weights", seed, restarts)
    if method == "activations":
        assert data is not None
        perms, objective = _by_activations(models, groups, data, generator, progress)
    elif method == "c2m3":
        start, _ = _by_weights(models, groups, config, generator, None)
        perms, objective = match_c2m3(models, groups, config, start, progress)
    else:
        perms, objective = _by_weights(models, groups, config, generator, progress)
    back = {name: np.argsort(perm) for name, perm in perms[0].items()}
    common = tuple({name: perm[back[name]] for name, perm in own.items()} for own in perms)
    return ManyAlignment(groups, common, method, objective, tuple(digest(model) for model in models))


Perms = dict[str, Index]
Correlations = dict[tuple[int, int], Floats]  # (network, network) -> (n, n), both ways round


def _by_activations(
    models: Sequence[nn.Module],
    groups: PermutationGroups,
    data: Data,
    generator: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Perms], float]:
    """Family by family: correlations of a group do not hang on the order of the others."""
    places = readings(models[0], groups)
    unseen = next((group.name for group in groups if group.name != group.family and not places[group.name]), None)
    if unseen is not None:
        raise AlignmentError(f"no module shows the units of group {unseen}: use method='weights'.")
    moments = measure(models, places, data, progress)
    perms: list[Perms] = [{} for _ in models]
    total = 0.0
    for family in groups.families():
        units = [group for group in family if group.name != group.family]
        found: dict[str, Correlations] = {}
        for group in units:
            pairs = {pair: [m.correlation() for m in own[group.name]] for pair, own in moments.items()}
            there = {pair: np.mean(values, axis=0) for pair, values in pairs.items()}
            found[group.name] = there | {(q, p): value.T for (p, q), value in there.items()}
        total += _climb(family, units, found, perms, generator)
    return perms, total


def _climb(
    family: Sequence[Group],
    units: Sequence[Group],
    found: Mapping[str, Correlations],
    perms: list[Perms],
    generator: np.random.Generator,
) -> float:
    """Place one family of all networks, each beginning at its best match with the first; the sum over pairs that is reached."""
    blocks, count = family[0].blocks, len(perms)

    def place(network: int, others: Sequence[int]) -> None:
        gains = [
            sum(found[g.name][other, network][perms[other][g.name]] for other in others) for g in units
        ]  # (place, unit of this network)
        placed = assign_blocks([np.asarray(gain) for gain in gains], blocks, family[0].name)
        perms[network] |= {group.name: perm for group, perm in zip(units, placed, strict=True)}
        if len(units) != len(family):
            size = units[0].size // blocks
            perms[network][family[0].name] = placed[0].reshape(blocks, -1)[:, 0] // size

    def reached() -> float:
        return sum(
            float(found[g.name][p, q][perms[p][g.name], perms[q][g.name]].sum())
            for g in units for p in range(count) for q in range(p + 1, count)
        )  # fmt: skip

    perms[0] |= {group.name: np.arange(group.size) for group in family}
    for network in range(1, count):
        place(network, [0])
    best = reached()
    for _ in range(SWEEPS):
        for network in generator.permutation(count).tolist():
            place(network, [other for other in range(count) if other != network])
        now = reached()
        if now <= best + 1e-9 * abs(best):
            break
        best = now
    return max(best, reached())


def _by_weights(
    models: Sequence[nn.Module],
    groups: PermutationGroups,
    config: AlignConfig,
    generator: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Perms], float]:
    """MatchMany: network by network against the sum of the others, from its own permutation on; kept where the sum rises."""
    evidence = {
        (p, q): Evidence(models[p], models[q], groups) for p in range(len(models)) for q in range(p + 1, len(models))
    }
    perms: list[Perms] = [{group.name: np.arange(group.size) for group in groups}]
    perms += [dict(match_weights(models[0], model, groups, config).perms) for model in models[1:]]

    def reached() -> float:
        total = 0.0
        for (p, q), pair in evidence.items():
            back = {name: perms[q][name][np.argsort(perm)] for name, perm in perms[p].items()}
            total += pair.objective(back)
        return total

    best = reached()
    for sweep in range(SWEEPS):
        before = best
        for network in generator.permutation(len(models)).tolist():
            others = [
                permute_module(m, groups, p) for k, (m, p) in enumerate(zip(models, perms, strict=True)) if k != network
            ]
            kept = perms[network]
            single = AlignConfig("weights", config.seed + sweep, 1)
            matching = match_weights(_mean(others), models[network], groups, single, start=kept)
            perms[network] = dict(matching.perms)
            now = reached()
            if now <= best:
                perms[network] = kept
            else:
                best = now
        if progress:
            progress(sweep + 1, 0)
        if best <= before + config.tolerance * abs(before):
            break
    return perms, best


def _mean(models: Sequence[nn.Module]) -> nn.Module:
    """The first network with the mean of all weights in the place of its own; it is ours alone."""
    with torch.no_grad():
        for name, weight in models[0].named_parameters():
            weight.copy_(torch.stack([model.get_parameter(name) for model in models]).mean(0))
    return models[0]
