"""An alignment: how B's units correspond to A's, with everything needed to use it again.

`PermutationAlignment`: every unit of A has one partner in B. `LinearAlignment`: merged units combine units of both networks.
`featviz.align` finds one; `alignment.save(path)` and `featviz.load_alignment(path)` keep it in a safetensors file.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from featviz.errors import AlignmentError
from featviz.matching.alignment_file import Arrays, read_alignment_file, write_alignment_file
from featviz.matching.assignment import Floats, Matching
from featviz.matching.indexer import LinearUnitIndexer, UnitIndexer
from featviz.matching.linear.combination import PARENTS, LinearCombination, combination_of_permutations
from featviz.matching.shared_parts import Private, groups_for_matching
from featviz.matching.stored_groups import as_numbers, check_floats, check_permutations
from featviz.subjects import Subject, as_subject, remember_given
from featviz.symmetry.groups import Index, PermutationGroups
from featviz.symmetry.permute import permute_module
from featviz.symmetry.shared_groups import SharedGroups
from featviz.weights.checks import digest
from featviz.weights.tensors import named_tensors


@dataclass(frozen=True)
class Alignment(ABC):
    """How the units of network B correspond to those of A.

    Args:
        groups: which units are interchangeable, and what moves with each.
        method, seed: how it was found.
        digest_a, digest_b: which two networks it belongs to.
        parts: what the networks share, where they differ or are spelled otherwise; None for two of one architecture.
    """

    groups: PermutationGroups
    method: str
    seed: int
    digest_a: str
    digest_b: str
    parts: SharedGroups | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        units = self.groups.free_units
        return f"{type(self).__name__}({units} units in {len(self.groups)} groups, method {self.method!r}, seed {self.seed})"

    @property
    def groups_b(self) -> PermutationGroups:
        """The same groups as `groups`, with the axes and modules of B, by B's names."""
        return self.groups if self.parts is None else self.parts.b

    @property
    def head(self) -> str | None:
        """`head` of `featviz.merge` for a merge that keeps A's parts: "a" where the networks differ, else None."""
        return "a" if any(self.private) else None

    @property
    def private(self) -> Private:
        """`private.a` and `private.b`: the parameters and buffers of one network alone, each by its own names."""
        return Private((), ()) if self.parts is None else Private(self.parts.private_a, self.parts.private_b)

    @property
    def shared_parameters(self) -> Mapping[str, str] | None:
        """A's name -> B's name of every parameter and buffer that both have; None: all, under equal names."""
        return None if self.parts is None else self.parts.shared

    @property
    @abstractmethod
    def scores(self) -> Mapping[str, Floats]:
        """Per group (n,), how alike the matched units are, in [-1, 1]."""

    @cached_property
    @abstractmethod
    def indexer(self) -> UnitIndexer:
        """Every question about correspondence, for any named module."""

    @property
    @abstractmethod
    def permutations(self) -> Mapping[str, Index]:
        """Per group the permutation. A `LinearAlignment` has none and raises AlignmentError."""

    @abstractmethod
    def permute(self, model_b: nn.Module | Subject) -> nn.Module:
        """B', B in A's order. A `LinearAlignment` has none and raises AlignmentError."""

    @abstractmethod
    def as_combination(self) -> LinearCombination:
        """How the units of an equal merge are made of the parents' units."""

    @abstractmethod
    def _content(self) -> tuple[Arrays, dict[str, Any]]:
        """For the file: arrays, and what else is needed to make the alignment again."""

    def check(self, model_a: nn.Module | Subject, model_b: nn.Module | Subject) -> None:
        """Make sure that this alignment belongs to these two networks.

        Raises:
            AlignmentError: a digest differs, or the groups own what the networks do not have.
        """
        a, b = as_subject(model_a).model, as_subject(model_b).model
        check_digest("A", digest(a), self.digest_a)
        check_digest("B", digest(b), self.digest_b)
        check_axes(self.groups, a)
        check_axes(self.groups_b, b)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, which `featviz.load_alignment` reads.

        Raises:
            OutputError: it cannot be written there.
        """
        header = {"method": self.method, "seed": str(self.seed), "digest_a": self.digest_a, "digest_b": self.digest_b}
        write_alignment_file(path, self.parts or self.groups, header, *self._content())


@dataclass(frozen=True, repr=False)
class PermutationAlignment(Alignment):
    """B's units in A's order: `permutations[group][i]` is the unit of B that corresponds to A's unit i, B'[i] = B[perm[i]].

    Args:
        matching: permutations, scores and margins per group, and what each start of the method reached.
    """

    matching: Matching

    @property
    def permutations(self) -> Mapping[str, Index]:
        """Per group (n,): the unit of B at each unit of A."""
        return self.matching.perms

    @property
    def scores(self) -> Mapping[str, Floats]:
        """Per group (n,): similarity of A's unit and its partner, a correlation (by activations) or cosine (by weights)."""
        return self.matching.scores

    @property
    def margins(self) -> Mapping[str, Floats]:
        """Per group (n,): the lead of the score over that of the best other candidate."""
        return self.matching.margins

    @cached_property
    def indexer(self) -> UnitIndexer:
        """Every question about correspondence, for any named module at which both networks show the same units."""
        if self.parts is None:
            return UnitIndexer(self.groups, self.matching)
        common = groups_for_matching(self.parts)
        return UnitIndexer(common, self.matching, set(self.groups.layers) - set(common.layers))

    @property
    def moved_units(self) -> int:
        """How many units, of groups that own parameters, stand at another index in B' than in B."""
        return sum(int((self.permutations[g.name] != np.arange(g.size)).sum()) for g in self.groups if g.axes)

    def permute(self, model_b: nn.Module | Subject) -> nn.Module:
        """B': a copy of `model_b` with its units in A's order. It computes the same function as `model_b`, and
        remembers a subject's mean and std.

        What is private to B moves along the axes that it shares with the groups, such as the input of its own head.

        Raises:
            AlignmentError: `model_b` is not the B of this alignment, or the groups own what it does not have.
        """
        network = as_subject(model_b).model
        check_digest("B", digest(network), self.digest_b)
        check_axes(self.groups_b, network)
        made = permute_module(network, self.groups_b, self.permutations)
        remember_given(made, as_subject(model_b))
        return made

    def as_combination(self) -> LinearCombination:
        """I/2 and P/2, I and P^T in every group."""
        return combination_of_permutations(self.permutations)

    def _content(self) -> tuple[Arrays, dict[str, Any]]:
        matching = self.matching
        kinds = {"permutation": matching.perms, "score": matching.scores, "margin": matching.margins}
        arrays = {f"{kind}/{group.name}": values[group.name] for group in self.groups for kind, values in kinds.items()}
        return arrays, {"objectives": list(matching.objectives), "mixing": False}


