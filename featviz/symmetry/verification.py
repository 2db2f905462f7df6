"""Prove permutation groups: permute each at random in float64 and compare the network's output.

A group that changes the function is bisected out, demoted to pinned, and reported: exact or refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from featviz.errors import AlignmentError
from featviz.symmetry.groups import Group, Index, PermutationGroups, Pinned
from featviz.symmetry.permute import permute_module, random_permutations
from featviz.tensors import named_tensors, tensors_of

TOLERANCE = 1e-9  # relative error in float64 above which a permutation changes the function


def verified(trial: nn.Module, inputs: tuple, found: PermutationGroups) -> PermutationGroups:
    """Leave out every group whose random permutation changes the network's output.

    Args:
        trial: a private copy of the network in float64; its constant vectors and norm statistics are randomised.
        inputs: the example's arguments in float64.
    """
    if not found.groups:
        return found
    randomise_constants(trial, torch.Generator().manual_seed(0))
    perms = random_permutations(found, np.random.default_rng(0))
    refused = {group.name for family in _wrong(trial, inputs, found.families(), perms) for group in family}
    if not refused:
        return found
    reason = "permuting it changes the output (found by verification)"
    pinned = [Pinned(a.parameter, a.axis, g.size, reason) for g in found if g.name in refused for a in g.axes]
    kept = found.keeping([number for number, group in enumerate(found) if group.name not in refused])
    return replace(kept, pinned=(*found.pinned, *pinned))


def randomise_constants(model: nn.Module, generator: torch.Generator) -> None:
    """Make every 1-d tensor vary along its axis, in place, so that a wrong permutation of it cannot hide."""
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            if not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            if (tensor == tensor.flatten()[0]).all() or name.endswith(("running_mean", "running_var")):
                noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(0.5 + noise if not name.endswith("running_mean") else noise - 0.5)


def _wrong(
    trial: nn.Module, inputs: tuple, families: list[tuple[Group, ...]], perms: Mapping[str, Index]
) -> list[tuple[Group, ...]]:
    """Bisect: the families of groups that change the output, each found alone."""
    subset = [group for family in families for group in family]
    if not families or relative_error(trial, inputs, subset, perms) <= TOLERANCE:
        return []
    if len(families) == 1:
        return families
    half = len(families) // 2
    found = _wrong(trial, inputs, families[:half], perms) + _wrong(trial, inputs, families[half:], perms)
    return found or families  # each half is right alone, not together: refuse them all


def relative_error(model: nn.Module, inputs: tuple, groups: Iterable[Group], perms: Mapping[str, Index]) -> float:
    """Largest change of any output under the permutations of some groups, over the output's largest value."""
    permuted = permute_module(model, groups, perms)  # first: a model may keep a state
    with torch.no_grad():
        before, after = tensors_of(model(*inputs)), tensors_of(permuted(*inputs))
    if any(not t.isfinite().all() for t in before):
        raise AlignmentError(
            "the network's output on the example input is not finite: check its weights and the example input."
        )
    errors = [
        float((b - a).abs().max() / b.abs().max().clamp_min(1e-300))
        for b, a in zip(before, after, strict=True)
        if b.numel() and b.is_floating_point()
    ]
    return max(errors, default=0.0)
