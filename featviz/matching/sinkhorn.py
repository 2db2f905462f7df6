"""Sinkhorn re-basin (Peña et al. 2023): weight matching's permutations, refined through soft ones by gradient ascent.

two networks -> logits (n, n) per group -> soft permutations S -> sum over tensors of <A, S B>, raised by Adam for all groups
at once while the temperature falls -> permutations by assignment, and coordinate descent from there.

Over permutations the inner product orders as the distance |A - B'|^2 does. Over soft ones it is the better guide: with one
group free it is linear, so that its best point is a permutation, where the distance prefers a blur. The result is kept only if
its objective is above that of weight matching: this method never loses to its start.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from featviz.config import AlignConfig
from featviz.matching.assignment import Matching
from featviz.matching.doubly_stochastic import matrix, project, refuse_blocks, sinkhorn, softly_permuted
from featviz.matching.weights import Evidence, descend, match_weights, scored
from featviz.symmetry.groups import PermutationGroups

START = 0.1  # share of weight matching's permutation in the first soft one; the rest is spread over all units


def match_sinkhorn(
    model_a: nn.Module,
    model_b: nn.Module,
    groups: PermutationGroups,
    config: AlignConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Matching:
    """Match every group by the weights, through soft permutations.

    Args:
        config: weight matching's, and `soft_steps`, `soft_lr`, `soft_tau`.
        progress: called with (steps done, steps).

    Returns:
        The matching; `objectives` are those of weight matching's starts and, last, what the refinement reached.

    Raises:
        AlignmentError: a group has blocks, or the weights are not finite.
    """
    refuse_blocks(groups, "method 'sinkhorn'")
    start = match_weights(model_a, model_b, groups, config)
    evidence = Evidence(model_a, model_b, groups)
    logits = {
        group.name: (START * matrix(start.perms[group.name]) + (1 - START) / group.size).log().requires_grad_()
        for group in groups
    }
    first, last = config.soft_tau
    soft = {}
    if logits and config.soft_steps:
        adam = torch.optim.Adam(logits.values(), lr=config.soft_lr, maximize=True)
        for step in range(config.soft_steps):
            tau = first * (last / first) ** (step / max(1, config.soft_steps - 1))
            adam.zero_grad()
            soft = {name: sinkhorn(value / tau) for name, value in logits.items()}
            agreement(evidence, soft).backward()
            adam.step()
            if progress:
                progress(step + 1, config.soft_steps)
    perms = dict(start.perms) | project(soft)
    generator = np.random.default_rng([config.seed, config.restarts])
    perms = descend(evidence, groups.families(), perms, config, generator)
    reached, objective = evidence.objective(start.perms), evidence.objective(perms)
    best = perms if objective > reached else start.perms
    return scored(evidence, groups, best, (*start.objectives, objective))


def agreement(evidence: Evidence, soft: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum over tensors of <A, softly permuted B>."""
    total = torch.zeros((), dtype=torch.float64)
    for name, owners in evidence.groups_on.items():
        total = total + (evidence.a[name] * softly_permuted(evidence.b[name], name, owners, soft)).sum()
    return total