@dataclass(frozen=True, repr=False)
class LinearAlignment(Alignment):
    """Merged units that combine several units of A and of B; `indexer.members(layer, unit)` tells which.

    Args:
        combination: how merged units are made of the parents' units and read by them, per group.
    """

    combination: LinearCombination

    @property
    def scores(self) -> Mapping[str, Floats]:
        """Per group (n,): correlation of A's and B's parts of each merged unit."""
        return self.combination.scores

    @cached_property
    def indexer(self) -> UnitIndexer:
        """The members of merged units, for any named module."""
        return LinearUnitIndexer(self.groups, self.combination)

    @property
    def permutations(self) -> Mapping[str, Index]:
        raise self._has_no("permutations")

    def permute(self, model_b: nn.Module | Subject) -> nn.Module:
        raise self._has_no("permuted B")

    def as_combination(self) -> LinearCombination:
        """`combination`."""
        return self.combination

    def _has_no(self, what: str) -> AlignmentError:
        return AlignmentError(
            f"method {self.method!r} combines units and has no {what}: ask for indexer.members, or align by 'activations'."
        )

    def _content(self) -> tuple[Arrays, dict[str, Any]]:
        arrays: Arrays = {}
        for name in (group.name for group in self.groups):
            arrays[f"score/{name}"] = self.scores[name]
            for number, parent in enumerate(PARENTS):
                arrays[f"merge/{parent}/{name}"] = self.combination.merge[name][number]
                arrays[f"split/{parent}/{name}"] = self.combination.unmerge[name][number]
        return arrays, {"objectives": [], "mixing": True}


