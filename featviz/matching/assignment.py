"""From similarities of units to permutations, with a score and a margin per unit: what all methods that permute B share.

similarity (n, n) of A's and B's units of every group -> the permutation of every group with the largest summed similarity.

The rule of families and blocks stands here. Most groups are a family of one, and any order of their units is allowed: a linear
assignment. Attention heads, and the blocks of a grouped convolution, can only be exchanged as wholes, in all groups of a family
alike, and units within their block: an inner assignment for every pair of blocks and an outer one over the sums of those.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from featviz.errors import AlignmentError
from featviz.symmetry.groups import Group, Index, PermutationGroups
from featviz.symmetry.permute import permutation_of_blocks

Floats = NDArray[np.float64]
Similarity = Callable[[Group], Floats]  # group -> (n, n), A's units in rows, B's in columns


@dataclass(frozen=True)
class Matching:
    """Per group: the permutation, `B'[i] = B[perm[i]]`; per unit its similarity to its partner (`scores`) and the lead of that
    similarity over the best other candidate (`margins`, negative where the assignment gave a better one to another unit).

    `objectives`: what each start of the method reached; the best start is the one kept.
    """

    perms: Mapping[str, Index]
    scores: Mapping[str, Floats]
    margins: Mapping[str, Floats]
    objectives: tuple[float, ...] = ()


def match_by_similarity(groups: PermutationGroups, similarity: Similarity) -> Matching:
    """The best permutation of every group under similarities that do not depend on the order of other groups.

    Raises:
        AlignmentError: a similarity is NaN or infinite.
    """
    perms = {}
    for family in groups.families():
        perms |= assign_family(family, {group.name: similarity(group) for group in groups_of_units(family)})
    return score_permutations(groups, perms, similarity)


def assign(similarity: NDArray[np.floating], group: str) -> Index:
    """The permutation with the largest summed similarity (linear assignment): row i of A gets column perm[i] of B.

    Args:
        similarity: (n, n), float32 or float64; sums are float64.

    Raises:
        AlignmentError: a similarity is NaN or infinite.
    """
    cost = np.negative(similarity, dtype=np.float64)
    if not np.isfinite(cost.sum()) and not np.isfinite(cost).all():
        raise AlignmentError(
            f"the units of group {group} cannot be compared: a similarity is not finite. "
            "Check both networks' weights, and the data, for NaN and infinities."
        )
    return linear_sum_assignment(cost)[1].astype(np.int64)


def groups_of_units(family: Sequence[Group]) -> list[Group]:
    """The groups of a family without the group of its blocks, which is named after the family."""
    return [group for group in family if group.name != group.family]


def block_order(perm: Index, blocks: int) -> Index:
    """(blocks,): which block of B stands at each block's place under the permutation of a group's units."""
    return perm.reshape(blocks, -1)[:, 0] // (len(perm) // blocks)


def assign_family(family: Sequence[Group], similarities: Mapping[str, Floats]) -> dict[str, Index]:
    """The best permutations of a family's groups, their blocks exchanged alike.

    Args:
        similarities: (n, n) of every group; the group of the blocks, which need own nothing, may be left out.
    """
    blocks = family[0].blocks
    given = [group.name for group in family if group.name in similarities]
    placed = assign_blocks([similarities[name] for name in given], blocks, family[0].name)
    perms = dict(zip(given, placed, strict=True))
    return {group.name: perms.get(group.name, block_order(placed[0], blocks)) for group in family}


def assign_blocks(similarities: Sequence[Floats], blocks: int, family: str) -> list[Index]:
    """Permutations of a family's groups, blocks exchanged alike: an inner assignment for every pair of blocks, summed over the
    groups, and an outer one over those sums. With one block it is one plain assignment for each group.

    Args:
        similarities: (n, n) for each group, n a multiple of `blocks`.
    """
    total = np.zeros((blocks, blocks))
    inner: list[dict[tuple[int, int], Index]] = []
    for similarity in similarities:
        size = len(similarity) // blocks
        parts = similarity.reshape(blocks, size, blocks, size).transpose(0, 2, 1, 3)
        found = {}
        for j, k in np.ndindex(blocks, blocks):
            order = found[j, k] = assign(parts[j, k], family)
            total[j, k] += parts[j, k][np.arange(size), order].sum()
        inner.append(found)
    outer = assign(total, family) if blocks > 1 else np.zeros(1, dtype=np.int64)
    return [
        permutation_of_blocks(outer, np.stack([found[j, k] for j, k in enumerate(outer.tolist())])) for found in inner
    ]


def scores_and_margins(similarity: Floats, perm: Index) -> tuple[Floats, Floats]:
    """Score (n,) and margin (n,) of an assignment under a similarity (n, n)."""
    rows = np.arange(len(perm))
    score = similarity[rows, perm].copy()
    others = similarity.copy()
    others[rows, perm] = -np.inf
    return score, score - others.max(1)


def score_permutations(
    groups: PermutationGroups,
    perms: Mapping[str, Index],
    similarity: Similarity,
    objectives: Iterable[float] | None = None,
) -> Matching:
    """A matching of these permutations. A block has the mean score and margin of its units.

    Args:
        similarity: in [-1, 1], by which units are scored; it is asked for every group but those of blocks.
        objectives: what the starts of the method reached; None: the sum of all scores.
    """
    found: dict[str, tuple[Floats, Floats]] = {}
    for family in groups.families():
        units = groups_of_units(family)
        own = {group.name: scores_and_margins(similarity(group), perms[group.name]) for group in units}
        if len(units) < len(family):
            parts = [[values.reshape(family[0].blocks, -1) for values in pair] for pair in own.values()]
            scores, margins = (np.concatenate(kind, axis=1).mean(1) for kind in zip(*parts, strict=True))
            found[family[0].name] = scores, margins
        found |= own
    scores, margins = ({name: pair[kind] for name, pair in found.items()} for kind in (0, 1))
    objectives = [sum(score.sum() for score in scores.values())] if objectives is None else objectives
    return Matching(perms, scores, margins, tuple(map(float, objectives)))


def check_permutations(groups: PermutationGroups, perms: Mapping[str, Index], method: str) -> dict[str, Index]:
    """The permutations as a method gave them, in the order of the groups, once each is known to be allowed.

    Raises:
        AlignmentError: a group has none, or one that is no permutation or takes blocks apart, naming the method and the group.
    """
    checked = {}
    for family in groups.families():
        orders = []
        for group in family:
            what = f"method {method!r} gave group {group.name}"
            if group.name not in perms:
                raise AlignmentError(f"{what} no permutation: return one for every group, {{group.name: perm}}.")
            perm = np.asarray(perms[group.name])
            if not np.array_equal(np.sort(perm, axis=None), np.arange(group.size)) or perm.ndim != 1:
                raise AlignmentError(f"{what} no permutation of {group.size} units: return every number below it once.")
            perm = perm.astype(np.int64)
            orders.append(block_order(perm, group.blocks))
            whole = np.repeat(orders[-1], group.size // group.blocks) == perm // (group.size // group.blocks)
            if not whole.all() or not np.array_equal(orders[0], orders[-1]):
                raise AlignmentError(
                    f"{what} a permutation that takes apart or exchanges otherwise its {group.blocks} blocks: use "
                    "assign_family for groups in blocks."
                )
            checked[group.name] = perm
    return {group.name: checked[group.name] for group in groups}
