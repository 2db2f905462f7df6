"""An alignment of more than two networks, in the basis of the first; cycle-consistent by construction.

The permutation from network q to network p goes through the common basis, so that compositions round a cycle are the identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from featviz.errors import AlignmentError
from featviz.matching.assignment import Matching
from featviz.matching.indexer import UnitIndexer
from featviz.subjects import Subject, as_subject, remember_given
from featviz.symmetry.groups import Index, PermutationGroups
from featviz.symmetry.permute import permute_module
from featviz.weights.checks import digest

Perms = dict[str, Index]


@dataclass(frozen=True)
class ManyAlignment:
    """Networks in the basis of the first: `permutations[k][group][i]` is network k's unit at place i; the first one's are the
    identity.

    Args:
        objective: the sum over all pairs of what the method compares. digests: which networks these are.
    """

    groups: PermutationGroups
    permutations: tuple[Mapping[str, Index], ...]
    method: str
    objective: float
    digests: tuple[str, ...]

    def __repr__(self) -> str:
        units = self.groups.free_units
        return (
            f"ManyAlignment({len(self)} networks, {units} units in {len(self.groups)} groups, method {self.method!r})"
        )

    def __len__(self) -> int:
        return len(self.permutations)

    def pair(self, first: int, second: int) -> Perms:
        """Permutations of network `second` into the basis of network `first`, through the common one."""
        return relative_permutations(self.permutations[first], self.permutations[second])

    def permute(self, models: Sequence[nn.Module | Subject]) -> list[nn.Module]:
        """All networks in the common basis; each computes what it did, and remembers its subject's mean and std.

        Raises:
            AlignmentError: these are not the networks of this alignment.
        """
        if len(models) != len(self):
            raise AlignmentError(
                f"this alignment is of {len(self)} networks, not of {len(models)}: give the same ones."
            )
        subjects = [as_subject(model) for model in models]
        for number, (subject, wanted) in enumerate(zip(subjects, self.digests, strict=True)):
            if digest(subject.model) != wanted:
                raise AlignmentError(
                    f"network {number} is not the one of this alignment: give the same ones in that order."
                )
        made = [permute_module(s.model, self.groups, p) for s, p in zip(subjects, self.permutations, strict=True)]
        for network, subject in zip(made, subjects, strict=True):
            remember_given(network, subject)
        return made

    def members(self, layer: str, unit: int) -> tuple[int, ...]:
        """Every network's unit that corresponds to the first one's `unit`.

        Raises:
            UnitError: there is no such layer or unit.
        """
        indexers = [UnitIndexer(self.groups, Matching(perms, {}, {})) for perms in self.permutations]
        return tuple(int(indexer.a_to_b(layer, unit)) for indexer in indexers)


def relative_permutations(first: Mapping[str, Index], second: Mapping[str, Index]) -> Perms:
    """Of two networks' permutations into one basis: those that bring the second network into the first one's order."""
    return {name: second[name][np.argsort(perm)] for name, perm in first.items()}