def load_alignment(path: str | Path) -> Alignment:
    """Read what `Alignment.save` wrote, in this version of featviz or an earlier one.

    Raises:
        AlignmentError: there is no such file, it is damaged, or it is no alignment.
    """
    groups, metadata, arrays, structure = read_alignment_file(path)
    try:
        parts = groups if isinstance(groups, SharedGroups) else None
        groups = groups.a if isinstance(groups, SharedGroups) else groups
        known = (groups, metadata["method"], int(metadata["seed"]), metadata["digest_a"], metadata["digest_b"])
        names = [group.name for group in groups]
        if structure.get("mixing", False):  # files of the first versions hold permutations and do not say so
            merge, unmerge = (
                {name: (arrays[f"{kind}/A/{name}"], arrays[f"{kind}/B/{name}"]) for name in names}
                for kind in ("merge", "split")
            )
            scores = {name: arrays[f"score/{name}"] for name in names}
            for number in (0, 1):
                check_floats(groups, "merge", {name: pair[number] for name, pair in merge.items()}, axes=2)
                check_floats(groups, "split", {name: pair[number] for name, pair in unmerge.items()}, axes=2)
            check_floats(groups, "score", scores)
            return LinearAlignment(*known, LinearCombination(merge, unmerge, scores))
        perms, scores, margins = (
            {name: arrays[f"{kind}/{name}"] for name in names} for kind in ("permutation", "score", "margin")
        )
        check_permutations(groups, perms)
        check_floats(groups, "score", scores)
        check_floats(groups, "margin", margins)
        matching = Matching(perms, scores, margins, as_numbers(structure["objectives"]))
        return PermutationAlignment(*known, matching, parts=parts)
    except KeyError as error:
        raise AlignmentError(f"{path} lacks {error}, so another version of featviz wrote it: make it again.") from error
    except ValueError as error:
        raise AlignmentError(f"{path} is damaged ({error}): make it again.") from error


def check_digest(which: str, found: str, wanted: str) -> None:
    """Raise AlignmentError where the digest of model A or B (`which`) is not the one that was wanted."""
    if found != wanted:
        raise AlignmentError(
            f"this alignment belongs to another model {which} (digest {wanted[:12]}, the model at hand has {found[:12]}): "
            "align these two models, or give the checkpoints that it was made from."
        )


def check_axes(groups: PermutationGroups, model: nn.Module) -> None:
    """Raise AlignmentError where a group owns a parameter, an axis or an index that the network does not have."""
    tensors = named_tensors(model)
    for group in groups:
        for axis in group.axes:
            shape: tuple[int, ...] = tuple(tensors[axis.parameter].shape) if axis.parameter in tensors else ()
            most = shape[axis.axis] * axis.blocks if axis.axis < len(shape) else 0
            if axis.blocks > 1 and (axis.axis != 1 or len(shape) < 2 or shape[0] % axis.blocks):
                most = 0  # blocks are those of a grouped convolution's weight
            if axis.index.size and axis.index.max() >= most:
                raise AlignmentError(
                    f"group {group.name} owns index {axis.index.max()} on axis {axis.axis} of {axis.parameter} "
                    f"(in {axis.blocks} blocks), which the network does not have, so the alignment's file is damaged: align "
                    "these two networks again."
                )
